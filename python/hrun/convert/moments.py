"""Second moments of matmul inputs: what the calibrated encoder minimises against.

A matmul with input x and weights W loses tr(dW H dW^T), H = E[x x^T].  Everything here is in the rotated basis of hrun's own
formats, except `power` and `peak`, which are per column of the original one.
"""

from __future__ import annotations

import contextlib
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.errors import ArgumentError, ModelFileError
from hrun.outputs import PartialFile

from .folder import shown
from .text import CHUNK_TOKENS, begun

Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
Report = Callable[[int, int, str], None]  # tokens done, tokens in all, what

DEFAULT_TOKENS = 128 * CHUNK_TOKENS
BLOCK = 256  # the narrowest diagonal block: the rotation's


@dataclass(frozen=True)
class InputMoments:
    """One matmul input.

    tensors: GGUF names of the matrices that read it; slices of a tensor that have inputs of their own (experts, heads) are
    "NAME[i]".  values: float32 [groups, width, width], the diagonal blocks of
    E[x x^T].  power, peak: float64 [cols], mean of x^2 and largest |x| per column of the original basis.  sample: float32 [some, cols], a few
    inputs in the original basis; None or empty where there are none.
    """

    tensors: tuple[str, ...]
    cols: int
    values: Floats
    power: Doubles
    peak: Doubles | None
    n_tokens: int
    sample: Floats | None = None

    @property
    def width(self) -> int:
        return int(self.values.shape[-1])


class MomentSource(Protocol):
    """Where the encoder gets the moments of a tensor's input from; asked in the order of the file's tensors."""

    def of(self, tensor: str) -> InputMoments | None:
        """None where nothing is known about the tensor, or the slice "NAME[i]"."""


def slice_name(tensor: str, part: int) -> str:
    return f"{tensor}[{part}]"


def whole_name(tensor: str) -> str:
    """The tensor of a slice."""
    return tensor.rpartition("[")[0] if tensor.endswith("]") else tensor


