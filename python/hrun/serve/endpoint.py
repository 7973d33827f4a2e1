"""The steps that every endpoint takes with a request and a response."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, cast

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from hrun.serve.admission import Ticket
from hrun.serve.errors import ApiError, ClientGone, anthropic_error, bad
from hrun.serve.schemas import loads
from hrun.serve.service import Service
from hrun.serve.sse import HEADERS, Stream, dumps, openai_error

_LARGE_BODY = 256 << 10  # from here on JSON is read beside the event loop


async def body_of(request: Request) -> Any:
    """The request's JSON."""
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        raise ApiError(
            415,
            f"the content type is '{kind[:80]}', expected application/json (curl needs -H 'Content-Type: application/json')",
        )
    service: Service = request.app.state.service
    parts: list[bytes] = []

    async def read() -> None:
        size = 0
        async for part in request.stream():
            size += len(part)
            if size > service.options.max_body_bytes:
                raise ApiError(
                    413, f"the body has more than {service.options.max_body_bytes} bytes"
                )
            parts.append(part)

    try:
        await asyncio.wait_for(read(), service.options.body_seconds)
    except ClientDisconnect:
        raise ClientGone from None
    except asyncio.TimeoutError:
        raise ApiError(
            408, f"the body did not come within {service.options.body_seconds:g} s", code="timeout"
        ) from None
    data = b"".join(parts)
    if not data:
        raise bad("the body is empty, expected a JSON object")
    return await service.in_thread(loads, data) if len(data) > _LARGE_BODY else loads(data)


def key_of(request: Request) -> str:
    """Returns the name of the API key that the client sent, "" without a key."""
    return str(request.scope.get("hrun_key", ""))


def json_response(
    value: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """JSON as it is, in UTF-8."""
    return Response(dumps(value), status, dict(headers or {}), media_type="application/json")


def error_response(path: str, error: ApiError) -> Response:
    """An error in the shape of the interface that the path belongs to."""
    body = error.body()
    if path.startswith("/v1/messages"):
        body = anthropic_error(error)
    elif path.startswith("/api/"):
        body = {"error": error.message}
    return json_response(body, error.status, error.headers)


def stream_response(
    service: Service,
    request: Request,
    texts: AsyncIterator[str],
    ticket: Ticket,
    close: Callable[[], None],
    *,
    on_error: Callable[[ApiError], str] = openai_error,
    ping: str = ": ping\n\n",
    headers: Mapping[str, str] = HEADERS,
) -> Response:
    """A stream that keeps the request's ticket until its end and frees the engine whatever happens."""
    ticket.keep()

    def end(how: str) -> None:
        close()
        ticket.leave()
        if how in ("gone", "slow"):
            service.metrics.disconnects.inc()
        request.scope["hrun_outcome"] = how

    stream: Any = Stream(
        texts,
        on_error=on_error,
        on_end=end,
        ping=ping,
        ping_seconds=service.options.ping_seconds,
        write_seconds=service.options.write_seconds,
        headers=headers,
    )
    return cast(Response, stream)
