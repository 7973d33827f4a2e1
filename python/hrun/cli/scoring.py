"""Log-probabilities of a text in chunks, as perplexity and divergence take them, and their mean values."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import hrun

if TYPE_CHECKING:
    import numpy as np


class Mean:
    """Mean of values that come in pieces, and one standard error of it."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.sum_of_squares = 0.0

    def add(self, values: np.ndarray) -> None:
        self.count += len(values)
        self.sum += float(values.sum(dtype=float))
        self.sum_of_squares += float((values * values).sum(dtype=float))

    @property
    def mean(self) -> float:
        return self.sum / max(self.count, 1)

    @property
    def error(self) -> float:
        variance = self.sum_of_squares / max(self.count, 1) - self.mean**2
        return float((max(variance, 0.0) / max(self.count - 1, 1)) ** 0.5)


class Estimate:
    """Perplexity and its standard error from log-probabilities of the tokens that came."""

    def __init__(self) -> None:
        self.loss = Mean()  # negative log-likelihood per token, in nats

    def add(self, log_probabilities: np.ndarray) -> None:
        self.loss.add(-log_probabilities)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss.mean, 700.0))

    @property
    def error(self) -> float:
        """One standard error of the perplexity."""
        return self.loss.error * self.perplexity

    def __str__(self) -> str:
        return f"PPL = {self.perplexity:.4f} +/- {self.error:.5f}"


@dataclass(frozen=True)
class Block:
    """Some scored positions of a chunk: of each, float64 log-probabilities of all tokens [n, n_vocab], the token that came,
    and that token's log-probability."""

    chunk: int
    first: int  # counted from the chunk's first scored position
    rows: np.ndarray
    targets: list[int]
    ends_chunk: bool

    @property
    def came(self) -> np.ndarray:
        return self.rows[range(len(self.targets)), self.targets]


def scored(
    runtime: hrun.Runtime, tokens: Sequence[int], n_ctx: int, n_chunks: int
) -> Iterator[Block]:
    """The second half of each chunk, n_ctx - 1 - n_ctx // 2 positions, in blocks of at most 64 MiB of logits."""
    from hrun.predictions import blocks, log_softmax, logit_rows

    half = n_ctx // 2
    start = time.monotonic()
    for chunk in range(n_chunks):
        part = list(tokens[chunk * n_ctx : (chunk + 1) * n_ctx])
        targets = part[half + 1 :]
        if runtime.tokenizer.adds_bos and runtime.tokenizer.bos_id is not None:
            part[0] = runtime.tokenizer.bos_id
        step = logit_rows(runtime.n_vocab)
        for at in range(half, n_ctx - 1, step):
            logits = runtime.logits(part[: min(at + step, n_ctx - 1)], start=at)
            for some in blocks(len(logits), runtime.n_vocab):
                first = at - half + some.start
                rows = log_softmax(logits[some])
                wanted = targets[first : first + len(rows)]
                yield Block(chunk, first, rows, wanted, first + len(rows) == len(targets))
            del logits  # before the next ones are made
        if sys.stderr.isatty():
            left = (time.monotonic() - start) / (chunk + 1) * (n_chunks - chunk - 1)
            print(
                f"\r{chunk + 1}/{n_chunks} chunks, {left:.0f} s left \r",
                end="",
                file=sys.stderr,
                flush=True,
            )
