"""POST /v1/responses, without memory: each request brings the whole conversation."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Mapping
from typing import Any

from pydantic import Field, StrictBool, StrictInt, StrictStr
from starlette.requests import Request
from starlette.responses import Response

from hrun.serve.answers import Answers
from hrun.serve.choice import Event
from hrun.serve.conversation import answers_of, converse
from hrun.serve.drawing import check_extra
from hrun.serve.endpoint import body_of, json_response, key_of, stream_response
from hrun.serve.errors import ApiError, bad
from hrun.serve.ids import new_id
from hrun.serve.schemas import Body, ChatRequest, Number, parsed
from hrun.serve.service import Service
from hrun.serve.sse import frame, unless_gone


class ResponsesRequest(Body):
    """A request as OpenAI's Responses interface takes it, as far as it needs no memory."""

    input: StrictStr | list[dict[str, Any]]
    instructions: StrictStr | None = None
    max_output_tokens: StrictInt | None = Field(None, ge=1)
    temperature: Number | None = None
    top_p: Number | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: StrictStr | dict[str, Any] | None = None
    parallel_tool_calls: StrictBool | None = None
    reasoning: dict[str, Any] | None = None
    text: dict[str, Any] | None = None
    stream: StrictBool | None = None
    previous_response_id: StrictStr | None = None
    conversation: Any = None
    background: StrictBool | None = None
    truncation: StrictStr | None = None
    store: StrictBool | None = None
    include: list[StrictStr] | None = None
    metadata: dict[str, Any] | None = None
    seed: StrictInt | None = None


async def responses(request: Request) -> Response:
    """Answers, as a whole or as a stream of events."""
    service: Service = request.app.state.service
    body = parsed(ResponsesRequest, await body_of(request))
    model = service.check_model(body.model)
    check_extra(service, body)
    if body.store:
        service.note_once("responses are not stored; 'store' is ignored")
    for name in ("previous_response_id", "conversation", "background"):
        if getattr(body, name):
            raise bad(f"{name} is not supported: nothing is stored here", param=name)
    chat = parsed(ChatRequest, _as_chat(body))
    with service.admission.enter(1, key_of(request)) as ticket:
        conversation = await unless_gone(request, converse(service, chat))
        answers = answers_of(service, conversation, chat, n=1, key=key_of(request))
        writer = _Writer(service, body, model, answers)
        if body.stream:
            return stream_response(
                service, request, writer.stream(), ticket, answers.close, on_error=writer.error
            )
        await unless_gone(request, answers.run())
        return json_response(writer.whole())


# ---- to a chat


def _as_chat(body: ResponsesRequest) -> dict[str, Any]:
    """The request as one of chat completions."""
    chat: dict[str, Any] = {
        "messages": _messages(body),
        "max_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "seed": body.seed,
        "user": body.user,
        "tool_choice": body.tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls,
        "tools": [_tool(i, tool) for i, tool in enumerate(body.tools)] if body.tools else None,
        "reasoning_effort": (body.reasoning or {}).get("effort"),
    }
    given = (body.text or {}).get("format")
    if isinstance(given, Mapping):
        kind = given.get("type")
        schema = {key: given[key] for key in ("name", "schema", "strict") if key in given}
        chat["response_format"] = (
            {"type": kind, "json_schema": schema} if kind == "json_schema" else dict(given)
        )
    return chat


def _tool(i: int, tool: dict[str, Any]) -> dict[str, Any]:
    if tool.get("type") != "function":
        raise bad(
            f"tools[{i}] is of type '{str(tool.get('type'))[:40]}'; this server calls functions only",
            param=f"tools[{i}]",
        )
    names = ("name", "description", "parameters", "strict")
    return {"type": "function", "function": {n: tool[n] for n in names if tool.get(n) is not None}}


def _messages(body: ResponsesRequest) -> list[dict[str, Any]]:
    out: list[dict[str, Any]] = []
    if body.instructions:
        out.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*out, {"role": "user", "content": body.input}]
    thought: str | None = None
    for i, item in enumerate(body.input):
        kind = item.get("type", "message")
        if kind == "message":
            message = {"role": item.get("role"), "content": _content(item.get("content"))}
            if message["role"] == "assistant" and thought:
                message["reasoning_content"], thought = thought, None
            out.append(message)
        elif kind == "function_call":
            if not (out and out[-1].get("role") == "assistant"):
                out.append({"role": "assistant", "content": None})
                if thought:
                    out[-1]["reasoning_content"], thought = thought, None
            function = {"name": item.get("name"), "arguments": item.get("arguments")}
            call = {"id": item.get("call_id"), "type": "function", "function": function}
            out[-1].setdefault("tool_calls", []).append(call)
        elif kind == "function_call_output":
            content = _content(item.get("output"))
            out.append({"role": "tool", "tool_call_id": item.get("call_id"), "content": content})
        elif kind == "reasoning":
            parts = item.get("content") or item.get("summary") or []
            texts = [p.get("text") for p in parts if isinstance(p, dict)]
            thought = "\n".join(t for t in texts if isinstance(t, str)) or None
        else:
            raise bad(f"input[{i}] is of type '{str(kind)[:40]}'", param=f"input[{i}]")
    return out


def _content(content: Any) -> Any:
    """Parts under the names that chats have for them."""
    if not isinstance(content, list):
        return content
    texts = ("input_text", "output_text", "text", "refusal")
    return [
        {"type": "text", "text": part.get("text", part.get("refusal", ""))}
        if isinstance(part, dict) and part.get("type") in texts
        else part
        for part in content
    ]


# ---- from an answer


