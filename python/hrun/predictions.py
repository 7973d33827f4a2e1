"""Log-probabilities of models on text, a few rows at a time, so that a large vocabulary takes no more memory than a small one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun._core import Session

Doubles = npt.NDArray[np.float64]

LOGIT_BYTES = 64 << 20  # of float32 logits at a time
_DOUBLE_BYTES = 16 << 20  # of one float64 array at a time


def logit_rows(n_vocab: int) -> int:
    """Returns the number of rows of logits to ask a model for at once."""
    return max(1, LOGIT_BYTES // (4 * n_vocab))


def all_logits(session: Session, tokens: Sequence[int]) -> npt.NDArray[np.float32]:
    """Returns the logits at every position of the tokens, which the session reads: [tokens,
    n_vocab].
    """
    logits = session.forward(list(tokens), "all")
    assert logits is not None  # "none" was not asked for
    return logits


def blocks(n_rows: int, n_vocab: int) -> list[slice]:
    """Splits rows of logits into blocks that are small enough to work on in double precision."""
    step = max(1, _DOUBLE_BYTES // (8 * n_vocab))
    return [slice(at, min(at + step, n_rows)) for at in range(0, n_rows, step)]


def log_softmax(logits: npt.NDArray[np.float32]) -> Doubles:
    """Returns the log softmax of each row, in double precision."""
    rows: Doubles = logits.astype(np.float64)
    rows -= rows.max(axis=1, keepdims=True)
    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
    return rows


def divergence(log_p: npt.NDArray[Any], log_q: npt.NDArray[Any]) -> Doubles:
    """KL divergence of each row, in nats; float32 or float64, summed in float64."""
    terms = log_p - log_q
    terms *= np.exp(log_p)
    total: Doubles = terms.sum(axis=1, dtype=np.float64)
    return total
