"""Tools, reasoning and the interfaces of Responses, Anthropic and ollama, with a model that says what the test wants."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from hrun import Runtime
from live import Live, ScriptedEngine, text_of

HELLO = [{"role": "user", "content": "Hello"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'
SAID = "<think>I wonder.</think>\n\nLet me look." + CALL
TEMPLATE = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>{{ c.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


@pytest.fixture(scope="module")
def server(tiny_model: Callable[..., Path]) -> Iterator[tuple[Live, ScriptedEngine]]:
    runtime = Runtime(tiny_model(chat_template=TEMPLATE, n_ctx=2048), n_threads=1)
    engine = ScriptedEngine(runtime, lambda prompt: SAID)
    with Live(runtime, aliases=("m",)) as live:
        yield live, engine


@pytest.fixture
def tools(server: tuple[Live, ScriptedEngine]) -> tuple[Live, ScriptedEngine]:
    server[1].script = lambda prompt: SAID
    return server


def test_a_tool_call(tools) -> None:
    live, _ = tools
    (choice,) = live.chat(tools=[WEATHER]).ok()["choices"]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] == "Let me look." and message["reasoning_content"] == "I wonder."
    (call,) = message["tool_calls"]
    assert call["type"] == "function" and call["id"].startswith("call_")
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Paris"}


def test_a_streamed_tool_call(tools) -> None:
    live, _ = tools
    body = {"messages": HELLO, "tools": [WEATHER], "stream": True}
    chunks = live.events("/v1/chat/completions", body)[:-1]
    assert text_of(chunks) == "Let me look."
    assert text_of(chunks, "reasoning_content") == "I wonder."
    deltas = [
        call for chunk in chunks for call in chunk["choices"][0]["delta"].get("tool_calls", [])
    ]
    assert deltas[0]["function"] == {"name": "get_weather", "arguments": ""} and deltas[0]["id"]
    assert all("id" not in d and "name" not in d["function"] for d in deltas[1:])
    arguments = "".join(d["function"]["arguments"] for d in deltas)
    assert json.loads(arguments) == {"city": "Paris"}
    assert chunks[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_without_tools_a_call_is_text(tools) -> None:
    live, _ = tools
    for fields in ({}, {"tools": [WEATHER], "tool_choice": "none"}):
        message = live.chat(**fields).ok()["choices"][0]["message"]
        assert "tool_calls" not in message and message["content"] == "Let me look." + CALL


def test_a_broken_call_is_text_and_no_error(tools) -> None:
    live, engine = tools
    before = live.metric("hrun:tool_call_parse_failures_total")
    engine.script = lambda prompt: "<tool_call>{nonsense}</tool_call>"
    (choice,) = live.chat(tools=[WEATHER]).ok()["choices"]
    assert choice["message"]["content"] == "<tool_call>{nonsense}</tool_call>"
    assert choice["finish_reason"] == "stop"
    assert live.metric("hrun:tool_call_parse_failures_total") == before + 1


@pytest.mark.parametrize("arguments", ['{"city": "Paris"}', "{broken", "", {"city": "Paris"}])
def test_history_with_any_arguments_is_taken(tools, arguments: Any) -> None:
    live, _ = tools
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
    messages = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "sunny"},
    ]
    live.chat(messages=messages, tools=[WEATHER]).ok()
    messages[1]["tool_calls"] = [{"function": 3}]
    live.chat(messages=messages).refused(400)


def test_tools_are_in_the_prompt_of_templates_that_know_none(live: Live) -> None:
    body = {"messages": HELLO, "tools": [WEATHER]}
    text = live.post("/apply-template", body).ok()["prompt"]
    assert "get_weather" in text and "<tool_call>" in text
    none = live.post("/apply-template", body | {"tool_choice": "none"}).ok()["prompt"]
    assert "get_weather" not in none


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools[0]"),
        ({"tools": [{"type": "function", "function": {"name": "bad name"}}]}, "tools[0]"),
        ({"tools": [WEATHER, WEATHER]}, "tools[1]"),
        ({"tools": [WEATHER] * 500}, "tools"),
        ({"tools": [WEATHER], "tool_choice": "perhaps"}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
    ],
)  # fmt: skip
def test_bad_tools_are_named(live: Live, fields: dict, param: str) -> None:
    reply = live.chat(**fields)
    reply.refused(400)
    assert reply.json["error"]["param"] == param


# ---- Responses


def test_responses(tools) -> None:
    live, _ = tools
    tool = {"type": "function", **WEATHER["function"]}
    answer = live.post("/v1/responses", {"input": "Hello", "tools": [tool]}).ok()
    assert answer["object"] == "response" and answer["status"] == "completed"
    thought, message, call = answer["output"]
    assert thought["type"] == "reasoning" and thought["content"][0]["text"] == "I wonder."
    assert message["content"][0]["text"] == "Let me look." and message["role"] == "assistant"
    assert call["type"] == "function_call" and json.loads(call["arguments"]) == {"city": "Paris"}
    assert answer["usage"]["total_tokens"] > answer["usage"]["output_tokens"] > 0
    again = [
        {"role": "user", "content": [{"type": "input_text", "text": "Hello"}]},
        *answer["output"],
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"},
    ]
    live.post("/v1/responses", {"input": again, "instructions": "Be kind.", "tools": [tool]}).ok()


def test_a_stream_of_responses(tools) -> None:
    live, _ = tools
    tool = {"type": "function", **WEATHER["function"]}
    body = {"input": "Hello", "tools": [tool], "stream": True}
    with live.open_stream("/v1/responses", body) as stream:
        events = list(stream)
        assert stream.names == [event["type"] for event in events]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    kinds = [event["type"] for event in events]
    assert kinds[:2] == ["response.created", "response.in_progress"]
    assert kinds[-1] == "response.completed"
    for kind in (
        "response.output_item.added", "response.content_part.added", "response.output_text.delta", "response.output_text.done",
        "response.content_part.done", "response.output_item.done", "response.reasoning_text.delta",
        "response.function_call_arguments.delta", "response.function_call_arguments.done",
    ):  # fmt: skip
        assert kind in kinds
    deltas = "".join(e["delta"] for e in events if e["type"] == "response.output_text.delta")
    assert deltas == "Let me look."
    done = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert done == events[-1]["response"]["output"]


def test_responses_without_memory(tools) -> None:
    live, _ = tools
    body = {"input": "Hello", "previous_response_id": "resp_1"}
    live.post("/v1/responses", body).refused(400)
    cut = live.post("/v1/responses", {"input": "Hello", "max_output_tokens": 3}).ok()
    assert cut["status"] == "incomplete"
    assert cut["incomplete_details"] == {"reason": "max_output_tokens"}


# ---- Anthropic


TOOL = {"name": "get_weather", "input_schema": WEATHER["function"]["parameters"]}


def test_messages(tools) -> None:
    live, engine = tools
    body = {"messages": HELLO, "max_tokens": 10**6, "tools": [TOOL], "system": "Be kind."}
    answer = live.post("/v1/messages", body).ok()
    assert answer["type"] == "message" and answer["stop_reason"] == "tool_use"
    thinking, text, call = answer["content"]
    assert thinking["thinking"] == "I wonder." and text["text"] == "Let me look."
    assert call["name"] == "get_weather" and call["input"] == {"city": "Paris"}
    assert set(answer["usage"]) >= {"input_tokens", "output_tokens", "cache_read_input_tokens"}
    result = {"type": "tool_result", "tool_use_id": call["id"], "content": [{"type": "text", "text": "sunny"}]}  # fmt: skip
    history = [
        *HELLO,
        {"role": "assistant", "content": answer["content"]},
        {"role": "user", "content": [result, {"type": "text", "text": "And?"}]},
    ]
    live.post("/v1/messages", body | {"messages": history}).ok()
    engine.script = lambda prompt: "one STOP"
    answer = live.post("/v1/messages", {"messages": HELLO, "max_tokens": 9, "stop_sequences": ["STOP"]})  # fmt: skip
    assert answer.ok()["stop_reason"] == "stop_sequence" and answer.json["stop_sequence"] == "STOP"


def test_a_stream_of_messages(tools) -> None:
    live, _ = tools
    body = {"messages": HELLO, "max_tokens": 500, "tools": [TOOL], "stream": True}
    with live.open_stream("/v1/messages", body) as stream:
        events = [event for event in stream if event["type"] != "ping"]
    kinds = [event["type"] for event in events]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    starts = [e["content_block"]["type"] for e in events if e["type"] == "content_block_start"]
    assert starts == ["thinking", "text", "tool_use"]
    assert kinds.count("content_block_stop") == 3
    text = "".join(
        e["delta"]["text"] for e in events if e.get("delta", {}).get("type") == "text_delta"
    )
    assert text == "Let me look."
    arguments = "".join(e["delta"].get("partial_json", "") for e in events if "delta" in e)
    assert json.loads(arguments) == {"city": "Paris"}
    assert events[-2]["delta"]["stop_reason"] == "tool_use"


def test_messages_count_and_refuse(tools) -> None:
    live, _ = tools
    n = live.post("/v1/messages/count_tokens", {"messages": HELLO}).ok()["input_tokens"]
    assert n == len(live.runtime.chat_prompt(HELLO, {"add_generation_prompt": True}).ids)
    for body in (
        {"messages": HELLO},
        {"messages": [], "max_tokens": 5},
        {"messages": [{"role": "system", "content": "x"}], "max_tokens": 5},
        {"messages": [{"role": "user", "content": [{"type": "image"}]}], "max_tokens": 5},
    ):
        reply = live.post("/v1/messages", body)
        assert reply.status == 400 and reply.json["type"] == "error"
        assert reply.json["error"]["type"] == "invalid_request_error"


# ---- ollama


def test_ollama(tools) -> None:
    live, _ = tools
    body = {"model": "m:latest", "messages": HELLO, "tools": [WEATHER], "stream": False}
    answer = live.post("/api/chat", body).ok()
    message = answer["message"]
    assert message["content"] == "Let me look." and message["thinking"] == "I wonder."
    assert message["tool_calls"] == [
        {"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}
    ]
    assert answer["done"] is True and answer["eval_count"] > 0 and answer["done_reason"] == "stop"
    reply = live.post("/api/chat", body | {"stream": True})
    assert reply.headers["content-type"] == "application/x-ndjson"
    lines = [json.loads(line) for line in reply.text.splitlines()]
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert "".join(line["message"]["content"] for line in lines) == "Let me look."
    again = live.post("/api/chat", body | {"messages": [*HELLO, message]})
    assert again.ok()["done"]
    said = live.post("/api/generate", {"prompt": "Hello", "options": {"num_predict": 3}}).text
    assert len(said.splitlines()) >= 1 and json.loads(said.splitlines()[-1])["eval_count"] == 3
    assert live.get("/api/tags").ok()["models"][0]["name"] == "m"
    assert "tools" in live.post("/api/show", {"model": "m"}).ok()["capabilities"]
    assert live.get("/api/version").ok()["version"]
    reply = live.post("/api/chat", {"model": "other", "messages": HELLO})
    assert reply.status == 404 and isinstance(reply.json["error"], str)