class _Writer:
    """Puts the output items together and says so, event by event."""

    def __init__(self, service: Service, body: ResponsesRequest, model: str, answers: Answers):
        self._body = body
        self._answers = answers
        self._output: list[dict[str, Any]] = []
        self._n_events = 0
        self._head: dict[str, Any] = {
            "id": new_id("resp_"),
            "object": "response",
            "created_at": int(time.time()),
            "model": model,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "max_output_tokens": body.max_output_tokens,
            "previous_response_id": None,
            "reasoning": {"effort": (body.reasoning or {}).get("effort"), "summary": None},
            "store": False,
            "text": body.text or {"format": {"type": "text"}},
            "tool_choice": body.tool_choice or "auto",
            "tools": body.tools or [],
            "truncation": "disabled",
            "user": body.user,
            "system_fingerprint": service.fingerprint,
        }

    def _response(self, status: str) -> dict[str, Any]:
        out = self._head | {"status": status, "output": self._output, "usage": None}
        if status in ("completed", "incomplete"):
            usage = self._answers.usage()
            out["usage"] = {
                "input_tokens": usage["prompt_tokens"],
                "input_tokens_details": usage["prompt_tokens_details"] | {"cache_write_tokens": 0},
                "output_tokens": usage["completion_tokens"],
                "output_tokens_details": usage["completion_tokens_details"],
                "total_tokens": usage["total_tokens"],
            }
        if status == "incomplete":
            out["incomplete_details"] = {"reason": "max_output_tokens"}
        return out

    def _status(self) -> str:
        return "incomplete" if self._answers.choices[0].finish_reason == "length" else "completed"

    def whole(self) -> dict[str, Any]:
        """The response at once."""
        for event in self._answers.choices[0].events:
            self._add(event)
        self._close()
        return self._response(self._status())

    async def stream(self) -> AsyncIterator[str]:
        """Yields the answer event by event."""
        yield self._event("response.created", response=self._response("in_progress"))
        yield self._event("response.in_progress", response=self._response("in_progress"))
        async for _, delta in self._answers.deltas():
            for event in delta.events:
                for text in self._add(event):
                    yield text
        for text in self._close():
            yield text
        status = self._status()
        yield self._event(f"response.{status}", response=self._response(status))

    def error(self, error: ApiError) -> str:
        """The last events of a stream that failed."""
        fields = {"code": error.code, "message": error.message, "param": error.param}
        failed = self._response("failed")
        failed["error"] = {"code": error.code or error.type, "message": error.message}
        return self._event("error", **fields) + self._event("response.failed", response=failed)

    def _event(self, kind: str, **fields: Any) -> str:
        number = self._n_events
        self._n_events += 1
        return frame({"type": kind, "sequence_number": number} | fields, kind)

    def _add(self, event: Event) -> list[str]:
        """Puts a step of the answer where it belongs."""
        out: list[str] = []
        kinds = {"content": "message", "reasoning": "reasoning", "call": "function_call"}
        if event.kind != "arguments":
            open_kind = self._output[-1]["type"] if self._output else None
            if event.kind == "call" or open_kind != kinds[event.kind]:
                out += self._close()
                out += self._open(event)
        item = self._output[-1]
        at = {"item_id": item["id"], "output_index": len(self._output) - 1}
        if event.kind == "content":
            item["content"][0]["text"] += event.text
            out.append(
                self._event(
                    "response.output_text.delta",
                    **at,
                    content_index=0,
                    delta=event.text,
                    logprobs=[],
                )
            )
        elif event.kind == "reasoning":
            item["content"][0]["text"] += event.text
            out.append(
                self._event(
                    "response.reasoning_text.delta", **at, content_index=0, delta=event.text
                )
            )
        elif event.kind == "arguments":
            item["arguments"] += event.text
            out.append(
                self._event("response.function_call_arguments.delta", **at, delta=event.text)
            )
        return out

    def _open(self, event: Event) -> list[str]:
        item: dict[str, Any]
        part: dict[str, Any] | None = None
        if event.kind == "content":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
            item = {"id": new_id("msg_"), "type": "message", "role": "assistant", "content": []}
        elif event.kind == "reasoning":
            part = {"type": "reasoning_text", "text": ""}
            item = {"id": new_id("rs_"), "type": "reasoning", "summary": [], "content": []}
        else:
            item = {
                "id": new_id("fc_"),
                "type": "function_call",
                "call_id": event.id,
                "name": event.name,
                "arguments": "",
            }
        item["status"] = "in_progress"
        self._output.append(item)
        index = len(self._output) - 1
        out = [self._event("response.output_item.added", output_index=index, item=dict(item))]
        if part is not None:
            item["content"] = [part]
            at = {"item_id": item["id"], "output_index": index, "content_index": 0}
            out.append(self._event("response.content_part.added", **at, part=dict(part)))
        return out

    def _close(self) -> list[str]:
        """Ends the item that is open."""
        if not self._output or self._output[-1]["status"] != "in_progress":
            return []
        item = self._output[-1]
        item["status"] = "completed"
        index = len(self._output) - 1
        at = {"item_id": item["id"], "output_index": index}
        out = []
        if item["type"] == "function_call":
            out.append(
                self._event(
                    "response.function_call_arguments.done",
                    **at,
                    name=item["name"],
                    arguments=item["arguments"],
                )
            )
        else:
            part = item["content"][0]
            at["content_index"] = 0
            kind = "output_text" if item["type"] == "message" else "reasoning_text"
            more: dict[str, Any] = {"logprobs": []} if kind == "output_text" else {}
            out.append(self._event(f"response.{kind}.done", **at, text=part["text"], **more))
            out.append(self._event("response.content_part.done", **at, part=part))
        out.append(self._event("response.output_item.done", output_index=index, item=item))
        return out
