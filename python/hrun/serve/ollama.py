"""ollama's interface: /api/chat, generate, tags, show, ps and version; one JSON object a line, times in nanoseconds."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timezone
from typing import Any

from pydantic import StrictBool, StrictStr
from starlette.requests import Request
from starlette.responses import Response

import hrun
from hrun.serve.answers import Answers
from hrun.serve.chat import calls_of
from hrun.serve.choice import Event
from hrun.serve.conversation import answers_of, converse
from hrun.serve.drawing import check_extra
from hrun.serve.endpoint import body_of, json_response, key_of, stream_response
from hrun.serve.errors import bad
from hrun.serve.schemas import Body, ChatRequest, parsed
from hrun.serve.service import Service
from hrun.serve.sse import dumps, unless_gone

_HEADERS = {"Content-Type": "application/x-ndjson", "Cache-Control": "no-cache"}
# Names of options here -> those of chat completions.
_OPTIONS = {
    "temperature": "temperature", "top_k": "top_k", "top_p": "top_p", "min_p": "min_p", "seed": "seed", "stop": "stop",
    "num_predict": "max_tokens", "repeat_penalty": "repeat_penalty", "repeat_last_n": "repeat_last_n",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
}  # fmt: skip


class _Show(Body):
    """POST /api/show."""

    name: StrictStr | None = None


class OllamaRequest(Body):
    """The fields that /api/chat and /api/generate share."""

    stream: StrictBool = True
    options: dict[str, Any] | None = None
    format: StrictStr | dict[str, Any] | None = None
    think: StrictBool | StrictStr | None = None
    keep_alive: Any = None


class OllamaChat(OllamaRequest):
    """POST /api/chat."""

    messages: list[dict[str, Any]] = []
    tools: list[dict[str, Any]] | None = None


class OllamaGenerate(OllamaRequest):
    """POST /api/generate."""

    prompt: StrictStr = ""
    system: StrictStr | None = None
    suffix: StrictStr | None = None
    template: StrictStr | None = None
    raw: StrictBool = False
    context: Any = None


async def chat(request: Request) -> Response:
    """Answers a conversation."""
    service: Service = request.app.state.service
    body = parsed(OllamaChat, await body_of(request))
    fields = _fields(body) | {
        "messages": [_message(message) for message in body.messages],
        "tools": body.tools,
    }
    return await _answer(request, service, body, fields, _as_message)


async def generate(request: Request) -> Response:
    """Answers a prompt, through the model's template."""
    service: Service = request.app.state.service
    body = parsed(OllamaGenerate, await body_of(request))
    for name in ("suffix", "template", "raw", "context"):
        if getattr(body, name):
            raise bad(f"{name} is not supported here; /v1/completions continues plain text")
    messages = [{"role": "user", "content": body.prompt}]
    if body.system:
        messages.insert(0, {"role": "system", "content": body.system})
    return await _answer(
        request, service, body, _fields(body) | {"messages": messages}, _as_response
    )


async def _answer(
    request: Request,
    service: Service,
    body: OllamaRequest,
    fields: dict[str, Any],
    shape: Callable[[list[Event]], dict[str, Any]],
) -> Response:
    model = service.check_model(body.model)
    check_extra(service, body)
    chat_request = parsed(ChatRequest, fields)
    with service.admission.enter(1, key_of(request)) as ticket:
        conversation = await unless_gone(request, converse(service, chat_request))
        answers = answers_of(
            service, conversation, chat_request, n=1, key=key_of(request), clamp=True
        )
        if body.stream:
            return stream_response(
                service,
                request,
                _stream(model, answers, shape),
                ticket,
                answers.close,
                on_error=lambda error: dumps({"error": error.message}) + "\n",
                ping="",
                headers=_HEADERS,
            )
        await unless_gone(request, answers.run())
        return json_response(_head(model) | shape(answers.choices[0].events) | _end(answers))


async def _stream(
    model: str, answers: Answers, shape: Callable[[list[Event]], dict[str, Any]]
) -> AsyncIterator[str]:
    calls: list[Event] = []
    async for _, delta in answers.deltas():
        for event in delta.events:
            if event.kind in ("call", "arguments"):
                calls.append(event)
            else:
                yield dumps(_head(model) | shape([event]) | {"done": False}) + "\n"
    if calls:  # arguments are objects here, so they come when they are whole
        yield dumps(_head(model) | shape(calls) | {"done": False}) + "\n"
    yield dumps(_head(model) | shape([]) | _end(answers)) + "\n"


