"""Responses that notice a client that has gone, and server-sent events."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive, Scope, Send

from hrun.serve.errors import ApiError, ClientGone, api_error

T = TypeVar("T")

HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}
DONE = "data: [DONE]\n\n"


def dumps(value: Any) -> str:
    """JSON on one line, characters as they are."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def frame(value: Any, event: str | None = None) -> str:
    """One server-sent event."""
    head = f"event: {event}\n" if event else ""
    return f"{head}data: {dumps(value)}\n\n"


def openai_error(error: ApiError) -> str:
    """An error in the middle of a stream; OpenAI's client raises it."""
    return frame(error.body()) + DONE


async def gone(receive: Receive) -> None:
    """Returns when the client has left.  Its request must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of the work; it is cancelled, and ClientGone raised, when the client leaves before."""
    task = asyncio.ensure_future(work)
    watcher = asyncio.ensure_future(gone(request.receive))
    try:
        await asyncio.wait({task, watcher}, return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        for each in (task, watcher):
            if not each.done():
                each.cancel()
        await asyncio.gather(task, watcher, return_exceptions=True)


class Stream:
    """An ASGI response that writes text as it comes, with a comment now and then while nothing does.

    A client that leaves, or reads nothing for ``write_seconds``, ends the iterator at once.
    """

    def __init__(
        self,
        texts: AsyncIterator[str],
        *,
        on_error: Callable[[ApiError], str] = openai_error,
        on_end: Callable[[str], None] = lambda how: None,
        ping: str = ": ping\n\n",
        ping_seconds: float = 15.0,
        write_seconds: float = 60.0,
        headers: Mapping[str, str] = HEADERS,
    ) -> None:
        self._texts = texts
        self._on_error = on_error
        self._on_end = on_end
        self._ping = ping
        self._ping_seconds = ping_seconds
        self._write_seconds = write_seconds
        self._headers = [(k.lower().encode(), v.encode()) for k, v in headers.items()]
        self._last = time.monotonic()  # something was written
        self._since: float | None = None  # the client has not taken what is being written
        self._lock = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves the response."""
        how = "gone"
        producer = asyncio.ensure_future(self._produce(send))
        watcher = asyncio.ensure_future(gone(receive))
        keeper = asyncio.ensure_future(self._keep(send))
        tasks = (producer, watcher, keeper)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            if producer.done():
                how = producer.result()
            elif keeper.done() and not watcher.done():
                how = "slow"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._on_end(how)

    async def _produce(self, send: Send) -> str:
        """Sends the texts and returns how the stream ended: done, error or gone."""
        how = "done"
        try:
            async with contextlib.aclosing(self._texts) as texts:  # type: ignore[type-var]
                try:
                    await send(
                        {"type": "http.response.start", "status": 200, "headers": self._headers}
                    )
                    async for text in texts:
                        await self._write(send, text)
                except OSError:
                    return "gone"
                except Exception as error:
                    how = "error"
                    await self._write(send, self._on_error(api_error(error)))
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        except OSError:
            return "gone"
        return how

    async def _write(self, send: Send, text: str) -> None:
        async with self._lock:
            self._since = time.monotonic()
            await send({"type": "http.response.body", "body": text.encode(), "more_body": True})
            self._since, self._last = None, time.monotonic()

    async def _keep(self, send: Send) -> None:
        """Pings while nothing comes; returns when the client has taken nothing for too long."""
        while True:
            if self._since is not None:
                left = self._since + self._write_seconds - time.monotonic()
                if left <= 0:
                    return
            else:
                left = self._last + self._ping_seconds - time.monotonic()
                if left <= 0 and self._ping and not await self._pinged(send):
                    return
            await asyncio.sleep(min(max(left, 0.01), self._write_seconds / 4, 1.0))

    async def _pinged(self, send: Send) -> bool:
        """Did the client take a ping?"""
        task = asyncio.ensure_future(self._write(send, self._ping))
        try:
            done, _ = await asyncio.wait({task}, timeout=self._write_seconds)
            return bool(done)
        finally:
            task.cancel()
