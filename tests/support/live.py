"""A server in a thread with a client for it, and an engine that says what a test tells it to."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("starlette", reason="needs the extra hrun[serve]")
pytest.importorskip("uvicorn", reason="needs the extra hrun[serve]")

from hrun import Runtime
from hrun.serve.options import Options
from hrun.serve.server import Server, bound_socket
from hrun.serve.service import Service

SECONDS = 60.0  # that a test waits for something that must come


def until(condition: Callable[[], Any], what: str = "a state") -> None:
    """Waits for a state, not for a time."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"{what} never came"
        time.sleep(0.005)


class Live:
    """A running server; ``with`` ends it.  The Runtime is closed with it unless it is kept."""

    def __init__(
        self,
        runtime: Any,
        n_parallel: int = 64,
        keep: bool = False,
        engines: Any = None,
        **options: Any,
    ):
        self._engines = engines
        self.options = Options(port=0, **options)
        self._socket = bound_socket("127.0.0.1", 0)
        self.port: int = self._socket.getsockname()[1]
        self.runtime = runtime
        self._n_parallel = n_parallel
        self._keep = keep
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        async def serve() -> None:
            self.loop = asyncio.get_running_loop()
            self.service = Service(self.runtime, self.options, self._n_parallel, self._engines)
            if self._keep:
                self.service.close = lambda: None  # type: ignore[method-assign]
            self.server = Server(self.service)
            task = asyncio.ensure_future(self.server.serve(sockets=[self._socket]))
            while not self.server.started and not task.done():
                await asyncio.sleep(0.005)
            self._started.set()
            await task

        asyncio.run(serve())

    def __enter__(self) -> Live:
        self._thread.start()
        assert self._started.wait(SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = self.server.force_exit = True
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()

    def drain(self) -> None:
        """Begins to drain, as the server does after the first signal."""
        self.loop.call_soon_threadsafe(self.server.begin_drain)

    # ---- client

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
    ) -> Reply:
        """One request; ``body`` is JSON unless it is bytes."""
        connection = self.connect()
        try:
            data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
            given = {"Content-Type": "application/json"} if data is not None else {}
            connection.request(method, path, data, given | (headers or {}))
            response = connection.getresponse()
            return Reply(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.ask("POST", path, body, headers)

    def chat(self, **body: Any) -> Reply:
        body.setdefault("messages", [{"role": "user", "content": "Hello"}])
        return self.post("/v1/chat/completions", body)

    @contextlib.contextmanager
    def open_stream(self, path: str, body: Any, **headers: str) -> Iterator[Stream]:
        """A request whose answer is read as it comes; leaving closes the connection."""
        connection = self.connect()
        connection.request(
            "POST", path, json.dumps(body), {"Content-Type": "application/json"} | headers
        )
        response = connection.getresponse()
        try:
            yield Stream(response, connection)
        finally:
            sock = connection.sock or (response.fp and response.fp.raw._sock)
            with contextlib.suppress(OSError):
                if sock:
                    sock.shutdown(socket.SHUT_RDWR)
            response.close()
            connection.close()

    def events(self, path: str, body: Any, **headers: str) -> list[Any]:
        """All events of a stream: JSON values, "[DONE]" as it is."""
        with self.open_stream(path, body, **headers) as stream:
            assert stream.response.status == 200, stream.response.read()
            return list(stream)

    def metric(self, name: str) -> float:
        for line in self.get("/metrics").text.splitlines():
            if line.split(" ")[0] == name:
                return float(line.split(" ")[1])
        raise AssertionError(f"no metric {name}")

    @property
    def stats(self) -> dict[str, Any]:
        return self.runtime.engine.stats()

    def idle(self) -> None:
        """Waits until nothing is left of any request."""
        until(
            lambda: (
                self.service.admission.n_requests == 0
                and not self.service.flights
                and self.stats["n_running"] == self.stats["n_waiting"] == 0
                and self.stats["n_pages_used"] == 0
            ),
            "an idle engine",
        )


class Reply:
    def __init__(self, status: int, headers: Any, data: bytes) -> None:
        self.status = status
        self.headers = headers
        self.data = data

    @property
    def text(self) -> str:
        return self.data.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    def ok(self) -> Any:
        """The JSON of a success."""
        assert self.status == 200, (self.status, self.text)
        return self.json

    def refused(self, status: int, code: str | None = None) -> str:
        """The message of an error in OpenAI's shape."""
        assert self.status == status, (self.status, self.text)
        error = self.json["error"]
        assert {"message", "type", "param", "code"} <= set(error)
        assert code is None or error["code"] == code, error
        return error["message"]


class Stream:
    """Server-sent events."""

    def __init__(self, response: http.client.HTTPResponse, connection: Any) -> None:
        self.response = response
        self.connection = connection
        self.names: list[str | None] = []
        self.comments = 0

    def __iter__(self) -> Iterator[Any]:
        name = None
        while line := self.response.readline():
            text = line.decode().rstrip("\n")
            if text.startswith(":"):
                self.comments += 1
            elif text.startswith("event: "):
                name = text[7:]
            elif text.startswith("data: "):
                self.names.append(name)
                name = None
                yield text[6:] if text[6:] == "[DONE]" else json.loads(text[6:])
            else:
                assert text == "", text


def text_of(chunks: Sequence[Any], field: str = "content", index: int = 0) -> str:
    """The joined text of a chat's stream."""
    return "".join(
        choice["delta"].get(field) or ""
        for chunk in chunks
        if chunk != "[DONE]"
        for choice in chunk["choices"]
        if choice["index"] == index
    )


class ScriptedHandle:
    def __init__(self, number: int, tokens: list[int], limit: int) -> None:
        self.id = number
        self.tokens = tokens[:limit]
        self.end = "stop" if len(tokens) < limit else "length"
        self.at = 0
        self.finished = False
        self.cancelled = False
        self.prompt_seconds = self.generate_seconds = 0.01
        self.n_cached = 0


class ScriptedEngine:
    """Takes the place of a Runtime's engine: each request to generate draws the tokens that
    ``script`` names.

    ``free`` False: tokens come by :meth:`step` only.
    """

    def __init__(self, runtime: Runtime, script: Callable[[list[int]], str | list[int]]) -> None:
        self.real = runtime.engine
        self.tokenizer = runtime.tokenizer
        self.script = script
        self.free = True
        self.allowed = 0
        self.handles: list[ScriptedHandle] = []
        self._numbers = itertools.count(1)
        runtime._engine = self  # type: ignore[assignment]

    def submit(self, prompt: list[int], **options: Any) -> Any:
        if options.get("kind", "generate") != "generate":
            return self.real.submit(prompt, **options)
        said = self.script(prompt)
        ids = self.tokenizer.encode(said, parse_special=True) if isinstance(said, str) else said
        handle = ScriptedHandle(next(self._numbers), ids, options["max_tokens"])
        self.handles.append(handle)
        self._wake()
        return handle

    def take(self, handle: Any, timeout: float = 0.0, all: bool = False) -> Any:
        if not isinstance(handle, ScriptedHandle):
            return self.real.take(handle, timeout, all)
        if handle.cancelled:
            return [], "cancelled"
        drawn = []
        if handle.at < len(handle.tokens) and (self.free or handle.at < self.allowed):
            drawn = [(handle.tokens[handle.at], -0.5, [])]
            handle.at += 1
        if handle.at == len(handle.tokens):
            handle.finished = True
        if self.free:
            self._wake()
        return drawn, handle.end if handle.finished else None

    def step(self, n: int = 1) -> None:
        """Draws n more tokens for everyone."""
        self.allowed += n
        self._wake()

    def cancel(self, handle: Any) -> None:
        if not isinstance(handle, ScriptedHandle):
            return self.real.cancel(handle)
        handle.cancelled = handle.finished = True
        self._wake()

    def _wake(self) -> None:
        for fd in self._fds:
            os.eventfd_write(fd, 1)

    _fds: list[int] = []

    def make_wakeup(self) -> int:
        fd = self.real.make_wakeup()
        self._fds = [*self._fds, fd]
        return fd

    def stats(self) -> dict[str, Any]:
        n = sum(not h.finished for h in self.handles)
        real = self.real.stats()
        return real | {"n_running": n, "n_steps": real["n_steps"] + self.allowed}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)
