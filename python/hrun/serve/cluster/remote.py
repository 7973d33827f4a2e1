"""The front's side of replicas: sequences that outlive the replica that computes them."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

import hrun.errors
from hrun._core import PageHasher
from hrun.errors import GenerationError
from hrun.generation import TokenLogprob
from hrun.grammar import Grammar, matcher_of
from hrun.masks import vocabulary_of
from hrun.serve.cluster.model import Facts, RemoteModel
from hrun.serve.cluster.replica import Batch
from hrun.serve.errors import ApiError
from hrun.serve.flight import Ask, Drawn

T = TypeVar("T")

_KEYS = 64  # pages of a prompt by which its replica is chosen: 4096 tokens
_UNREAD = 64  # messages that wait for a slow reader
_ATTEMPTS = 6  # attempts in a row without a token
_BACKOFF_SECONDS = 0.1  # doubled each time


class Lost(Exception):
    """The replica is gone, or going."""


class Caller(Protocol):
    """Sends requests to some replica.  Raises :class:`Lost` where it dies."""

    def generate(self, ask: Ask, keys: Sequence[bytes]) -> AsyncIterator[Batch]:
        """A sequence; closing the iterator cancels it."""

    async def call(self, method: str, *args: Any, keys: Sequence[bytes]) -> Any:
        """The result of another method."""

    @property
    def n_replicas(self) -> int:
        """The number of running replicas."""


@dataclass
class Course:
    """The costs of one sequence, as the front has seen them."""

    n_cached: int = 0
    start: float = 0.0
    first: float | None = None
    last: float = 0.0

    @property
    def prompt_seconds(self) -> float:
        """The seconds until the first token was drawn."""
        return self.first - self.start if self.first is not None else 0.0

    @property
    def generate_seconds(self) -> float:
        """The seconds from the first token to the last."""
        return self.last - self.first if self.first is not None else 0.0


class RemoteEngines:
    """All replicas of a model."""

    def __init__(self, caller: Caller, model: RemoteModel, facts: Facts) -> None:
        self.caller = caller
        self.fingerprint = facts.fingerprint
        self.n_pages = facts.n_pages
        self.n_moved = 0  # sequences that went on at another replica
        self.replicas: dict[str, dict[str, Any]] = {}  # their statistics, as of their last answers
        self._hasher = PageHasher()
        self._model = model
        self._facts = facts
        self._vocabulary: Any = None
        self._vocabulary_lock = threading.Lock()
        self._flights: set[RemoteFlight] = set()

    @property
    def n_replicas(self) -> int:
        """The number of running replicas."""
        return self.caller.n_replicas

    def fly(self, asks: list[Ask]) -> RemoteFlight:
        """Begins sequences."""
        flight = RemoteFlight(self, asks)
        self._flights.add(flight)
        return flight

    def landed(self, flight: RemoteFlight) -> None:
        """Notes that a flight needs nothing any more."""
        self._flights.discard(flight)

    def keys(self, ids: list[int], salt: str) -> list[bytes]:
        """Returns the keys of the full pages of a prompt, as the cache has them."""
        return self._hasher.chain(ids, salt, _KEYS)

    async def score(
        self, prompts: list[list[int]], top_logprobs: int, *, client: str, salt: str
    ) -> list[list[TokenLogprob]]:
        """Log-probabilities of each prompt's tokens from the second on."""
        keys = self.keys(prompts[0], salt)
        scores: list[list[TokenLogprob]] = await self._retried(
            "score", prompts, top_logprobs, client, salt, keys=keys
        )
        return scores

    async def embed(
        self, prompts: list[list[int]], pooling: str, *, client: str, salt: str
    ) -> list[np.ndarray]:
        """Pooled hidden states of each prompt."""
        keys = self.keys(prompts[0], salt)
        rows: list[np.ndarray] = await self._retried(
            "embed", prompts, pooling, client, salt, keys=keys
        )
        return rows

    async def _retried(self, method: str, *args: Any, keys: Sequence[bytes]) -> Any:
        for attempt in range(_ATTEMPTS):
            try:
                return await self.caller.call(method, *args, keys=keys)
            except Lost:
                await asyncio.sleep(_BACKOFF_SECONDS * 2**attempt)
        raise no_replica()

    def prepare(self, grammar: Grammar) -> None:
        """Compiles a grammar here, so that a request meets its errors before any replica does."""
        with self._vocabulary_lock:
            if self._vocabulary is None:
                self._vocabulary = vocabulary_of(self._model.tokenizer, self._model.n_vocab)
        matcher_of(grammar, self._vocabulary)

    def stats(self) -> dict[str, Any]:
        """Sums of what the replicas last said; what runs is counted here."""
        total: dict[str, Any] = dict.fromkeys(self._facts.stats, 0)
        for stats in self.replicas.values():
            for name in total:
                total[name] += stats[name]
        total["n_running"] = sum(flight.n_begun for flight in self._flights)
        total["n_waiting"] = sum(flight.n_open - flight.n_begun for flight in self._flights)
        return total


