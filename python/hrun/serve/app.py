"""The ASGI app: one list of routes, and what surrounds them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Scope

from hrun.serve import chat, completions, info, messages, ollama, responses, text, vectors
from hrun.serve.endpoint import error_response
from hrun.serve.errors import ApiError, ClientGone, api_error
from hrun.serve.middleware import Gate, Names, surrounded
from hrun.serve.page import page
from hrun.serve.service import Service, log

Endpoint = Callable[[Request], Awaitable[Response]]

POST: dict[str, Endpoint] = {
    "/v1/chat/completions": chat.chat_completions,
    "/chat/completions": chat.chat_completions,
    "/v1/completions": completions.completions,
    "/completions": completions.completions,
    "/v1/responses": responses.responses,
    "/responses": responses.responses,
    "/v1/messages": messages.messages,
    "/v1/messages/count_tokens": messages.count_tokens,
    "/api/chat": ollama.chat,
    "/api/generate": ollama.generate,
    "/api/show": ollama.show,
    "/v1/embeddings": vectors.embeddings,
    "/embeddings": vectors.embeddings,
    "/v1/rerank": vectors.rerank,
    "/v2/rerank": vectors.rerank,
    "/rerank": vectors.rerank,
    "/tokenize": text.tokenize,
    "/detokenize": text.detokenize,
    "/apply-template": text.apply_template,
    "/v1/chat/completions/input_tokens": text.input_tokens,
    "/chat/completions/input_tokens": text.input_tokens,
}
GET: dict[str, Endpoint] = {
    "/v1/models": info.models,
    "/models": info.models,
    "/v1/models/{id:path}": info.model,
    "/health": info.health,
    "/v1/health": info.health,
    "/ready": info.ready,
    "/version": info.version,
    "/props": info.props,
    "/slots": info.slots,
    "/metrics": info.metrics,
    "/api/tags": ollama.tags,
    "/api/ps": ollama.ps,
    "/api/version": ollama.version,
    "/tokenizer_info": text.tokenizer_info,
}
_WATCH_SECONDS = 1.0


def make_app(service: Service) -> ASGIApp:
    """The app of a service; its life span begins and ends with the server's."""
    get = GET | ({"/": page} if service.options.page else {})
    routes = [
        Route(path, _guarded(endpoint), methods=[method])
        for method, table in (("POST", POST), ("GET", get))
        for path, endpoint in table.items()
    ]
    app = Starlette(
        routes=routes,
        lifespan=partial(_lifespan, service),
        exception_handlers={HTTPException: _http_error, Exception: _other_error},
    )
    app.state.service = service
    return surrounded(
        app,
        [partial(Names, done=partial(_done, service)), partial(Gate, options=service.options)],
    )


def _guarded(endpoint: Endpoint) -> Endpoint:
    """Errors as responses, whatever is raised."""

    async def guarded(request: Request) -> Response:
        try:
            return await endpoint(request)
        except ClientGone:
            request.scope["hrun_outcome"] = "gone"
            request.app.state.service.metrics.disconnects.inc()
            return Response(status_code=499)
        except Exception as error:
            return error_response(request.url.path, api_error(error))

    return guarded


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: f"{request.url.path[:200]} is not here",
        405: f"{request.url.path[:200]} does not take {request.method}",
    }
    message = messages.get(error.status_code, str(error.detail))
    failed = ApiError(error.status_code, message, headers=dict(error.headers or {}))
    return error_response(request.url.path, failed)


async def _other_error(request: Request, error: Exception) -> Response:
    return error_response(request.url.path, api_error(error))


def _done(service: Service, scope: Scope, status: int, seconds: float) -> None:
    """Counts a request, and logs it where that was asked for."""
    path = scope["path"] if scope["path"] in POST or scope["path"] in GET else "other"
    service.metrics.http.labels(path, str(status)).inc()
    if path in POST:
        service.metrics.total.observe(seconds)
    if service.options.log_requests:
        outcome = scope.get("hrun_outcome", "done")
        log(
            f"{scope['method']} {scope['path']} {status} {outcome} {seconds:.3f}s {scope['hrun_id']}"
        )


@contextlib.asynccontextmanager
async def _lifespan(service: Service, app: Starlette) -> AsyncIterator[None]:
    async def watch() -> None:
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            service.check_progress()

    watcher = asyncio.ensure_future(watch())
    try:
        yield
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher
        service.close()