def _as_message(events: list[Event]) -> dict[str, Any]:
    message = {"role": "assistant", "content": _text(events, "content")}
    if thinking := _text(events, "reasoning"):
        message["thinking"] = thinking
    calls = []
    for call in calls_of(events):
        function = call["function"]
        try:
            arguments = json.loads(function["arguments"] or "{}")
        except ValueError:
            arguments = {"text": function["arguments"]}
        calls.append({"function": {"name": function["name"], "arguments": arguments}})
    return {"message": message | ({"tool_calls": calls} if calls else {})}


def _as_response(events: list[Event]) -> dict[str, Any]:
    out = {"response": _text(events, "content")}
    if thinking := _text(events, "reasoning"):
        out["thinking"] = thinking
    return out


def _text(events: list[Event], kind: str) -> str:
    return "".join(event.text for event in events if event.kind == kind)


def _head(model: str) -> dict[str, Any]:
    now = datetime.now(timezone.utc).isoformat(timespec="microseconds")
    return {"model": model, "created_at": now.replace("+00:00", "Z")}


def _end(answers: Answers) -> dict[str, Any]:
    timings = answers.timings()
    prompt, drawn = (int(1e6 * timings[name]) for name in ("prompt_ms", "predicted_ms"))
    return {
        "done": True,
        "done_reason": answers.choices[0].finish_reason,
        "total_duration": prompt + drawn,
        "load_duration": 0,
        "prompt_eval_count": answers.n_prompt,
        "prompt_eval_duration": prompt,
        "eval_count": answers.n_drawn,
        "eval_duration": drawn,
    }


def _fields(body: OllamaRequest) -> dict[str, Any]:
    options = body.options or {}
    fields = {
        ours: options[name] for name, ours in _OPTIONS.items() if options.get(name) is not None
    }
    if isinstance(limit := fields.get("max_tokens"), int) and limit < 0:
        del fields["max_tokens"]  # -1 and -2: no limit
    if body.think is not None:
        fields["chat_template_kwargs"] = {"enable_thinking": body.think is not False}
        if isinstance(body.think, str):
            fields["reasoning_effort"] = body.think
    if body.format == "json":
        fields["response_format"] = {"type": "json_object"}
    elif isinstance(body.format, dict):
        schema = {"name": "format", "schema": body.format}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif body.format:
        raise bad("format must be 'json' or a JSON schema", param="format")
    return fields


def _message(message: dict[str, Any]) -> dict[str, Any]:
    if message.get("images"):
        raise bad("images are not supported: hrun reads text only", param="messages")
    out = {key: value for key, value in message.items() if key != "images"}
    if isinstance(calls := out.get("tool_calls"), list):
        out["tool_calls"] = [
            {"type": "function", **call} if isinstance(call, dict) else call for call in calls
        ]
    return out


# ---- what is served


def _details(service: Service) -> dict[str, Any]:
    model = service.runtime.model
    return {
        "parent_model": "",
        "format": "gguf",
        "family": model.architecture,
        "families": [model.architecture],
        "parameter_size": f"{model.n_params / 1e6:.1f}M"
        if model.n_params < 1e9
        else f"{model.n_params / 1e9:.1f}B",
        "quantization_level": f"{service.runtime.bits_per_weight:.2f} bits per weight",
    }


def _entry(service: Service) -> dict[str, Any]:
    when = datetime.fromtimestamp(service.created, timezone.utc).isoformat()
    return {
        "name": service.name,
        "model": service.name,
        "modified_at": when,
        "size": service.runtime.model.bytes,
        "digest": service.fingerprint.removeprefix("fp_"),
        "details": _details(service),
    }


async def tags(request: Request) -> Response:
    """GET /api/tags: the one model."""
    return json_response({"models": [_entry(request.app.state.service)]})


async def show(request: Request) -> Response:
    """POST /api/show."""
    service: Service = request.app.state.service
    body = parsed(_Show, await body_of(request))
    service.check_model(body.model or body.name)
    model, dialect = service.runtime.model, service.dialect
    capabilities = ["completion"]
    if dialect.row is not None:
        capabilities.append("tools")
    if dialect.reasoning is not None:
        capabilities.append("thinking")
    family = model.architecture
    return json_response({
        "modelfile": "",
        "parameters": "",
        "template": service.chat_template,
        "details": _details(service),
        "model_info": {
            "general.architecture": family,
            "general.parameter_count": model.n_params,
            f"{family}.context_length": service.runtime.n_ctx,
            f"{family}.embedding_length": model.n_embd,
        },
        "capabilities": capabilities,
    })  # fmt: skip


async def ps(request: Request) -> Response:
    """GET /api/ps: it is loaded."""
    service: Service = request.app.state.service
    return json_response({"models": [_entry(service) | {"context_length": service.runtime.n_ctx}]})


async def version(request: Request) -> Response:
    """GET /api/version."""
    return json_response({"version": hrun.__version__})
