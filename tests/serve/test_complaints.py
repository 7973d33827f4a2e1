"""Complaints of users of other servers, each with the test that it asks for."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from hrun import Runtime
from live import Live, ScriptedEngine, text_of

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]

# Complaint -> tests.  Without a file they are in this one.
COMPLAINTS = {
    "a second request interrupts the first": "two_clients_both_complete",
    "the client is gone and generation goes on": "test_limits.who_leaves_frees_the_sequence",
    "middleware hides that a client has gone": "test_limits.who_leaves_frees_the_sequence",
    "a disconnect leaks the cache": "test_limits.a_storm_of_clients_that_leave_frees_everything",
    "a long prompt freezes all others": "a_long_prompt_does_not_freeze_others",
    "/health hangs while the engine is busy": "test_limits.health_answers_while_a_long_prompt_is_read",
    "more requests than slots: an endless loop": "more_requests_than_are_computed_at_once",
    "overload kills the engine": "test_limits.a_full_queue_refuses_with_a_time",
    "what can never fit waits for ever": "test_limits.a_prompt_that_can_never_fit_is_refused_at_once",
    "preemption without a trace": "preemptions_are_counted_and_change_nothing",
    "the next turn of a chat is read from the start": "the_next_turn_of_a_chat_is_cached",
    "a cached prompt changes the answer": "a_cached_prompt_changes_nothing",
    "parallel slots give different texts": "test_determinism.the_text_is_the_same_under_any_load",
    "batch-invariant mode is not": "test_determinism.the_text_is_the_same_under_any_load",
    "parsers repeat or lose characters while streaming": "test_parsers.no_cut_changes_what_is_read",
    "an empty call swallows the next": "test_parsers.what_models_write",
    "malformed arguments in the history crash": "test_interfaces.history_with_any_arguments_is_taken",
    "a duplicate tag loses the call": "test_parsers.any_text_is_read_alike_however_it_is_cut",
    "a broken call is an error": "test_interfaces.a_broken_call_is_text_and_no_error",
    "a token crosses the tag that begins a grammar": "test_structured.the_grammar_of_a_family_takes_what_it_writes",
    "gpt-oss calls on the wrong channel": "test_parsers.what_models_write",
    "an unsupported schema fails without a reason": "test_structured.what_cannot_be_kept_is_refused_by_name",
    "a bad response_format kills the engine": "test_structured.what_cannot_be_kept_is_refused_by_name",
    "endless blanks in JSON": "json_has_few_blanks",
    "no log-probabilities of the prompt": "test_completions.echo_gives_the_prompts_logprobs_as_evaluation_harnesses_read_them",
    "bytes of tokens are wrong": "test_chat.logprobs_join_to_the_text",
    "broken characters between chunks": "test_chat.bytes_of_a_character_come_together",
    "usage is missing, finish_reason is empty": "test_chat.a_stream_is_exactly_as_clients_expect_it",
    "the prompt is cut without a word": "test_limits.a_prompt_that_can_never_fit_is_refused_at_once",
    "embeddings of a long text are an internal error": "test_completions.embeddings_are_the_librarys",
    "shutdown hangs on open streams": "test_limits.draining_finishes_what_runs_and_refuses_what_is_new",
    "keys lock the page's own parts out": "test_page.the_page_needs_no_key_and_can_be_left_out",
}  # fmt: skip


@pytest.mark.parametrize("complaint", COMPLAINTS)
def test_every_complaint_has_a_test(complaint: str) -> None:
    file, _, name = COMPLAINTS[complaint].rpartition(".")
    source = (Path(__file__).parent / f"{file or 'test_complaints'}.py").read_text()
    assert re.search(rf"^def test_{name}\(", source, re.MULTILINE)


def test_two_clients_both_complete(scripted: tuple[Live, ScriptedEngine]) -> None:
    live, engine = scripted
    engine.free = False
    body = {"messages": HELLO, "stream": True}
    with live.open_stream(CHAT, body) as one, live.open_stream(CHAT, body) as two:
        engine.step(4)
        engine.free = True
        engine.step()
        assert text_of(list(two)) == text_of(list(one)) == "Hello, world."


def test_more_requests_than_are_computed_at_once(serve_path: Path) -> None:
    with Live(Runtime(serve_path, n_parallel=2, n_threads=1), n_parallel=2) as live:
        done: list[int] = []

        def client(i: int) -> None:
            done.append(live.chat(max_tokens=5, seed=i).status)

        threads = [threading.Thread(target=client, args=(i,)) for i in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert done == [200] * 20
        live.idle()


def test_a_long_prompt_does_not_freeze_others(serve_path: Path) -> None:
    """Between two tokens of a stream, others' prompts get a bounded number of rows; no clock bounds
    them.
    """
    runtime = Runtime(serve_path, n_ctx=512, kv_tokens=2048, n_batch=32, n_threads=1)
    with Live(runtime) as live:
        body = {"messages": HELLO, "max_tokens": 120, "ignore_eos": True, "stream": True}
        with live.open_stream(CHAT, body) as stream:
            events = iter(stream)
            next(events)
            next(events)
            before = live.stats
            live.post("/v1/completions", {"prompt": [7] * 480, "max_tokens": 1}).ok()
            after = live.stats
            list(events)
        rows = after["n_prompt_rows"] - before["n_prompt_rows"]
        assert after["n_steps"] - before["n_steps"] >= rows / 32


def test_preemptions_are_counted_and_change_nothing(serve_path: Path) -> None:
    ids = [[i + 1] * 200 for i in range(4)]
    body = {"prompt": ids, "max_tokens": 250, "seed": 1, "ignore_eos": True}
    with Live(Runtime(serve_path, n_ctx=512, kv_tokens=512, n_threads=1)) as live:
        tight = live.post("/v1/completions", body).ok()
        assert live.metric("hrun:num_preemptions_total") == live.stats["n_preemptions"]
        live.idle()
    with Live(Runtime(serve_path, n_ctx=512, kv_tokens=4096, n_threads=1)) as live:
        wide = live.post("/v1/completions", body).ok()
    assert [c["text"] for c in tight["choices"]] == [c["text"] for c in wide["choices"]]


def test_the_next_turn_of_a_chat_is_cached(live: Live) -> None:
    messages = [{"role": "user", "content": "Tell me of the sea and the land"}]
    first = live.chat(messages=messages, max_tokens=20, temperature=0, ignore_eos=True).ok()
    said = first["choices"][0]["message"]["content"]
    messages += [{"role": "assistant", "content": said}, {"role": "user", "content": "And?"}]
    usage = live.chat(messages=messages, max_tokens=1).ok()["usage"]
    cached = usage["prompt_tokens_details"]["cached_tokens"]
    assert cached >= first["usage"]["prompt_tokens"] - 1


def test_a_cached_prompt_changes_nothing(live: Live) -> None:
    live.runtime.engine.clear_cache()
    body = {"prompt": "the sea and the land " * 5, "max_tokens": 20, "temperature": 0}
    body |= {"logprobs": 2, "ignore_eos": True}
    cold, warm = (live.post("/v1/completions", body).ok() for _ in range(2))
    assert warm["usage"]["prompt_tokens_details"]["cached_tokens"] > 0
    assert cold["choices"] == warm["choices"]


def test_json_has_few_blanks(live: Live) -> None:
    """Even a model that loves blanks writes few of them in JSON."""
    pytest.importorskip("llguidance", reason="needs the extra hrun[serve]")
    blanks = {str(live.runtime.tokenize(c)[0]): 100 for c in (" ", "\n", "\t")}
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}  # fmt: skip
    reply = live.chat(json_schema=schema, logit_bias=blanks, max_tokens=200).ok()
    (choice,) = reply["choices"]
    assert choice["finish_reason"] == "stop" and len(choice["message"]["content"]) < 80
