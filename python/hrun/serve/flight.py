"""Sequences of one request in the engine: submitted together, read together, and freed whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

from hrun._core import RequestHandle
from hrun.errors import Cancelled, GenerationError
from hrun.generation import TokenLogprob, logprob_of
from hrun.grammar import Grammar
from hrun.masks import grammar_error
from hrun.runtime import Runtime
from hrun.wakeup import wakeup_of

_UNREAD = 8  # tokens that wait for a slow reader before its sequence rests


@dataclass(frozen=True)
class Ask:
    """One sequence, as the engine is asked for it."""

    ids: list[int]
    max_tokens: int
    seed: int
    sampling: dict[str, float] = field(default_factory=dict)
    logit_bias: dict[int, float] = field(default_factory=dict)
    end_tokens: frozenset[int] = frozenset()
    top_logprobs: int = -1
    client: str = ""
    salt: str = ""
    priority: int = 0
    grammar: Grammar | None = None  # None: any text
    n_drawn: int = 0  # ids that were drawn by an ask that this one continues

    def after(self, tokens: Sequence[int]) -> Ask:
        """Returns the rest of the ask once ``tokens`` have been drawn: the continuation is the
        same, to the bit.
        """
        return replace(
            self,
            ids=[*self.ids, *tokens],
            max_tokens=self.max_tokens - len(tokens),
            n_drawn=self.n_drawn + len(tokens),
        )


@dataclass(frozen=True)
class Drawn:
    """The tokens that have come of one sequence since the last look."""

    index: int
    tokens: list[tuple[int, TokenLogprob | None]]
    finish: str | None


class Flight:
    """Asks in the engine, until :meth:`close`."""

    def __init__(self, runtime: Runtime, asks: Sequence[Ask], max_unread: int = _UNREAD) -> None:
        self._runtime = runtime
        self._max_unread = max_unread
        self._engine = runtime.engine
        self._wakeup = wakeup_of(self._engine, runtime._wakeups)
        self._open: dict[int, RequestHandle] = {}
        self.handles: list[RequestHandle] = []
        self._error: BaseException | None = None
        try:
            for index, ask in enumerate(asks):
                handle = self._submit(ask)
                self._open[index] = handle
                self.handles.append(handle)
        except BaseException:
            self.close()
            raise

    def _submit(self, ask: Ask) -> RequestHandle:
        return self._runtime.submit_bound(
            ask.grammar,
            ask.ids,
            max_tokens=ask.max_tokens,
            seed=ask.seed,
            sampling=ask.sampling,
            logit_bias=list(ask.logit_bias.items()),
            end_tokens=list(ask.end_tokens),
            top_logprobs=ask.top_logprobs,
            client=ask.client,
            salt=ask.salt,
            priority=ask.priority,
            max_unread=self._max_unread,
            n_drawn=ask.n_drawn,
        )

    async def drawn(self) -> AsyncIterator[Drawn]:
        """Yields the tokens of all sequences as they come, until all have finished."""
        engine = self._engine
        while self._open:
            step = self._wakeup.next_step()
            found = False
            for index, handle in list(self._open.items()):
                try:
                    tokens, finish = engine.take(handle, 0.0)
                except GenerationError as error:
                    raise grammar_error(error) from None
                if self._error is not None:
                    raise self._error
                if finish is not None:
                    self._open.pop(index, None)
                if not tokens and finish is None:
                    continue
                found = True
                yield Drawn(index, [(t, logprob_of(t, p, top)) for t, p, top in tokens], finish)
            if found:
                # A model that is as fast as its reader must not keep the loop from others.
                await asyncio.sleep(0)
            elif self._open:
                await step
        if self._error is not None:
            raise self._error

    def stop(self, index: int) -> None:
        """This sequence is not wanted any more."""
        handle = self._open.pop(index, None)
        if handle is not None and not handle.finished:
            self._engine.cancel(handle)

    def end(self, error: BaseException) -> None:
        """Ends all sequences; the reader of the answer meets the error."""
        if self._open:
            self._error = self._error or error
            for handle in self._open.values():
                self._engine.cancel(handle)

    def close(self) -> None:
        """Frees what is still there."""
        for index in list(self._open):
            self.stop(index)


async def finished(runtime: Runtime, handles: Sequence[RequestHandle]) -> None:
    """Waits for requests that draw nothing; cancels those that nobody waits for any more."""
    engine = runtime.engine
    wakeup = wakeup_of(engine, runtime._wakeups)
    try:
        for handle in handles:
            while True:
                step = wakeup.next_step()
                _, finish = engine.take(handle, 0.0)
                if finish is not None:
                    break
                await step
            if finish == "cancelled":
                raise Cancelled("cancelled")
    finally:
        for handle in handles:
            if not handle.finished:
                engine.cancel(handle)
