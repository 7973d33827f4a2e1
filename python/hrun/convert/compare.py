"""Two models beside each other on the same tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.predictions import all_logits, blocks, divergence, log_softmax, logit_rows

from .moments import Report


@dataclass(frozen=True)
class Differences:
    """perplexity: of the first and the second model.  divergence: KL divergence in nats of each
    position.  same_top: share of positions with the same likeliest token."""

    n_tokens: int
    perplexity: tuple[float, float]
    divergence: npt.NDArray[np.float64]
    same_top: float


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
    n_vocab, half = reference.n_vocab, size // 2
    step = max(1, logit_rows(n_vocab) // 2)  # of two models
    parts: list[npt.NDArray[np.float64]] = []
    nll = np.zeros(2)
    same = n = 0
    for number, chunk in enumerate(chunks):
        if report is not None:
            report(number, len(chunks), what)
        for session in sessions:
            session.truncate(0)
            session.forward(list(chunk[:half]), "none")
        for at in range(half, size - 1, step):
            end = min(at + step, size - 1)
            logits = [all_logits(session, chunk[at:end]) for session in sessions]
            for some in blocks(end - at, n_vocab):
                base, own = (log_softmax(rows[some]) for rows in logits)
                came = (range(len(base)), list(chunk[at + some.start + 1 : at + some.stop + 1]))
                nll -= [base[came].sum(), own[came].sum()]
                parts.append(divergence(base, own))
                same += int((base.argmax(axis=1) == own.argmax(axis=1)).sum())
                n += len(base)
            del logits  # before the next ones are made
    perplexity = np.exp(nll / n)
    return Differences(
        n, (float(perplexity[0]), float(perplexity[1])), np.concatenate(parts), same / n
    )
