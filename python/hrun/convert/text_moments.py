"""Second moments collected by running a model over text, a part of the model at a time.

The text passes through each part once.  The states that leave a part lie on disk until the
next one has read them, and so do the moments of a part until its tensors are coded.  The work goes
on with a folder that a killed process left.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hrun import _core
from hrun.errors import ArgumentError
from hrun.predictions import logit_rows

from .moments import BLOCK, InputMoments, MomentFile, MomentWriter, Report, whole_name
from .parts import Floats, LoadedPart, PartFile, StateReader, StateWriter
from .text import CHUNK_TOKENS, begun


class TextMoments:
    """Moments of the inputs of some tensors on a text; a MomentSource.

    Memory holds one part's weights, and the moments of its inputs up to half of ``memory`` bytes:
    where they take more, the text's states pass through that part again.  An input whose full
    matrix would take more than a quarter of the memory is kept as diagonal blocks.
    Raises whatever Model.load and forward raise, and OSError.
    """

    def __init__(
        self,
        file: PartFile,
        tokens: Sequence[int],
        tensors: Sequence[str],
        memory: int,
        folder: Path,
        n_threads: int = 0,
        chunk: int = CHUNK_TOKENS,
        first_token: int | None = None,
        report: Report | None = None,
        keeps: bool = True,
    ) -> None:
        """``tensors``: those whose inputs are wanted, in the order in which they are coded.

        ``keeps``: moments may be asked for again; otherwise a part's are gone when its last tensor
        has been asked for and then another one's.
        """
        self._file, self._tokens, self._chunk, self._first_token = file, tokens, chunk, first_token
        if not self._starts:
            raise ArgumentError(
                f"the calibration text has {len(tokens)} tokens, at least {chunk} are needed"
            )
        self._tensors, self._memory, self._folder = list(tensors), memory, folder
        self._n_threads, self._report, self._keeps = n_threads, report, keeps
        self._part_of = {name: file.part_of(name) for name in self._tensors}
        self._last_of = {part: name for name, part in self._part_of.items()}
        self._last_part = max(self._part_of.values(), default=-1)
        self._files: dict[int, MomentFile] = {}
        # Who asked for it holds it, so that it is gone where they need its memory.
        self._last: Callable[[], InputMoments | None] = _nothing
        self._done = self._found()

    @property
    def n_tokens(self) -> int:
        return len(self._starts) * self._chunk

    @property
    def _starts(self) -> range:
        """The starts of the chunks in the tokens."""
        return range(0, len(self._tokens) - self._chunk + 1, self._chunk)

    def _part_tokens(self, start: int) -> list[int]:
        return begun(self._tokens[start : start + self._chunk], self._first_token)

    def _states(self, part: int) -> Path:
        """Returns the path of the states that go into this part."""
        return self._folder / f"states-{part}.f32"

    def _moments(self, part: int) -> Path:
        return self._folder / f"moments-{part}.npz"

    def _found(self) -> int:
        """Parts that an earlier process has done."""
        done = [p for p in range(1, self._last_part + 2) if self._states(p).exists()]
        return max(done, default=0)

    @property
    def progress(self) -> tuple[int, int]:
        """The number of parts that are done, here or by an earlier process, and the number that
        there are to do.
        """
        return self._done, self._last_part + 1

    def of(self, tensor: str) -> InputMoments | None:
        last = self._last()
        if last is not None and tensor in last.tensors:
            return last
        del last
        part = self._part_of.get(whole_name(tensor))
        if part is None:
            return None
        for other in [] if self._keeps else [p for p in self._files if p != part]:
            if self._is_over(other, whole_name(tensor)):
                del self._files[other]
                self._moments(other).unlink(missing_ok=True)
        self._run_to(part)
        if part not in self._files:
            self._files[part] = MomentFile(self._moments(part))
        found = self._files[part].of(tensor)
        self._last = weakref.ref(found) if found is not None else _nothing
        return found

    def _is_over(self, part: int, tensor: str) -> bool:
        order = self._tensors
        return order.index(self._last_of[part]) < order.index(tensor)

    def every(self) -> Iterator[InputMoments]:
        """All inputs, part by part."""
        self._run_to(self._last_part)
        for part in sorted(self._last_of):
            yield from MomentFile(self._moments(part)).every()

    def save(self, writer: MomentWriter) -> None:
        """All inputs to a file, which is finished."""
        for moments in self.every():
            writer.add(moments)
        writer.finish()

    def _run_to(self, part: int) -> None:
        while self._done <= part:
            self._run(self._done)
            self._done += 1

    def _run(self, part: int) -> None:
        what = f"calibrate, part {part + 1} of {self._last_part + 1}"
        loaded = self._file.load(part)
        states = StateReader(self._states(part), loaded.width) if part > 0 else None
        wants = part in self._last_of
        collector = _core.MomentCollector(loaded.model, 0, self._n_threads) if wants else None
        passes: list[list[tuple[int, int]]] = [[]]
        if collector is not None:
            some = states.rows(0, 1) if states is not None else None
            self._forward(loaded, part, self._part_tokens(0)[:1], some, collector, False)
            passes = self._plan(collector) or [[]]
            writer = MomentWriter(self._moments(part), halved=True)
        try:
            with StateWriter(self._states(part + 1)) as out:
                for number, chosen in enumerate(passes):
                    if collector is not None:
                        collector.select([i for i, _ in chosen], [width for _, width in chosen])
                    for start in self._starts:
                        if self._report is not None:
                            self._report(start, self.n_tokens, what)
                        came = states.rows(start, self._chunk) if states is not None else None
                        left = self._forward(
                            loaded, part, self._part_tokens(start), came, collector, number == 0
                        )
                        if left is not None:
                            out.add(left)
                    if collector is not None:
                        for moments in _found_moments(collector, chosen):
                            writer.add(moments)
                if collector is not None:
                    collector.select([], [])
                    writer.finish()
                out.finish()  # this part is done
        finally:
            if collector is not None:
                writer.abandon()
        self._states(part).unlink(missing_ok=True)
        if self._report is not None:
            self._report(self.n_tokens, self.n_tokens, what)

    def _forward(
        self,
        loaded: LoadedPart,
        part: int,
        tokens: list[int],
        states: Floats | None,
        collector: _core.MomentCollector | None,
        keeps: bool,
    ) -> Floats | None:
        if part < self._file.head_part:
            return loaded.run(tokens, states, collector, keeps)
        step = logit_rows(loaded.model.n_vocab)
        for at in range(0, len(tokens), step):
            assert states is not None
            loaded.logits(tokens[at : at + step], states[at : at + step], collector)
        return None

    def _plan(self, collector: _core.MomentCollector) -> list[list[tuple[int, int]]]:
        """Passes of (input number, width)."""
        passes: list[list[tuple[int, int]]] = []
        left = 0
        for number, found in enumerate(collector.inputs):
            if found.cols % 32 or not any(
                whole_name(name) in self._part_of for name in found.tensors
            ):
                continue
            width = found.cols
            while width > BLOCK and 4 * 4 * width * -(-found.cols // width) * width > self._memory:
                width = max(BLOCK, width // 2 // BLOCK * BLOCK)
            need = 4 * -(-found.cols // width) * width * width
            # Half of the memory is for the factor of the input that is being encoded, and the model's working memory.
            if not passes or need > left:
                passes.append([])
                left = self._memory // 2
            passes[-1].append((number, width))
            left -= need
        return passes


def _nothing() -> None:
    return None


def _found_moments(collector: Any, chosen: list[tuple[int, int]]) -> Iterator[InputMoments]:
    inputs = collector.inputs
    for number, _ in chosen:
        found = inputs[number]
        if found.n_tokens:  # otherwise an expert that the text never asked for
            yield InputMoments(
                tuple(found.tensors),
                found.cols,
                found.moments(),
                found.power,
                found.peak,
                found.n_tokens,
                found.sample(),
            )
