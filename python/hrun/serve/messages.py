"""POST /v1/messages and /v1/messages/count_tokens, as Anthropic has them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from pydantic import Field, StrictBool, StrictInt, StrictStr
from starlette.requests import Request
from starlette.responses import Response

from hrun.serve.answers import Answers
from hrun.serve.choice import Event
from hrun.serve.conversation import answers_of, converse, read
from hrun.serve.drawing import check_extra
from hrun.serve.endpoint import body_of, json_response, key_of, stream_response
from hrun.serve.errors import anthropic_error, bad
from hrun.serve.ids import new_id
from hrun.serve.schemas import Body, ChatRequest, Number, parsed
from hrun.serve.service import Service
from hrun.serve.sse import frame, unless_gone

_STOP = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}


class MessagesRequest(Body):
    """A request as Anthropic's interface takes it."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: StrictInt | None = Field(None, ge=1)
    system: StrictStr | list[dict[str, Any]] | None = None
    stop_sequences: list[StrictStr] | None = None
    stream: StrictBool | None = None
    temperature: Number | None = None
    top_p: Number | None = None
    top_k: StrictInt | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    metadata: dict[str, Any] | None = None
    seed: StrictInt | None = None


async def messages(request: Request) -> Response:
    """Answers, as a whole or as a stream of events."""
    service: Service = request.app.state.service
    body = parsed(MessagesRequest, await body_of(request))
    model = service.check_model(body.model)
    check_extra(service, body)
    if body.max_tokens is None:
        raise bad("max_tokens is missing", param="max_tokens")
    chat = parsed(ChatRequest, _as_chat(body))
    with service.admission.enter(1, key_of(request)) as ticket:
        conversation = await unless_gone(request, converse(service, chat, _budget(body)))
        # These clients name the largest answer that any model gives.
        answers = answers_of(service, conversation, chat, n=1, key=key_of(request), clamp=True)
        writer = _Writer(model, answers)
        if body.stream:
            return stream_response(
                service,
                request,
                writer.stream(),
                ticket,
                answers.close,
                on_error=lambda error: frame(anthropic_error(error), "error"),
                ping=frame({"type": "ping"}, "ping"),
            )
        await unless_gone(request, answers.run())
        return json_response(writer.whole())


async def count_tokens(request: Request) -> Response:
    """Answers with the number of tokens in the prompt that the messages make."""
    service: Service = request.app.state.service
    body = parsed(MessagesRequest, await body_of(request))
    service.check_model(body.model)
    asked = await unless_gone(request, read(service, parsed(ChatRequest, _as_chat(body))))
    return json_response({"input_tokens": len(asked.prompt.ids)})


# ---- to a chat


def _as_chat(body: MessagesRequest) -> dict[str, Any]:
    """The request as one of chat completions."""
    choice = body.tool_choice or {}
    named = {"type": "function", "function": {"name": choice.get("name")}}
    choices: dict[Any, Any] = {None: None, "auto": "auto", "any": "required", "none": "none"}
    kind = choice.get("type")
    if kind != "tool" and kind not in choices:
        raise bad("tool_choice.type must be auto, any, tool or none", param="tool_choice")
    thinking = (body.thinking or {}).get("type")
    chat: dict[str, Any] = {
        "messages": _messages(body),
        "max_tokens": body.max_tokens,
        "stop": body.stop_sequences,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "top_k": body.top_k,
        "seed": body.seed,
        "user": str((body.metadata or {}).get("user_id") or "") or None,
        "tools": [_tool(i, tool) for i, tool in enumerate(body.tools)] if body.tools else None,
        "tool_choice": named if kind == "tool" else choices[kind],
        "parallel_tool_calls": not choice.get("disable_parallel_tool_use", False),
    }
    if thinking in ("enabled", "adaptive", "disabled"):
        chat["chat_template_kwargs"] = {"enable_thinking": thinking != "disabled"}
    return chat


def _budget(body: MessagesRequest) -> int | None:
    """Tokens of thoughts; clients send one to every model."""
    given = (body.thinking or {}).get("budget_tokens")
    return given if type(given) is int and 0 <= given < 1 << 30 else None


