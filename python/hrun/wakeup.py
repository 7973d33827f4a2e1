"""Lets an event loop wait for the steps of an engine."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping

from hrun._core import Engine


class Wakeup:
    """Wakes all who wait in one event loop for one engine, after each step."""

    def __init__(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        self._engine = engine
        self.loop = loop
        self._waiting: list[asyncio.Future[None]] = []
        self._fd = engine.make_wakeup()
        loop.add_reader(self._fd, self._on_step)

    def next_step(self) -> asyncio.Future[None]:
        """Returns a future that is done when the step under way has ended.  Ask first, then look,
        then wait.
        """
        future = self.loop.create_future()
        self._waiting.append(future)
        return future

    def close(self) -> None:
        """The engine is closed: nobody waits any more."""
        if self.loop.is_closed():
            return
        self.loop.call_soon_threadsafe(self._end)

    def _on_step(self) -> None:
        self._engine.drain(self._fd)
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    def _end(self) -> None:
        self.loop.remove_reader(self._fd)
        self._on_step()


def wakeup_of(engine: Engine, known: MutableMapping[int, Wakeup]) -> Wakeup:
    """The one of the running loop."""
    loop = asyncio.get_running_loop()
    wakeup = known.get(id(loop))
    if wakeup is None or wakeup.loop is not loop:
        wakeup = known[id(loop)] = Wakeup(engine, loop)
    return wakeup
