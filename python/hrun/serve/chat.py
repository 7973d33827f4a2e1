"""POST /v1/chat/completions."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from hrun.generation import TokenLogprob
from hrun.serve.answers import Answers
from hrun.serve.choice import Choice, Delta, Event
from hrun.serve.conversation import Conversation, answers_of, converse
from hrun.serve.drawing import check_extra
from hrun.serve.endpoint import body_of, json_response, key_of, stream_response
from hrun.serve.errors import bad
from hrun.serve.ids import new_id
from hrun.serve.logprobs import chat_logprobs
from hrun.serve.schemas import ChatRequest, parsed
from hrun.serve.service import Service
from hrun.serve.sse import DONE, frame, unless_gone


async def chat_completions(request: Request) -> Response:
    """Answers a conversation, as a whole or as a stream."""
    service: Service = request.app.state.service
    body = parsed(ChatRequest, await body_of(request))
    model = service.check_model(body.model)
    check_extra(service, body)
    _check(service, body)
    with service.admission.enter(body.n or 1, key_of(request)) as ticket:
        conversation = await unless_gone(request, converse(service, body))
        answers = answers_of(service, conversation, body, n=body.n or 1, key=key_of(request))
        writer = _Writer(service, body, model, answers, conversation)
        if body.stream:
            return stream_response(service, request, writer.stream(), ticket, answers.close)
        await unless_gone(request, answers.run())
        return json_response(writer.whole())


def _check(service: Service, body: ChatRequest) -> None:
    if body.stream_options is not None and not body.stream:
        raise bad("stream_options is for streams", param="stream_options")
    if body.top_logprobs is not None and body.top_logprobs and not body.logprobs:
        raise bad("top_logprobs needs logprobs", param="top_logprobs")
    if (body.n or 1) > service.options.max_choices:
        raise bad(f"n is {body.n}, the server takes {service.options.max_choices}", param="n")
    for name in ("max_completion_tokens", "max_tokens"):
        if getattr(body, name) == 0:
            raise bad(f"{name} is 0, must be at least 1", param=name)


@dataclass
class _Part:
    """The part of one choice that has not been written yet."""

    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class _Writer:
    """The response, in OpenAI's shapes."""

    def __init__(
        self,
        service: Service,
        body: ChatRequest,
        model: str,
        answers: Answers,
        conversation: Conversation,
    ) -> None:
        self._service = service
        self._body = body
        self._answers = answers
        self._conversation = conversation
        self._fields = service.options.reasoning_field.split(",")
        self._head: dict[str, Any] = {
            "id": new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": int(time.time()),
            "model": model,
            "system_fingerprint": service.fingerprint,
        }

    def whole(self) -> dict[str, Any]:
        """The answer at once."""
        choices = [self._choice(i, c) for i, c in enumerate(self._answers.choices)]
        tail: dict[str, Any] = {"usage": self._answers.usage(), "timings": self._answers.timings()}
        if self._body.return_token_ids:
            tail["prompt_token_ids"] = self._conversation.prompt.ids
        return self._head | {"choices": choices} | tail

    def _choice(self, index: int, choice: Choice) -> dict[str, Any]:
        content = choice.text()
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        calls = calls_of(choice.events)
        if calls:
            message["content"] = content or None
            message["tool_calls"] = calls
        reasoning = choice.text("reasoning")
        if reasoning and self._body.include_reasoning:
            message |= dict.fromkeys(self._fields, reasoning)
        out: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": None,
            "finish_reason": finish_reason(choice),
        }
        if self._body.logprobs:
            tokenizer = self._service.runtime.tokenizer
            out["logprobs"] = chat_logprobs(tokenizer, choice.logprobs)
        if choice.stop_string is not None:
            out["stop_reason"] = choice.stop_string
        if self._body.return_token_ids:
            out["token_ids"] = choice.tokens
        return out

    async def stream(self) -> AsyncIterator[str]:
        """The answer as it comes."""
        body, answers = self._body, self._answers
        self._head["object"] = "chat.completion.chunk"
        options = body.stream_options
        with_usage = options is not None and options.include_usage
        parts = [_Part() for _ in answers.choices]
        try:
            for index, part in enumerate(parts):
                yield self._chunk(index, {"role": "assistant", "content": ""}, part, with_usage)
            async for index, delta in answers.deltas():
                for text in self._new(index, delta, parts[index], with_usage):
                    yield text
        finally:
            answers.close()
        if with_usage:
            tail = {"usage": answers.usage(), "timings": answers.timings()}
            yield frame(self._head | {"choices": []} | tail)
        yield DONE

    def _new(self, index: int, delta: Delta, part: _Part, with_usage: bool) -> list[str]:
        """Chunks of what is new of a choice."""
        choice = self._answers.choices[index]
        if self._body.logprobs:
            part.logprobs += delta.logprobs
        if self._body.return_token_ids:
            part.tokens += delta.tokens
        out = []
        for event in delta.events:
            fields = self._delta(event)
            if fields:
                out.append(self._chunk(index, fields, part, with_usage))
        if choice.finish_reason is not None:
            out.append(self._chunk(index, {}, part, with_usage, choice))
        return out

    def _delta(self, event: Event) -> dict[str, Any]:
        if event.kind == "content":
            return {"content": event.text}
        if event.kind == "reasoning":
            return dict.fromkeys(self._fields, event.text) if self._body.include_reasoning else {}
        call: dict[str, Any] = {"index": event.index}
        if event.kind == "call":
            call |= {"id": event.id, "type": "function"}
            call["function"] = {"name": event.name, "arguments": ""}
        else:
            call["function"] = {"arguments": event.text}
        return {"tool_calls": [call]}

    def _chunk(
        self,
        index: int,
        delta: dict[str, Any],
        part: _Part,
        with_usage: bool,
        finished: Choice | None = None,
    ) -> str:
        choice: dict[str, Any] = {
            "index": index,
            "delta": delta,
            "logprobs": None,
            "finish_reason": finish_reason(finished) if finished is not None else None,
        }
        if part.logprobs:
            choice["logprobs"] = chat_logprobs(self._service.runtime.tokenizer, part.logprobs)
            part.logprobs = []
        if part.tokens:
            choice["token_ids"], part.tokens = part.tokens, []
        if finished is not None and finished.stop_string is not None:
            choice["stop_reason"] = finished.stop_string
        out = self._head | {"choices": [choice]}
        if with_usage:
            out["usage"] = None
        options = self._body.stream_options
        if options is not None and options.continuous_usage_stats:
            out["usage"] = self._answers.usage()
        if finished is not None or (self._body.timings_per_token and "role" not in delta):
            out["timings"] = self._answers.timings()
        return frame(out)


def finish_reason(choice: Choice) -> str | None:
    """Returns the reason in OpenAI's words."""
    if choice.called and choice.finish_reason == "stop":
        return "tool_calls"
    return choice.finish_reason


def calls_of(events: list[Event]) -> list[dict[str, Any]]:
    """The tool calls of an answer, whole."""
    calls: dict[int, dict[str, Any]] = {}
    for event in events:
        if event.kind == "call":
            function = {"name": event.name, "arguments": ""}
            calls[event.index] = {"id": event.id, "type": "function", "function": function}
        elif event.kind == "arguments":
            calls[event.index]["function"]["arguments"] += event.text
    return [calls[index] for index in sorted(calls)]
