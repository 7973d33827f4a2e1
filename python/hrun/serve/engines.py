"""The interface of the engines that compute for a server: the engine of this process is here,
replicas elsewhere are in :mod:`hrun.serve.cluster`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, Protocol

import numpy as np

from hrun.embeddings import embed
from hrun.generation import TokenLogprob
from hrun.grammar import Grammar
from hrun.runtime import Runtime
from hrun.serve.errors import ApiError
from hrun.serve.fingerprint import fingerprint
from hrun.serve.flight import Ask, Drawn, Flight, finished


class Costs(Protocol):
    """The costs of one sequence."""

    @property
    def prompt_seconds(self) -> float:
        """The seconds until the first token was drawn."""

    @property
    def generate_seconds(self) -> float:
        """The seconds from the first token to the last."""

    @property
    def n_cached(self) -> int:
        """Tokens of its prompt that were in the cache."""


class Flying(Protocol):
    """Sequences of one request under way."""

    @property
    def handles(self) -> Sequence[Costs]:
        """The costs of each ask."""

    def drawn(self) -> AsyncIterator[Drawn]:
        """Yields the tokens of all sequences as they come, until all have finished."""

    def stop(self, index: int) -> None:
        """This sequence is not wanted any more."""

    def end(self, error: ApiError) -> None:
        """Ends all sequences; the reader of the answer meets the error."""

    def close(self) -> None:
        """Frees what is still there."""


class Engines(Protocol):
    """One engine or several that compute alike."""

    @property
    def n_replicas(self) -> int:
        """The number of replicas."""

    @property
    def fingerprint(self) -> str:
        """Names the model and the way it is computed: equal fingerprints give equal answers."""

    def fly(self, asks: list[Ask]) -> Flying:
        """Begins sequences.  Raises what the engine refuses them with."""

    async def score(
        self, prompts: list[list[int]], top_logprobs: int, *, client: str, salt: str
    ) -> list[list[TokenLogprob]]:
        """Log-probabilities of each prompt's tokens from the second on."""

    async def embed(
        self, prompts: list[list[int]], pooling: str, *, client: str, salt: str
    ) -> list[np.ndarray]:
        """Pooled hidden states, float32 [n_embd] of each prompt."""

    def prepare(self, grammar: Grammar) -> None:
        """Compiles a grammar, for a thread.  Raises GrammarError."""

    def stats(self) -> dict[str, Any]:
        """The engine's statistics; of several the sums."""

    @property
    def n_pages(self) -> int:
        """Pages of the KV cache of each."""


class LocalEngine:
    """The engine of a Runtime."""

    n_replicas = 1

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.fingerprint = fingerprint(runtime)

    def fly(self, asks: list[Ask]) -> Flight:
        """Begins sequences."""
        return Flight(self._runtime, asks)

    async def score(
        self, prompts: list[list[int]], top_logprobs: int, *, client: str, salt: str
    ) -> list[list[TokenLogprob]]:
        """Log-probabilities of each prompt's tokens from the second on."""
        engine = self._runtime.engine
        handles = [
            engine.submit(ids, kind="score", top_logprobs=top_logprobs, client=client, salt=salt)
            for ids in prompts
        ]
        await finished(self._runtime, handles)
        return [
            [TokenLogprob(t, p, list(top)) for t, (p, top) in zip(ids[1:], handle.scores)]
            for ids, handle in zip(prompts, handles)
        ]

    async def embed(
        self, prompts: list[list[int]], pooling: str, *, client: str, salt: str
    ) -> list[np.ndarray]:
        """Pooled hidden states of each prompt."""
        if self._runtime.model.is_encoder:
            rows = await asyncio.to_thread(embed, self._runtime, prompts, pooling)
            return [row[0] for row in rows]
        engine = self._runtime.engine
        handles = [
            engine.submit(ids, kind="embed", pooling=pooling, client=client, salt=salt)
            for ids in prompts
        ]
        await finished(self._runtime, handles)
        return [np.asarray(handle.values) for handle in handles]

    def prepare(self, grammar: Grammar) -> None:
        """Compiles a grammar."""
        self._runtime.masks.prepare(grammar)

    def stats(self) -> dict[str, Any]:
        """The engine's statistics."""
        return self._runtime.stats()

    @property
    def n_pages(self) -> int:
        """Pages of the KV cache."""
        return 0 if self._runtime.model.is_encoder else self._runtime.engine.n_pages
