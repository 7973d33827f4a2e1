"""Two models beside each other on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.predictions import all_logits, blocks, divergence, log_softmax, logit_rows

from .moments import Report

Logits = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Differences:
    """perplexity: of the first and the second model.  divergence: KL divergence in nats of each
    position.  same_top: share of positions with the same likeliest token."""

    n_tokens: int
    perplexity: tuple[float, float]
    divergence: npt.NDArray[np.float64]
    same_top: float


class Comparison:
    """Gathers the predictions of two models, a few positions at a time."""

    def __init__(self) -> None:
        self._divergence: list[npt.NDArray[np.float64]] = []
        self._loss = np.zeros(2)
        self._n = self._same = 0

    def add(self, reference: Logits, own: Logits, came: Sequence[int]) -> None:
        """Adds both models' logits, [positions, vocabulary], and the tokens that came next."""
        for some in blocks(*reference.shape):
            base, mine = log_softmax(reference[some]), log_softmax(own[some])
            here = (range(len(base)), list(came[some]))
            self._loss -= [base[here].sum(), mine[here].sum()]
            self._divergence.append(divergence(base, mine))
            self._same += int((base.argmax(axis=1) == mine.argmax(axis=1)).sum())
            self._n += len(base)

    def result(self) -> Differences:
        """Returns the differences at all positions that were added, at least one."""
        first, second = np.exp(self._loss / self._n)
        divergences = np.concatenate(self._divergence)
        return Differences(
            self._n, (float(first), float(second)), divergences, self._same / self._n
        )


def compare_models(
    reference: _core.Model,
    model: _core.Model,
    chunks: Sequence[Sequence[int]],
    report: Report | None = None,
    what: str = "compare",
) -> Differences:
    """The second half of each chunk counts, as in hrun-perplexity.  Raises hrun.Error."""
    size = len(chunks[0])
    sessions = [_core.Session(one, size, n_batch=size) for one in (reference, model)]
    half = size // 2
    step = max(1, logit_rows(reference.n_vocab) // 2)  # of two models
    found = Comparison()
    for number, chunk in enumerate(chunks):
        if report is not None:
            report(number, len(chunks), what)
        for session in sessions:
            session.truncate(0)
            session.forward(list(chunk[:half]), "none")
        for at in range(half, size - 1, step):
            end = min(at + step, size - 1)
            logits = [all_logits(session, chunk[at:end]) for session in sessions]
            found.add(logits[0], logits[1], chunk[at + 1 : end + 1])
            del logits  # before the next ones are made
    return found.result()