def no_replica() -> ApiError:
    """Returns the error for a model of which no replica answers."""
    return ApiError(
        503, "no replica of the model answers", code="unavailable", headers={"Retry-After": "5"}
    )


class RemoteFlight:
    """Sequences of one request, each at a replica, and at another where that one dies."""

    def __init__(self, engines: RemoteEngines, asks: Sequence[Ask]) -> None:
        self._engines = engines
        now = time.monotonic()
        self.handles = [Course(start=now) for _ in asks]
        self._news: asyncio.Queue[Drawn | BaseException] = asyncio.Queue(_UNREAD)
        self._open = dict(enumerate(asks))
        self._error: BaseException | None = None
        loop = asyncio.get_running_loop()
        self._tasks = {i: loop.create_task(self._follow(i, ask)) for i, ask in self._open.items()}

    @property
    def n_open(self) -> int:
        """Sequences that have not finished."""
        return len(self._open)

    @property
    def n_begun(self) -> int:
        """The number of unfinished sequences that have drawn a token."""
        return sum(self.handles[index].first is not None for index in self._open)

    async def drawn(self) -> AsyncIterator[Drawn]:
        """Yields the tokens of all sequences as they come, until all have finished."""
        while self._open:
            news = await self._news.get()
            if self._error is not None:
                raise self._error
            if isinstance(news, BaseException):
                raise news
            if news.index not in self._open:
                continue  # stopped meanwhile
            if news.finish is not None:
                self._open.pop(news.index)
            yield news

    def stop(self, index: int) -> None:
        """This sequence is not wanted any more."""
        self._open.pop(index, None)
        task = self._tasks.pop(index, None)
        if task is not None:
            task.cancel()

    def end(self, error: BaseException) -> None:
        """Ends all sequences; the reader of the answer meets the error."""
        if self._open:
            self._error = self._error or error
            self._cancel()
            if self._news.full():
                self._news.get_nowait()
            self._news.put_nowait(error)

    def close(self) -> None:
        """Frees what is still there."""
        self._open.clear()
        self._cancel()
        self._engines.landed(self)

    def _cancel(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    # ---- one sequence

    async def _follow(self, index: int, ask: Ask) -> None:
        try:
            await self._computed(index, ask)
        except Exception as error:
            await self._news.put(error)

    async def _computed(self, index: int, ask: Ask) -> None:
        """Computes an ask to its end, by as many replicas as it takes."""
        engines, course = self._engines, self.handles[index]
        drawn: list[int] = []
        attempt = n_lost = 0
        done = False
        while not done:
            rest = ask.after(drawn)
            if rest.max_tokens == 0:  # the replica went before it could say so
                await self._news.put(Drawn(index, [], "length"))
                return
            steps = engines.caller.generate(rest, engines.keys(rest.ids, rest.salt))
            try:
                async for batch in steps:
                    self._check(batch)
                    if batch.stats is not None:
                        engines.replicas[batch.replica] = batch.stats
                    if not n_lost:
                        course.n_cached = batch.n_cached
                    if batch.tokens:
                        attempt = 0
                        course.last = time.monotonic()
                        course.first = course.first or course.last
                        drawn += [token for token, _ in batch.tokens]
                    lost = batch.finish == "cancelled"  # not by us: it is being shut down
                    finish = None if lost else batch.finish
                    done = finish is not None
                    if done:  # only the end of the stream is left, and nobody waits for it
                        self._tasks.pop(index, None)
                    if batch.tokens or done:
                        await self._news.put(Drawn(index, list(batch.tokens), finish))
                    if lost:
                        raise Lost
                if not done:
                    raise Lost
            except Lost:
                if done:
                    return
                n_lost += 1
                attempt += 1
                engines.n_moved += 1
                if attempt > _ATTEMPTS:
                    raise no_replica() from None
                await asyncio.sleep(_BACKOFF_SECONDS * 2 ** (attempt - 1))
            finally:
                await _close(steps)

    def _check(self, batch: Batch) -> None:
        if batch.error is not None:
            name, text = batch.error
            kind: Callable[[str], BaseException] = getattr(hrun.errors, name, GenerationError)
            raise kind(text)
        if batch.fingerprint != self._engines.fingerprint:
            raise ApiError(
                503,
                f"a replica computes otherwise ({batch.fingerprint}) than the first one ({self._engines.fingerprint})",
                code="replicas_differ",
            )


async def _close(steps: AsyncIterator[Batch]) -> None:
    close: Any = getattr(steps, "aclose", None)
    if close is not None:
        await close()
