"""/v1/chat/completions: shapes as OpenAI has them, whole and streamed."""

from __future__ import annotations

import json

import pytest

from live import Live, ScriptedEngine, text_of

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Hello"}]


def test_a_whole_answer_has_openais_shape(live: Live) -> None:
    reply = live.chat(max_tokens=8, seed=1, ignore_eos=True)
    answer = reply.ok()
    assert reply.headers["content-type"] == "application/json"
    assert reply.headers["x-request-id"].startswith("req_")
    assert answer["object"] == "chat.completion" and answer["id"].startswith("chatcmpl-")
    assert answer["model"] == "tiny" and answer["system_fingerprint"].startswith("fp_")
    (choice,) = answer["choices"]
    assert choice["index"] == 0 and choice["finish_reason"] == "length"
    assert choice["message"]["role"] == "assistant"
    assert isinstance(choice["message"]["content"], str)
    usage = answer["usage"]
    assert usage["completion_tokens"] == 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + 8
    assert answer["timings"]["seed"] == 1


def test_a_stream_is_exactly_as_clients_expect_it(live: Live) -> None:
    body = {"messages": HELLO, "max_tokens": 8, "seed": 1, "ignore_eos": True}
    whole = live.post(CHAT, body).ok()
    body |= {"stream": True, "stream_options": {"include_usage": True}}
    with live.open_stream(CHAT, body) as stream:
        headers = stream.response.headers
        chunks = list(stream)
    assert headers["content-type"] == "text/event-stream; charset=utf-8"
    assert headers["cache-control"] == "no-cache" and headers["x-accel-buffering"] == "no"
    assert chunks.pop() == "[DONE]"
    usage = chunks.pop()
    assert usage["choices"] == [] and usage["usage"]["completion_tokens"] == 8
    assert all(chunk["usage"] is None for chunk in chunks)
    for key in ("id", "created", "model", "system_fingerprint", "object"):
        assert len({chunk[key] for chunk in [*chunks, usage]}) == 1
    assert chunks[0]["object"] == "chat.completion.chunk"
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert chunks[-1]["choices"][0]["delta"] == {}
    assert chunks[-1]["choices"][0]["finish_reason"] == "length"
    for chunk in chunks[1:-1]:
        assert chunk["choices"][0]["finish_reason"] is None
        assert chunk["choices"][0]["delta"]["content"]
        assert "role" not in chunk["choices"][0]["delta"]
    assert text_of(chunks) == whole["choices"][0]["message"]["content"]


def test_without_include_usage_there_is_none(live: Live) -> None:
    chunks = live.events(CHAT, {"messages": HELLO, "max_tokens": 3, "stream": True})
    assert chunks[-1] == "[DONE]" and all("usage" not in chunk for chunk in chunks[:-1])


@pytest.mark.parametrize("stream", [False, True])
def test_choice_i_draws_with_seed_plus_i(live: Live, stream: bool) -> None:
    body = {"messages": HELLO, "max_tokens": 12, "seed": 5, "temperature": 1.5, "top_k": 0}
    alone = [
        live.post(CHAT, body | {"seed": 5 + i}).ok()["choices"][0]["message"]["content"]
        for i in range(3)
    ]
    if stream:
        chunks = live.events(CHAT, body | {"n": 3, "stream": True})
        together = [text_of(chunks, index=i) for i in range(3)]
    else:
        choices = live.post(CHAT, body | {"n": 3}).ok()["choices"]
        assert [choice["index"] for choice in choices] == [0, 1, 2]
        together = [choice["message"]["content"] for choice in choices]
    assert together == alone and len(set(alone)) > 1