@dataclass
class MomentFile:
    """Moments that a MomentWriter saved; read one at a time.

    basis: what must be the same as when they were collected (fold.py), else ArgumentError.
    """

    path: Path
    basis: str = ""
    _names: dict[str, int] = field(default_factory=dict)
    _index: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self) -> None:
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                head = json.loads(bytes(stored["index"]).decode())
            self._index, basis = head["inputs"], str(head["basis"])
            self._names = {
                name: i for i, entry in enumerate(self._index) for name in entry["tensors"]
            }
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise ModelFileError(
                f"{self.path}: not a file of second moments that hrun-convert saved: {shown(error)}"
            ) from None
        if basis != self.basis:
            raise ArgumentError(
                f"{self.path}: collected with other channel scales than this conversion has; give the same --fold as then, "
                "or collect again"
            )

    def of(self, tensor: str) -> InputMoments | None:
        number = self._names.get(tensor)
        if number is None:
            return None
        entry = self._index[number]
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                values, power, peak, sample = (
                    stored[f"{kind}.{number}"] for kind in ("moments", "power", "peak", "sample")
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ModelFileError(
                f"{self.path}: moments of '{shown(tensor)}' cannot be read: {shown(error)}"
            ) from None
        cols, width = int(entry["cols"]), int(values.shape[-1]) if values.ndim == 3 else 0
        if (
            width < 1
            or values.shape != (-(-cols // width), width, width)
            or values.dtype != np.float32
            or power.shape != (cols,)
        ):
            raise ModelFileError(
                f"{self.path}: moments of '{shown(tensor)}' have the wrong shape {values.shape}"
            )
        return InputMoments(
            tuple(entry["tensors"]),
            cols,
            values,
            power.astype(np.float64),
            peak.astype(np.float64),
            int(entry["n_tokens"]),
            sample.astype(np.float32).reshape(-1, cols),
        )


class MomentWriter:
    """Appends inputs to a zip of arrays that numpy.load reads, one at a time; it
    appears under its name on finish()."""

    def __init__(self, path: Path, basis: str = "", inputs: Iterable[Path] = ()) -> None:
        """`inputs`: files that `path` must not be."""
        self._basis = basis
        self._index = list[dict[str, Any]]()
        self._partial = PartialFile(path, inputs)
        self._zip = zipfile.ZipFile(self._partial.path, "w", zipfile.ZIP_STORED, allowZip64=True)

    def add(self, moments: InputMoments) -> None:
        number = len(self._index)
        self._index.append(
            {"tensors": list(moments.tensors), "cols": moments.cols, "n_tokens": moments.n_tokens}
        )
        peak = moments.peak if moments.peak is not None else np.zeros(0)
        sample = (
            moments.sample
            if moments.sample is not None
            else np.zeros((0, moments.cols), np.float32)
        )
        for kind, values in (
            ("moments", moments.values),
            ("power", moments.power),
            ("peak", peak),
            ("sample", sample),
        ):
            self._write(f"{kind}.{number}", values)

    def finish(self) -> None:
        self._write(
            "index",
            np.frombuffer(
                json.dumps({"basis": self._basis, "inputs": self._index}).encode(), np.uint8
            ),
        )
        self._zip.close()
        self._partial.finish()

    def abandon(self) -> None:
        """After finish(), nothing."""
        with contextlib.suppress(OSError):  # a full disk, again
            self._zip.close()
        self._partial.discard()

    def _write(self, name: str, values: npt.NDArray[Any]) -> None:
        with self._zip.open(f"{name}.npy", "w", force_zip64=True) as out:
            np.lib.format.write_array(out, np.ascontiguousarray(values), allow_pickle=False)


class TextMoments:
    """Moments collected by running a model over text, in as many passes as the memory asks for.

    A pass sums as many inputs, in the order in which the model uses them, as fit `memory` bytes; asking for another input runs
    its pass.  Inputs whose full matrix would take more than a quarter of the memory are kept as diagonal
    blocks.  Raises whatever Model.load and forward raise.
    """

    def __init__(
        self,
        model: Path,
        tokens: Sequence[int],
        wanted: Callable[[str], bool],
        memory: int,
        n_threads: int = 0,
        chunk: int = CHUNK_TOKENS,
        first_token: int | None = None,
        report: Report | None = None,
        save: MomentWriter | None = None,
    ) -> None:
        self._tokens, self._chunk, self._first_token = tokens, chunk, first_token
        if not self._starts:
            raise ArgumentError(
                f"the calibration text has {len(tokens)} tokens, at least {chunk} are needed"
            )
        self._report, self._save = report, save
        self._model = _core.Model.load(str(model), n_threads=n_threads)
        self._session = _core.Session(self._model, chunk, n_batch=chunk)
        self._collector = _core.MomentCollector(self._model, 0, n_threads)
        self._session.forward(self._part(0)[:1], "last", self._collector)
        self._passes = self._plan(wanted, memory)
        inputs = self._collector.inputs
        self._pass_of = {
            name: number
            for number, chosen in enumerate(self._passes)
            for i, _ in chosen
            for name in inputs[i].tensors
        }
        self._saved: set[int] = set()
        self._held: dict[str, InputMoments] = {}

    @property
    def n_passes(self) -> int:
        return len(self._passes)

    @property
    def n_tokens(self) -> int:
        return len(self._starts) * self._chunk

    @property
    def _starts(self) -> range:
        """Of the chunks in the tokens."""
        return range(0, len(self._tokens) - self._chunk + 1, self._chunk)

    def _part(self, start: int) -> list[int]:
        return begun(self._tokens[start : start + self._chunk], self._first_token)

    def _plan(self, wanted: Callable[[str], bool], memory: int) -> list[list[tuple[int, int]]]:
        """Passes of (input number, width)."""
        passes: list[list[tuple[int, int]]] = []
        left = 0
        for number, found in enumerate(self._collector.inputs):
            if found.cols % 32 or not any(wanted(whole_name(name)) for name in found.tensors):
                continue
            width = found.cols
            while width > BLOCK and 4 * 4 * width * -(-found.cols // width) * width > memory:
                width = max(BLOCK, width // 2 // BLOCK * BLOCK)
            need = 4 * -(-found.cols // width) * width * width
            # Half of the memory is for the factor of the input that is being encoded, and the model's working memory.
            if not passes or need > left:
                passes.append([])
                left = memory // 2
            passes[-1].append((number, width))
            left -= need
        return passes

    def of(self, tensor: str) -> InputMoments | None:
        if tensor not in self._held and tensor in self._pass_of:
            self._run_pass(self._pass_of[tensor])
        return self._held.get(tensor)

    def every(self) -> Iterator[InputMoments]:
        """All inputs, pass by pass."""
        for number in range(self.n_passes):
            self._run_pass(number)
            yield from {id(moments): moments for moments in self._held.values()}.values()

    def finish(self) -> None:
        """Completes the file that is saved to, with the passes that nobody asked for."""
        if self._save is not None:
            for number in range(self.n_passes):
                if number not in self._saved:
                    self._run_pass(number)
            self._save.finish()
            self._save = None

    def _run_pass(self, pass_number: int) -> None:
        chosen = self._passes[pass_number]
        self._held = {}
        self._collector.select([number for number, _ in chosen], [width for _, width in chosen])
        inputs = self._collector.inputs
        # The head's input exists only where logits are computed.
        logits = "all" if any(number == len(inputs) - 1 for number, _ in chosen) else "none"
        what = (
            "calibrate"
            if self.n_passes == 1
            else f"calibrate, pass {pass_number + 1} of {self.n_passes}"
        )
        for start in self._starts:
            if self._report is not None:
                self._report(start, self.n_tokens, what)
            self._session.truncate(0)
            self._session.forward(self._part(start), logits, self._collector)
        for number, _ in chosen:
            found = inputs[number]
            if not found.n_tokens:  # an expert that the text never asked for
                continue
            moments = InputMoments(
                tuple(found.tensors),
                found.cols,
                found.moments(),
                found.power,
                found.peak,
                found.n_tokens,
                found.sample(),
            )
            if self._save is not None and pass_number not in self._saved:
                self._save.add(moments)
            self._held.update(dict.fromkeys(moments.tensors, moments))
        self._collector.select([], [])
        self._saved.add(pass_number)
        if self._report is not None:
            self._report(self.n_tokens, self.n_tokens, what)
