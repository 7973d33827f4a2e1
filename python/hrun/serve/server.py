"""uvicorn, and an end that lets answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator

import uvicorn

from hrun.serve.admission import draining
from hrun.serve.app import make_app
from hrun.serve.service import Service, log

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LAST_WORDS_SECONDS = 2.0  # for the last chunks of answers that were ended


class Server(uvicorn.Server):
    """Serves until the first signal, then drains: new requests are refused, answers finish, a second signal ends at once."""

    def __init__(self, service: Service) -> None:
        super().__init__(
            uvicorn.Config(
                make_app(service),
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=30,
                h11_max_incomplete_event_size=64 << 10,
                timeout_graceful_shutdown=3,
            )
        )
        self.service = service
        self.exit_signal: int | None = None
        self._drain: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Replaces uvicorn's handling of signals, which would cut streams off."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        try:
            yield
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)

    def _on_signal(self, number: int) -> None:
        if self.exit_signal is not None:
            self.should_exit = self.force_exit = True
            return
        self.exit_signal = number
        self.begin_drain()

    def begin_drain(self) -> None:
        """Refuses what is new, and exits when what runs is done, or its time is over."""
        self.service.admission.draining = True
        if self._drain is None:
            self._drain = asyncio.ensure_future(self._drained())

    async def _drained(self) -> None:
        service = self.service
        if service.admission.n_requests:
            log(f"hrun-serve: {service.admission.n_requests} requests finish, then this ends")
        await self._until_idle(service.options.drain_seconds)
        service.end_flights(draining())
        await self._until_idle(_LAST_WORDS_SECONDS)
        self.should_exit = True

    async def _until_idle(self, seconds: float) -> None:
        clock = asyncio.get_running_loop().time
        end = clock() + seconds
        while self.service.admission.n_requests and clock() < end and not self.force_exit:
            await asyncio.sleep(0.02)


def bound_socket(host: str, port: int) -> socket.socket:
    """A listening socket.  Raises OSError."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    made = socket.socket(family, kind, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(address)
        made.listen(2048)
        made.setblocking(False)
    except BaseException:
        made.close()
        raise
    return made