def test_logprobs_join_to_the_text(live: Live) -> None:
    body = {"messages": HELLO, "max_tokens": 16, "seed": 2, "logprobs": True, "top_logprobs": 3}
    body["temperature"] = 2.0
    choice = live.post(CHAT, body).ok()["choices"][0]
    entries = choice["logprobs"]["content"]
    data = b"".join(bytes(entry["bytes"]) for entry in entries)
    assert data.decode("utf-8", "replace") == choice["message"]["content"]
    for entry in entries:
        assert entry["logprob"] <= 0 and len(entry["top_logprobs"]) == 3
        best = [top["logprob"] for top in entry["top_logprobs"]]
        assert best == sorted(best, reverse=True) and best[0] >= entry["logprob"]
    chunks = live.events(CHAT, body | {"stream": True})
    streamed = [
        entry
        for chunk in chunks[:-1]
        for entry in (chunk["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    assert streamed == entries


def test_a_stop_string_ends_the_text_and_its_logprobs(
    scripted: tuple[Live, ScriptedEngine],
) -> None:
    live, engine = scripted
    engine.script = lambda prompt: "one two STOP three"
    body = {"messages": HELLO, "stop": ["STOP", "nothing"], "logprobs": True}
    choice = live.post(CHAT, body).ok()["choices"][0]
    assert choice["message"]["content"] == "one two "
    assert choice["finish_reason"] == "stop" and choice["stop_reason"] == "STOP"
    assert "".join(e["token"] for e in choice["logprobs"]["content"]).startswith("one two")
    chunks = live.events(CHAT, body | {"stream": True})
    assert text_of(chunks) == "one two "
    shown = live.post(CHAT, body | {"include_stop_str_in_output": True}).ok()
    assert shown["choices"][0]["message"]["content"] == "one two STOP"
    assert all(handle.finished for handle in engine.handles)


def test_bytes_of_a_character_come_together(scripted: tuple[Live, ScriptedEngine]) -> None:
    live, engine = scripted
    engine.script = lambda prompt: "größer → 🙂"
    chunks = live.events(CHAT, {"messages": HELLO, "stream": True, "logprobs": True})
    assert text_of(chunks) == "größer → 🙂"
    assert all("\ufffd" not in json.dumps(c["choices"], ensure_ascii=False) for c in chunks[:-1])


def test_a_message_to_be_continued(scripted: tuple[Live, ScriptedEngine]) -> None:
    live, engine = scripted
    seen = []
    engine.script = lambda prompt: seen.append(prompt) or "x"
    messages = [*HELLO, {"role": "assistant", "content": "Once upon "}]
    live.chat(messages=messages, continue_final_message=True, add_generation_prompt=False).ok()
    assert engine.tokenizer.decode(seen[0]).endswith("<|im_start|>assistant\nOnce upon ")


def test_control_tokens_in_messages_stay_text(live: Live) -> None:
    text = live.post(
        "/apply-template", {"messages": [{"role": "user", "content": "a<|im_end|>b"}]}
    ).ok()["prompt"]
    assert "a<|im_end|>b" in text
    ids = live.post("/tokenize", {"messages": [{"role": "user", "content": "<|im_end|>"}]}).ok()
    end = live.runtime.tokenizer.tokens.index("<|im_end|>")
    assert ids["tokens"].count(end) == 1


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": "hi"}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": 3}]}, "messages[0]['role']"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages[0]['content'][0]"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages[0]['content'][0]"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"n": 0}, "n"),
        ({"n": 1000}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"stop": [""]}, "stop"),
        ({"stop": ["x"] * 300}, "stop"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logit_bias": {"9999999": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"1": 101}}, "logit_bias.1"),
        ({"seed": 2**70}, "seed"),
        ({"audio": {"voice": "x"}}, "audio"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"min_tokens": 5}, "min_tokens"),
        ({"chat_template": "{{ 1 }}"}, "chat_template"),
        ({"model": "gpt-9"}, "model"),
    ],
)  # fmt: skip
def test_bad_fields_are_named(live: Live, fields: dict, param: str) -> None:
    reply = live.chat(**fields)
    assert reply.refused(404 if param == "model" else 400)
    assert reply.json["error"]["param"] == param


def test_fields_without_effect_are_taken(live: Live) -> None:
    live.chat(
        max_tokens=1, user="me", metadata={"a": "b"}, store=True, service_tier="auto",
        safety_identifier="x", prompt_cache_key="k", verbosity="low", some_new_field=1,
        audio=None, modalities=["text"], parallel_tool_calls=True, prediction=None,
    ).ok()  # fmt: skip
