"""Two models beside each other on the same tokens, a part of each in memory at a time, and in the end both heads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrun.outputs import scratch_folder
from hrun.predictions import blocks, divergence, log_softmax, logit_rows

from .moments import Report
from .parts import LoadedPart, PartFile, StateReader, run_to_head

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


class TextReader:
    """A model that has read some texts: logits at any of their positions.

    The states that enter the head lie in ``folder``, in which no others may be.  The head is loaded
    when the first logits are asked for.  Raises hrun.Error, OSError.
    """

    def __init__(
        self,
        file: PartFile,
        texts: Sequence[Sequence[int]],
        folder: Path,
        report: Report | None = None,
        what: str = "",
    ) -> None:
        self._file, self._texts = file, texts
        self._firsts = [0]
        for text in texts:
            self._firsts.append(self._firsts[-1] + len(text))
        self._states: StateReader = run_to_head(file, texts, folder, report, what)
        self._loaded: LoadedPart | None = None

    @property
    def _head(self) -> LoadedPart:
        if self._loaded is None:
            self._loaded = self._file.load(self._file.head_part)
        return self._loaded

    def release(self) -> None:
        """Lets the head go until logits are asked for again."""
        self._loaded = None

    def logits(self, text: int, first: int, last: int) -> Iterator[tuple[int, Logits]]:
        """Yields positions, and the logits from there on, up to the position ``last`` of a text."""
        step = max(1, logit_rows(self._head.model.n_vocab) // 2)  # of two models
        for at in range(first, last, step):
            yield at, self.some_logits(text, at, min(at + step, last))

    def some_logits(self, text: int, first: int, last: int) -> Logits:
        """float32 [last - first, vocabulary]"""
        states = self._states.rows(self._firsts[text] + first, last - first)
        return self._head.logits(self._texts[text][first:last], states)


def read_and_compare(
    reference: TextReader,
    file: PartFile,
    texts: Sequence[Sequence[int]],
    folder: Path,
    report: Report | None = None,
    what: str = "compare",
) -> Differences:
    """Has a file read the texts that the reference has read first, and compares the two.

    The second half of each text counts, as in hrun-perplexity.  ``folder``: for scratch.  The head
    of the reference is left in memory.  Raises hrun.Error, OSError.
    """
    found = Comparison()
    with scratch_folder(folder) as scratch:
        own = TextReader(file, texts, scratch, report, what)
        for number, text in enumerate(texts):
            if report is not None:
                report(number, len(texts), what)
            for at, base in reference.logits(number, len(text) // 2, len(text) - 1):
                mine = own.some_logits(number, at, at + len(base))
                found.add(base, mine, text[at + 1 : at + 1 + len(base)])
                del base, mine  # before the next ones are made
    return found.result()
