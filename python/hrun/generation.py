"""The results of a generation, and the way that drawn tokens become text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from hrun.stream import StopStrings, Utf8Decoder

if TYPE_CHECKING:
    from hrun._core import RequestHandle
    from hrun.grammar import Grammar
    from hrun.tokenizer import Tokenizer

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Timings:
    """Where the time of one generation went; seconds of wall clock, tokens counted."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, found in the cache and not evaluated again
    prompt_seconds: float  # until the first token was drawn
    generated_tokens: int
    generate_seconds: float  # from the first token to the last

    @property
    def prompt_tokens_per_second(self) -> float:
        return (self.prompt_tokens - self.cached_tokens) / max(self.prompt_seconds, 1e-9)

    @property
    def tokens_per_second(self) -> float:
        return max(self.generated_tokens - 1, 0) / max(self.generate_seconds, 1e-9)


@dataclass(frozen=True)
class TokenLogprob:
    """The log-probability of a token by the raw logits, and those of the likeliest at its place."""

    token: int
    logprob: float
    top: list[tuple[int, float]]  # (token id, log-probability), best first


@dataclass(frozen=True)
class Generation:
    """A finished generation.

    ``tokens`` are the ids drawn, without the one that ended it; after a stop string they reach to its last token while
    ``text`` ends before it.  ``finish_reason``: "stop" (the model ended, or a stop string), "length" (max_tokens, or the
    context is full; a text bound to a grammar is then not complete), "cancelled".  The same ``seed``, prompt and parameters give the same tokens, whatever else runs.
    ``logprobs``, if they were asked for: one entry per token.
    """

    text: str
    tokens: list[int]
    finish_reason: FinishReason
    timings: Timings
    seed: int
    logprobs: list[TokenLogprob] | None = None


@dataclass(frozen=True)
class Piece:
    """A step of a stream: one token and the text that has become certain with it, often none.

    The last piece has no token; it carries the rest of the text, the finish reason and the whole generation.
    """

    text: str
    token: int | None
    finish_reason: FinishReason | None = None
    generation: Generation | None = None
    logprob: TokenLogprob | None = None


@dataclass(eq=False)
class Job:
    """One generation on its way."""

    prompt: list[int]
    prompt_text: str  # shown first; empty without echo
    max_tokens: int
    seed: int
    sampling: dict[str, float]
    logit_bias: dict[int, float]
    stops: list[str]
    strip_space: bool  # drop the space that a SentencePiece model puts before its first word
    logprobs: int | None
    grammar: Grammar | None
    era: object  # the Runtime's era when the job began; cancel() begins another


class Answer:
    """Collects the tokens of a job: their text, stop strings, timings."""

    def __init__(self, job: Job, tokenizer: Tokenizer) -> None:
        self.job = job
        self.tokens: list[int] = []
        self.logprobs: list[TokenLogprob] = []
        self._tokenizer = tokenizer
        self._strip_space = job.strip_space
        self._stops = StopStrings(job.stops)
        # Control tokens are not shown, but one that a stop string names is part of the text that it looks for.
        self._stop_tokens = frozenset().union(*map(tokenizer.control_ids_in, job.stops))
        self._decoder = Utf8Decoder()
        self._parts = [job.prompt_text]

    @property
    def stopped(self) -> bool:
        """Has a stop string been found?"""
        return self._stops.stopped

    def feed(self, token: int, logprob: TokenLogprob | None = None) -> Piece:
        """The piece of a drawn token."""
        self.tokens.append(token)
        if logprob is not None:
            self.logprobs.append(logprob)
        tokenizer = self._tokenizer
        data = b"" if tokenizer.is_control(token) else tokenizer.token_bytes(token)
        if self._strip_space and data:
            data, self._strip_space = data.removeprefix(b" "), False
        text = self._stops.feed(self._decoder.feed(data))
        if token in self._stop_tokens:
            text += self._stops.feed(tokenizer.tokens[token], hidden=True)
        self._parts.append(text)
        return Piece(text, token, logprob=logprob)

    def finish(self, reason: FinishReason, handle: RequestHandle | None = None) -> Piece:
        """The last piece; without a handle nothing was asked of the engine."""
        rest = self._stops.feed(self._decoder.flush())
        if self._stops.stopped:
            reason = "stop"
        else:
            rest += self._stops.flush()
        self._parts.append(rest)
        job = self.job
        timings = Timings(
            len(job.prompt),
            handle.n_cached if handle else 0,
            handle.prompt_seconds if handle else 0.0,
            len(self.tokens),
            handle.generate_seconds if handle else 0.0,
        )
        logprobs = None if job.logprobs is None else self.logprobs
        generation = Generation(
            "".join(self._parts), self.tokens, reason, timings, job.seed, logprobs
        )
        return Piece(rest, None, reason, generation)


def logprob_of(
    token: int, logprob: float | None, top: Sequence[tuple[int, float]] | None
) -> TokenLogprob | None:
    return None if logprob is None else TokenLogprob(token, logprob, list(top or ()))
