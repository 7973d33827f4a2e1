"""The served model: what every endpoint shares."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, partial
from typing import Any, TypeVar

from hrun.chat_template import ChatTemplate
from hrun.errors import printable
from hrun.runtime import Runtime
from hrun.serve.admission import Admission, draining
from hrun.serve.cluster.model import RemoteModel
from hrun.serve.engines import Engines, Flying, LocalEngine
from hrun.serve.errors import ApiError
from hrun.serve.flight import Ask
from hrun.serve.metrics import Metrics
from hrun.serve.options import Options
from hrun.serve.tools.dialect import Dialect
from hrun.serve.tools.tags import Tags

T = TypeVar("T")


class Service:
    """One model behind HTTP.  Lives in one event loop; closes the model with itself."""

    def __init__(
        self,
        runtime: Runtime | RemoteModel,
        options: Options,
        n_parallel: int,
        engines: Engines | None = None,
    ) -> None:
        """``engines``: the engines that compute, where they are not the Runtime's own."""
        self.runtime = runtime
        self.n_parallel = n_parallel
        if engines is None:
            assert isinstance(runtime, Runtime)
            engines = LocalEngine(runtime)
        self.engines: Engines = engines
        self.options = options
        self.admission = Admission(n_parallel, options.max_queue, options.max_per_key)
        self.metrics = Metrics(engines, self.admission, options.metrics_prefix)
        self.created = int(time.time())
        self.fingerprint = engines.fingerprint
        given = options.chat_template
        self.template = ChatTemplate(given) if given else None
        tokenizer = runtime.tokenizer
        self.chat_template = given or tokenizer.chat_template or ""
        self.dialect = Dialect(self.chat_template, options)
        self.control_ids = {
            token: i for i, token in enumerate(tokenizer.tokens) if tokenizer.is_control(i)
        }
        self.tags = Tags(self.control_ids)
        self.flights: dict[Flying, asyncio.TimerHandle] = {}
        # Texts and templates are read beside the event loop; more threads than this would wait for each other.
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="hrun-serve")
        self._noted: set[str] = set()
        self._last_step = (-1, time.monotonic())
        self.stalled = False

    # ---- names

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names by which requests may ask for the model; answers carry the first."""
        path = self.runtime.model_path
        own = [path.stem, path.name, self.runtime.name]
        return tuple(dict.fromkeys([*self.options.aliases, *own]))

    @property
    def name(self) -> str:
        """The name that answers carry."""
        return self.names[0]

    def check_model(self, model: str | None) -> str:
        """The name for the answer.  Raises ApiError 404 for a model that is not here."""
        asked = (model or "").removesuffix(":latest")  # as ollama's clients say
        if not asked or self.options.any_model or asked in self.names:
            return asked if asked in self.names else self.name
        raise ApiError(
            404,
            f"the model '{printable(asked)}' is not here; this server has '{self.name}' (--any-model answers to every name)",
            param="model",
            code="model_not_found",
        )

    # ---- work

    async def in_thread(self, function: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        """Runs what would hold the event loop up."""
        call = partial(function, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def fly(self, asks: list[Ask]) -> Flying:
        """The sequences in the engine, until :meth:`land`."""
        if self.admission.draining:
            raise draining()
        flight = self.engines.fly(asks)
        seconds = self.options.request_seconds
        loop = asyncio.get_running_loop()
        self.flights[flight] = loop.call_later(seconds, flight.end, too_long(seconds))
        return flight

    def land(self, flight: Flying) -> None:
        """Frees what the flight still holds."""
        deadline = self.flights.pop(flight, None)
        if deadline is not None:
            deadline.cancel()
        flight.close()

    def end_flights(self, error: ApiError) -> None:
        """Ends every flight, so that each reader of an answer meets the error."""
        for flight in list(self.flights):
            flight.end(error)

    def salt(self, key: str, asked: str | None) -> str:
        """Returns the salt that separates cached prompts.  Without it, one key could tell another
        key's prompts by the time that an answer takes.
        """
        own = key if len(self.options.api_keys) > 1 else ""
        if self.options.share_cache_across_keys:
            own = ""
        return f"{own}/{asked}" if asked else own

    def note_once(self, text: str) -> None:
        """A line for the log, once for each text."""
        if text not in self._noted and len(self._noted) < 1000:
            self._noted.add(text)
            log(f"note: {text}")

    def check_progress(self) -> None:
        """Called now and then: has the engine computed anything since the last time, if it had to?"""
        self.admission.n_parallel = self.n_parallel * max(self.engines.n_replicas, 1)
        stats = self.engines.stats()
        step, now = stats["n_steps"], time.monotonic()
        if step != self._last_step[0] or not stats["n_running"]:
            self._last_step = (step, now)
        self.stalled = now - self._last_step[1] > self.options.stall_seconds

    @property
    def ready(self) -> bool:
        """Does the server take requests?"""
        return not self.admission.draining

    def close(self) -> None:
        """Frees the model."""
        if self.template is not None:
            self.template.close()
        self._threads.shutdown(wait=False, cancel_futures=True)
        self.runtime.close()


def too_long(seconds: float) -> ApiError:
    """The request's time is over."""
    return ApiError(
        408,
        f"the request was not done after {seconds:g} s (--timeout)",
        code="timeout",
        headers={"x-should-retry": "false"},
    )


def log(text: str) -> None:
    """One line on stderr."""
    os.write(2, (printable(text, 2000) + "\n").encode())


def template_variables(options: Options, *given: Mapping[str, Any] | None) -> dict[str, Any]:
    """The server's variables of the chat template, and a request's before them."""
    now = time.localtime()
    # Templates that are not told the date write an old one.
    merged: dict[str, Any] = {
        "date_string": time.strftime("%d %b %Y", now),
        "datetime": time.strftime("%b %d %Y", now),
    }
    merged.update(options.template_variables)
    for each in given:
        merged.update(each or {})
    return merged
