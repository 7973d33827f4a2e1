"""All answers of one request: their tokens, their use of tokens, and their costs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from hrun.errors import Cancelled
from hrun.serve.choice import Choice, Delta
from hrun.serve.flight import Ask
from hrun.serve.service import Service


class Answers:
    """The choices of a request.  :meth:`deltas` runs them; without it nothing is asked of the engine."""

    def __init__(self, service: Service, asks: Sequence[Ask], choices: Sequence[Choice]) -> None:
        self._service = service
        self._asks = list(asks)
        self.choices = list(choices)
        self._flight = service.fly(self._asks)

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Yields (choice, its new part) until all have finished; the engine is free afterwards,
        come what may.
        """
        flight = self._flight
        try:
            async for drawn in flight.drawn():
                choice, delta = self.choices[drawn.index], Delta()
                for token, logprob in drawn.tokens:
                    choice.feed(token, logprob, delta)
                    if choice.stopped:
                        break
                if choice.stopped:
                    flight.stop(drawn.index)
                    choice.finish("stop", delta)
                elif drawn.finish == "cancelled":
                    raise Cancelled("cancelled")
                elif drawn.finish is not None:
                    choice.finish(drawn.finish, delta)
                if choice.finish_reason is not None:
                    self._count(drawn.index)
                yield drawn.index, delta
        finally:
            self.close()

    async def run(self) -> None:
        """Runs all answers to their end."""
        async for _ in self.deltas():
            pass

    def close(self) -> None:
        """Frees the engine."""
        self._service.land(self._flight)

    def _count(self, index: int) -> None:
        metrics, handle = self._service.metrics, self._flight.handles[index]
        choice = self.choices[index]
        metrics.success.labels(choice.finish_reason or "").inc()
        metrics.first_token.observe(handle.prompt_seconds)
        if choice.n_tokens > 1:
            metrics.per_token.observe(handle.generate_seconds / (choice.n_tokens - 1))
        metrics.generated.observe(choice.n_tokens)
        metrics.generation_tokens.inc(choice.n_tokens)
        n_prompt = len(self._asks[index].ids)
        metrics.prompt.observe(n_prompt)
        metrics.prompt_tokens.inc(n_prompt)
        metrics.cached_tokens.inc(handle.n_cached)
        if choice.parser.failures:
            metrics.tool_failures.inc(choice.parser.failures)

    @property
    def n_prompt(self) -> int:
        """Tokens of all prompts, those of several choices once."""
        seen = {id(ask.ids): len(ask.ids) for ask in self._asks}
        return sum(seen.values())

    @property
    def n_cached(self) -> int:
        """Tokens of prompts that were in the cache when a request came."""
        first: dict[int, int] = {}
        for ask, handle in zip(self._asks, self._flight.handles):
            first.setdefault(id(ask.ids), handle.n_cached)
        return sum(first.values())

    @property
    def n_drawn(self) -> int:
        """Tokens of all answers."""
        return sum(choice.n_tokens for choice in self.choices)

    def usage(self) -> dict[str, Any]:
        """Returns the numbers of tokens in OpenAI's shape."""
        return {
            "prompt_tokens": self.n_prompt,
            "completion_tokens": self.n_drawn,
            "total_tokens": self.n_prompt + self.n_drawn,
            "prompt_tokens_details": {"cached_tokens": self.n_cached},
            "completion_tokens_details": {
                "reasoning_tokens": sum(choice.n_reasoning for choice in self.choices)
            },
        }

    def timings(self) -> dict[str, Any]:
        """Returns the timings of the first choice, in llama-server's shape, with the seed that
        makes the same text again.
        """
        handle, choice, ask = self._flight.handles[0], self.choices[0], self._asks[0]
        n_new = len(ask.ids) - handle.n_cached
        prompt_ms, answer_ms = 1e3 * handle.prompt_seconds, 1e3 * handle.generate_seconds
        n_gaps = max(choice.n_tokens - 1, 0)
        return {
            "cache_n": handle.n_cached,
            "prompt_n": n_new,
            "prompt_ms": round(prompt_ms, 3),
            "prompt_per_second": round(1e3 * n_new / prompt_ms, 3) if prompt_ms else 0.0,
            "predicted_n": choice.n_tokens,
            "predicted_ms": round(answer_ms, 3),
            "predicted_per_second": round(1e3 * n_gaps / answer_ms, 3) if answer_ms else 0.0,
            "seed": ask.seed,
        }