def _tool(i: int, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") not in (None, "custom"):
        raise bad(
            f"tools[{i}] is of type '{str(tool['type'])[:40]}', which runs at Anthropic's",
            param=f"tools[{i}]",
        )
    function = {"name": tool.get("name"), "parameters": tool.get("input_schema")}
    if tool.get("description"):
        function["description"] = tool["description"]
    return {"type": "function", "function": function}


def _messages(body: MessagesRequest) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    if body.system:
        out.append({"role": "system", "content": _texts(body.system, "system")})
    for i, message in enumerate(body.messages):
        role, content = message.get("role"), message.get("content")
        where = f"messages[{i}]"
        if role not in ("user", "assistant"):
            raise bad(f"{where}.role must be user or assistant", param=where)
        if isinstance(content, str):
            out.append({"role": role, "content": content})
        elif isinstance(content, list):
            out += _blocks(role, content, where)
        else:
            raise bad(f"{where}.content must be a text or a list of blocks", param=where)
    return out


def _blocks(role: str, blocks: list[Any], where: str) -> list[dict[str, Any]]:
    """One message; results of tools come before it as messages of their own."""
    results: list[dict[str, Any]] = []
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    for j, block in enumerate(blocks):
        kind = block.get("type") if isinstance(block, dict) else None
        if kind == "text" and isinstance(block.get("text"), str):
            texts.append(block["text"])
        elif kind == "thinking":
            thoughts.append(str(block.get("thinking", "")))
        elif kind == "redacted_thinking":
            continue
        elif kind == "tool_use":
            arguments = json.dumps(block.get("input") or {}, ensure_ascii=False)
            function = {"name": block.get("name"), "arguments": arguments}
            calls.append({"id": block.get("id"), "type": "function", "function": function})
        elif kind == "tool_result":
            text = _texts(block.get("content") or "", f"{where}.content[{j}]")
            if block.get("is_error"):
                text = f"Error: {text}"
            results.append(
                {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
            )
        else:
            raise bad(
                f"{where}.content[{j}] is of type '{str(kind)[:40]}'; hrun reads text only",
                param=f"{where}.content[{j}]",
            )
    if not (texts or calls or thoughts):
        return results
    message: dict[str, Any] = {"role": role, "content": "\n".join(texts)}
    if thoughts:
        message["reasoning_content"] = "\n".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    return [*results, message]


def _texts(content: Any, where: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for part in content if isinstance(content, list) else [content]:
        if not isinstance(part, dict) or part.get("type") != "text":
            raise bad(f"{where} must be text", param=where)
        texts.append(str(part.get("text", "")))
    return "\n".join(texts)


# ---- from an answer


class _Writer:
    """Puts the blocks together and says so, event by event."""

    def __init__(self, model: str, answers: Answers) -> None:
        self._answers = answers
        self._blocks: list[dict[str, Any]] = []
        self._json = ""  # of the call that is open
        self._open = False
        self._head: dict[str, Any] = {
            "id": new_id("msg_"),
            "type": "message",
            "role": "assistant",
            "model": model,
        }

    def _usage(self) -> dict[str, Any]:
        cached = self._answers.n_cached
        return {
            "input_tokens": self._answers.n_prompt - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": self._answers.n_drawn,
        }

    def _end(self) -> dict[str, Any]:
        choice = self._answers.choices[0]
        reason = _STOP[choice.finish_reason or "stop"]
        if choice.called and reason == "end_turn":
            reason = "tool_use"
        if choice.stop_string is not None:
            reason = "stop_sequence"
        return {"stop_reason": reason, "stop_sequence": choice.stop_string}

    def whole(self) -> dict[str, Any]:
        """The message at once."""
        for event in self._answers.choices[0].events:
            self._add(event)
        self._close()
        return self._head | {"content": self._blocks} | self._end() | {"usage": self._usage()}

    async def stream(self) -> AsyncIterator[str]:
        """Yields the answer event by event."""
        message = self._head | {"content": [], "stop_reason": None, "stop_sequence": None}
        message["usage"] = self._usage() | {"output_tokens": 0}
        yield _event("message_start", message=message)
        async for _, delta in self._answers.deltas():
            for event in delta.events:
                for text in self._add(event):
                    yield text
        for text in self._close():
            yield text
        yield _event("message_delta", delta=self._end(), usage=self._usage())
        yield _event("message_stop")

    def _add(self, event: Event) -> list[str]:
        out: list[str] = []
        kinds = {"content": "text", "reasoning": "thinking", "call": "tool_use"}
        if event.kind != "arguments":
            kind = kinds[event.kind]
            if kind == "tool_use" or not self._open or self._blocks[-1]["type"] != kind:
                out += self._close()
                block: dict[str, Any] = {"type": kind}
                if kind == "tool_use":
                    block |= {"id": event.id, "name": event.name, "input": {}}
                else:
                    block[kind] = ""
                if kind == "thinking":
                    block["signature"] = ""
                self._blocks.append(block)
                self._open, self._json = True, ""
                out.append(self._at("content_block_start", content_block=dict(block)))
        block = self._blocks[-1]
        if event.kind == "content":
            block["text"] += event.text
            delta = {"type": "text_delta", "text": event.text}
        elif event.kind == "reasoning":
            block["thinking"] += event.text
            delta = {"type": "thinking_delta", "thinking": event.text}
        elif event.kind == "arguments":
            self._json += event.text
            delta = {"type": "input_json_delta", "partial_json": event.text}
        else:
            return out
        return [*out, self._at("content_block_delta", delta=delta)]

    def _close(self) -> list[str]:
        if not self._open:
            return []
        self._open = False
        block = self._blocks[-1]
        if block["type"] == "tool_use":
            try:
                block["input"] = json.loads(self._json or "{}")
            except ValueError:  # wrong JSON from a model is no reason to fail
                block["input"] = {"text": self._json}
        return [self._at("content_block_stop")]

    def _at(self, kind: str, **fields: Any) -> str:
        return _event(kind, index=len(self._blocks) - 1, **fields)


def _event(kind: str, **fields: Any) -> str:
    return frame({"type": kind} | fields, kind)
