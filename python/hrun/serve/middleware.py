"""Layers around every request, as plain ASGI: no layer may hide that a client has gone."""

from __future__ import annotations

import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hrun.serve.endpoint import error_response
from hrun.serve.errors import ApiError
from hrun.serve.ids import new_id
from hrun.serve.options import LOOPBACK, Options, is_loopback

_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")
_HARMLESS = frozenset({"GET", "HEAD", "OPTIONS"})
# These paths may be seen without a key.
_PUBLIC = frozenset({"/health", "/v1/health", "/ready", "/", "/favicon.ico"})


class Names:
    """Gives each request an id, which answers carry, and tells ``done`` how it ended."""

    def __init__(self, app: ASGIApp, done: Callable[[Scope, int, float], None]) -> None:
        self._app = app
        self._done = done

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        scope["hrun_id"] = given if _REQUEST_ID.fullmatch(given) else new_id("req_")
        start, status = time.monotonic(), 0

        async def named(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = scope["hrun_id"]
            await send(message)

        try:
            await self._app(scope, receive, named)
        finally:
            self._done(scope, status, time.monotonic() - start)


class Gate:
    """Hosts, origins and keys: who may ask at all."""

    def __init__(self, app: ASGIApp, options: Options) -> None:
        self._app = app
        self._options = options
        self._keys = {_digest(key): key_name(key) for key in options.api_keys}
        self._public = _PUBLIC | ({"/metrics"} if options.public_metrics else frozenset())
        hosts = {*LOOPBACK, options.host, *options.allowed_hosts}
        checks = options.check_host and (is_loopback(options.host) or options.allowed_hosts)
        self._hosts = hosts if checks else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the request, or says why not."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        origin = headers.get("origin")
        allowed = origin is not None and self._allows(origin, headers)
        try:
            self._check_host(headers)
            # A page of another site must not use the model, even where it could not read the answer.
            if origin is not None and not allowed and scope["method"] not in _HARMLESS:
                raise ApiError(
                    403,
                    f"the origin {origin[:200]} is not allowed (--cors-origins)",
                    code="origin_not_allowed",
                )
            if scope["method"] == "OPTIONS":
                return await _preflight(headers)(scope, receive, _with_cors(send, origin, allowed))
            self._check_key(scope, headers)
        except ApiError as error:
            response = error_response(scope["path"], error)
            return await response(scope, receive, _with_cors(send, origin, allowed))
        await self._app(scope, receive, _with_cors(send, origin, allowed))

    def _allows(self, origin: str, headers: Headers) -> bool:
        allowed = self._options.cors_origins
        if origin in allowed or "*" in allowed:
            return True
        if "localhost" in allowed and urlsplit(origin).hostname in LOOPBACK:
            return True  # at any port
        return urlsplit(origin).netloc.lower() == headers.get("host", "").lower() != ""

    def _check_host(self, headers: Headers) -> None:
        """A name of another site that leads to this machine (DNS rebinding) is refused."""
        if self._hosts is None:
            return
        host = _host_name(headers.get("host", ""))
        if host not in self._hosts:
            raise ApiError(
                403,
                f"the host '{host[:100]}' is not allowed (--allowed-hosts)",
                code="host_not_allowed",
            )

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if not self._keys:
            return
        given = headers.get("authorization", "")
        key = given[7:].strip() if given[:7].lower() == "bearer " else headers.get("x-api-key", "")
        asked, found = _digest(key), None
        for digest, name in self._keys.items():  # all of them, whatever is found
            if hmac.compare_digest(digest, asked):
                found = name
        if found is not None:
            scope["hrun_key"] = found
        elif scope["path"] not in self._public:
            raise ApiError(
                401,
                "a valid API key is needed, as 'Authorization: Bearer KEY'",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )


def key_name(key: str) -> str:
    """Returns the name that stands for a key inside the server."""
    return hashlib.blake2b(key.encode(), digest_size=8).hexdigest()


def _digest(key: str) -> bytes:
    return hashlib.blake2b(key.encode("utf-8", "surrogateescape"), digest_size=32).digest()


def _host_name(host: str) -> str:
    """Returns the name of a host without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower().rstrip(".")


def _preflight(headers: Headers) -> ASGIApp:
    asked = headers.get("access-control-request-headers", "authorization, content-type")
    answer = {
        "Access-Control-Allow-Methods": "GET, POST, OPTIONS",
        "Access-Control-Allow-Headers": asked
        if len(asked) < 2000
        else "authorization, content-type",
        "Access-Control-Max-Age": "600",
    }
    return Response(None, 200, answer)


def _with_cors(send: Send, origin: str | None, allowed: bool) -> Send:
    """Adds what lets a page of an allowed origin read the answer."""
    if origin is None or not allowed:
        return send

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Access-Control-Allow-Origin"] = origin
            headers.add_vary_header("Origin")
            headers["Access-Control-Expose-Headers"] = "x-request-id, retry-after"
        await send(message)

    return sending


def surrounded(app: ASGIApp, layers: Iterable[Callable[[ASGIApp], ASGIApp]]) -> ASGIApp:
    """The app inside the layers, the first outermost."""
    for layer in reversed(list(layers)):
        app = layer(app)
    return app
