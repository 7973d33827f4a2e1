"""One engine of several: what Ray Serve starts on a machine.  It draws tokens; texts are the front's."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import numpy as np

import hrun
from hrun.generation import TokenLogprob
from hrun.serve.cluster.model import Facts, facts_of
from hrun.serve.engines import LocalEngine
from hrun.serve.flight import Ask, Flight

# Every message costs both sides more than a token of a small model: after the first token they travel together.
_MESSAGE_SECONDS = 0.02
_UNREAD = 256  # tokens that are drawn meanwhile at most


@dataclass(frozen=True)
class Batch:
    """The tokens of one sequence that have come since the last message."""

    replica: str
    fingerprint: str
    tokens: Sequence[tuple[int, TokenLogprob | None]] = ()
    finish: str | None = None
    n_cached: int = 0
    stats: dict[str, Any] | None = None  # of the replica, with the last message
    error: tuple[str, str] | None = None  # the name of an hrun error, and what it says


class Replica:
    """A Runtime for requests that other processes send."""

    def __init__(
        self, model_path: str, settings: dict[str, Any], stall_seconds: float, name: str = ""
    ) -> None:
        """``settings``: the Runtime's parameters."""
        self._name = name or _own_name()
        self._runtime = hrun.Runtime(model_path, **settings)
        self._engine = LocalEngine(self._runtime)
        self._stall_seconds = stall_seconds
        self._last_step = (-1, time.monotonic())

    async def facts(self) -> Facts:
        """Returns the facts about the model that the front needs."""
        return facts_of(self._runtime, self._engine.fingerprint)

    async def generate(self, ask: Ask, keys: Sequence[bytes] = ()) -> AsyncIterator[Batch]:
        """The tokens of one sequence as they come.  ``keys`` are for the router."""
        flight: Flight | None = None
        try:
            if ask.grammar is not None:
                await asyncio.to_thread(self._engine.prepare, ask.grammar)
            flight = Flight(self._runtime, [ask], _UNREAD)
            async with aclosing(flight.drawn()) as steps:  # type: ignore[type-var]
                async for drawn in steps:
                    start = time.monotonic()
                    ended = drawn.finish is not None
                    yield Batch(
                        self._name,
                        self._engine.fingerprint,
                        drawn.tokens,
                        drawn.finish,
                        flight.handles[0].n_cached,
                        self._engine.stats() if ended else None,
                    )
                    if not ended:
                        spent = time.monotonic() - start
                        await asyncio.sleep(max(_MESSAGE_SECONDS - spent, 0.0))
        except hrun.Error as error:
            yield Batch(
                self._name, self._engine.fingerprint, error=(type(error).__name__, str(error))
            )
        finally:
            if flight is not None:
                flight.close()

    async def score(
        self,
        prompts: list[list[int]],
        top_logprobs: int,
        client: str,
        salt: str,
        keys: Sequence[bytes] = (),
    ) -> list[list[TokenLogprob]]:
        """Log-probabilities of each prompt's tokens from the second on."""
        return await self._engine.score(prompts, top_logprobs, client=client, salt=salt)

    async def embed(
        self,
        prompts: list[list[int]],
        pooling: str,
        client: str,
        salt: str,
        keys: Sequence[bytes] = (),
    ) -> list[np.ndarray]:
        """Pooled hidden states of each prompt."""
        return await self._engine.embed(prompts, pooling, client=client, salt=salt)

    async def check_health(self) -> None:
        """Asked by Ray now and then; a replica that raises is replaced."""
        stats = self._engine.stats()
        step, now = stats["n_steps"], time.monotonic()
        if step != self._last_step[0] or not stats["n_running"]:
            self._last_step = (step, now)
        if now - self._last_step[1] > self._stall_seconds:
            raise RuntimeError("the engine has computed nothing for a while")


def _own_name() -> str:
    from ray import serve

    return str(serve.get_replica_context().replica_id.unique_id)
