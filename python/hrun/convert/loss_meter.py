"""Measures the effect of each tensor's error alone on a model's predictions, a part of the model at
a time.

A text that has met a changed tensor goes on through the parts behind it beside the text that has
not, so each part is loaded once for all of them, and nothing before a tensor is computed again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hrun.predictions import blocks, divergence, logit_rows

from .data_file import DataFile
from .moments import Report
from .parts import Floats, LoadedPart, PartFile, StateReader, StateWriter

# The value (JSON) that a caller wants to be kept with a tensor, and the tensor's changed rows, some
# at a time.
Changed = tuple[Any, Iterable[Floats]]


@dataclass(frozen=True)
class Measured:
    """kept: as the caller gave it.  loss: nats per token."""

    kept: Any
    loss: float


class LossMeter:
    """Measures the KL divergence of a model with one tensor replaced, from the whole model, on
    chunks of text without their first quarters.

    `file`: of tensors that lose next to nothing by being coded again.  The states of the texts and
    the whole model's log-probabilities lie in `folder`: 4 bytes per token and n_embd for each tensor, twice,
    and 4 bytes per position and vocabulary entry; memory holds a part's weights and 64 MiB of logits.
    A folder that a killed process left is gone on with.
    """

    def __init__(
        self,
        file: PartFile,
        chunks: Sequence[Sequence[int]],
        folder: Path,
        report: Report | None = None,
    ) -> None:
        self._file, self._chunks, self._folder, self._report = file, chunks, folder, report
        self._n_rows = sum(map(len, chunks))

    def losses(
        self, tensors: Sequence[str], change: Callable[[str], Changed]
    ) -> dict[str, Measured]:
        """Returns the loss of each tensor.

        `change` is asked part by part; for an embedding that is also the head, once more at the
        end.  Raises hrun.Error, OSError.
        """
        kept = self._found()
        for part in range(kept.pop("part"), self._file.head_part):
            here = [t for t in tensors if self._first_part(t) == part]
            kept |= self._run_layers(part, list(kept), here, change)
            self._commit(part + 1, kept)
        return self._run_head(kept, tensors, change)

    def _first_part(self, tensor: str) -> int:
        """The part in which a change of the tensor is met first."""
        return 0 if self._file.is_tied(tensor) else self._file.part_of(tensor)

    def _path(self, kind: str, part: int) -> Path:
        return self._folder / f"{kind}-{part}"

    def _found(self) -> dict[str, Any]:
        """Returns the values kept of the tensors changed in the parts that an earlier process has
        done, and "part", the next one.
        """
        done = [p for p in range(1, self._file.head_part + 1) if self._path("changed", p).exists()]
        if not done:
            return {"part": 0}
        found = json.loads(self._path("changed", done[-1]).read_text())
        return {**dict(found), "part": done[-1]}

    def _commit(self, part: int, kept: dict[str, Any]) -> None:
        new = self._folder / "changed.new"
        new.write_text(json.dumps(list(kept.items())))
        os.replace(new, self._path("changed", part))
        for kind in ("changed", "whole", "variants"):
            self._path(kind, part - 1).unlink(missing_ok=True)

    def _pass(
        self, loaded: LoadedPart, states: StateReader | None, first_row: int
    ) -> Iterator[Floats]:
        """Yields the states that leave a part, chunk by chunk; `first_row` is the text's first row
        in the states.
        """
        at = first_row
        for chunk in self._chunks:
            came = states.rows(at, len(chunk)) if states is not None else None
            left = loaded.run(chunk, came)
            assert left is not None
            yield left
            at += len(chunk)

    def _run_layers(
        self, part: int, before: list[str], tensors: list[str], change: Callable[[str], Changed]
    ) -> dict[str, Any]:
        loaded = self._file.load(part)
        states = changed = None
        if part > 0:
            states = StateReader(self._path("whole", part), loaded.width)
            changed = StateReader(self._path("variants", part), loaded.width)
        with StateWriter(self._path("whole", part + 1)) as whole:
            for left in self._pass(loaded, states, 0):
                whole.add(left)
            whole.finish()
        kept: dict[str, Any] = {}
        with StateWriter(self._path("variants", part + 1)) as variants:
            for number, name in enumerate(before):
                self._say(part, number, len(before) + len(tensors), name)
                for left in self._pass(loaded, changed, number * self._n_rows):
                    variants.add(left)
            del loaded
            for number, name in enumerate(tensors, len(before)):
                self._say(part, number, len(before) + len(tensors), name)
                kept[name], pieces = change(name)
                with self._file.replaced(name, pieces):
                    for left in self._pass(self._file.load(part), states, 0):
                        variants.add(left)
            variants.finish()
        return kept

    def _say(self, part: int, number: int, n: int, name: str) -> None:
        if self._report is not None:
            n_parts = self._file.head_part + 1
            self._report(part * n + number, n_parts * n, f"measure {name}")

    def _run_head(
        self, kept: dict[str, Any], tensors: Sequence[str], change: Callable[[str], Changed]
    ) -> dict[str, Measured]:
        part = self._file.head_part
        numbers = {name: number for number, name in enumerate(kept)}
        loaded = self._file.load(part)
        whole = StateReader(self._path("whole", part), loaded.width)
        changed = StateReader(self._path("variants", part), loaded.width)
        reference = self._folder / "reference.f32"
        with open(reference, "wb") as out:
            for rows in self._log_probabilities(loaded, whole, 0):
                out.write(rows.data)
        wanted = DataFile(reference, str(reference))

        def loss(head: LoadedPart, states: StateReader, first_row: int) -> float:
            total, n, at = 0.0, 0, 0
            for rows in self._log_probabilities(head, states, first_row):
                total += float(divergence(wanted.read(at, rows.shape, np.float32), rows).sum())
                n, at = n + len(rows), at + rows.nbytes
            return total / max(n, 1)

        found: dict[str, Measured] = {}
        own = [t for t in tensors if self._file.part_of(t) == part]
        for name, number in numbers.items():
            if name not in own:
                self._say(part, number, len(tensors), name)
                found[name] = Measured(kept[name], loss(loaded, changed, number * self._n_rows))
        del loaded
        for name in own:
            self._say(part, len(found), len(tensors), name)
            mine, pieces = change(name)
            with self._file.replaced(name, pieces):
                head = self._file.load(part)
                found[name] = Measured(
                    mine,
                    loss(head, changed, numbers[name] * self._n_rows)
                    if name in numbers
                    else loss(head, whole, 0),
                )
                del head
        return {name: found[name] for name in tensors}

    def _log_probabilities(
        self, head: LoadedPart, states: StateReader, first_row: int
    ) -> Iterator[Floats]:
        """Yields the log-probabilities at every position of every chunk but its first quarter, a
        few positions at a time.
        """
        n_vocab = head.model.n_vocab
        step, at = logit_rows(n_vocab), first_row
        for chunk in self._chunks:
            for first in range(len(chunk) // 4, len(chunk), step):
                some = chunk[first : first + step]
                logits = head.logits(some, states.rows(at + first, len(some)))
                for piece in blocks(len(logits), n_vocab):
                    rows = logits[piece]
                    rows -= rows.max(axis=1, keepdims=True)
                    rows -= np.log(np.exp(rows).sum(axis=1, keepdims=True))
                    yield rows
                del logits, rows  # before the next ones are made
            at += len(chunk)
