"""Second moments of matmul inputs: what the calibrated encoder minimises against.

A matmul with input x and weights W loses tr(dW H dW^T), H = E[x x^T].  Everything here is in the rotated basis of hrun's own
formats, except `power` and `peak`, which are per column of the original one.
"""

from __future__ import annotations

import contextlib
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from hrun.errors import ArgumentError, ModelFileError
from hrun.outputs import PartialFile

from .folder import shown
from .text import CHUNK_TOKENS

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
    """Gives the encoder the moments of a tensor's input; it is asked in the order of the file's
    tensors.
    """

    def of(self, tensor: str) -> InputMoments | None:
        """Returns None where nothing is known about the tensor, or the slice "NAME[i]"."""


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
        return None if number is None else self._read(number)

    def every(self) -> Iterator[InputMoments]:
        """All inputs, one at a time."""
        yield from map(self._read, range(len(self._index)))

    def _read(self, number: int) -> InputMoments:
        entry = self._index[number]
        tensor = entry["tensors"][0]
        try:
            with np.load(self.path, allow_pickle=False) as stored:
                values, power, peak, sample = (
                    stored[f"{kind}.{number}"] for kind in ("moments", "power", "peak", "sample")
                )
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ModelFileError(
                f"{self.path}: moments of '{shown(tensor)}' cannot be read: {shown(error)}"
            ) from None
        if values.ndim == 2:
            values = _whole(values)
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


def _lower(values: Floats) -> Floats:
    """Symmetric [groups, width, width] to their rows up to the diagonal, [groups, width (width + 1) / 2]."""
    groups, width, _ = values.shape
    out = np.empty((groups, width * (width + 1) // 2), values.dtype)
    for rows, matrix in zip(out, values):
        at = 0
        for i in range(width):
            rows[at : at + i + 1] = matrix[i, : i + 1]
            at += i + 1
    return out


def _whole(rows: Floats) -> Floats:
    """Returns the matrices that _lower() was given."""
    groups, n = rows.shape
    width = (math.isqrt(8 * n + 1) - 1) // 2
    out = np.empty((groups, width, width), rows.dtype)
    for matrix, values in zip(out, rows):
        at = 0
        for i in range(width):
            matrix[i, : i + 1] = values[at : at + i + 1]
            at += i + 1
        for first in range(0, width, BLOCK):
            last = min(first + BLOCK, width)
            corner = matrix[first:last, first:last]
            corner[:] = np.tril(corner) + np.tril(corner, -1).T
            matrix[:first, first:last] = matrix[first:last, :first].T
    return out


class MomentWriter:
    """Appends inputs to a zip of arrays that numpy.load reads, one at a time; it
    appears under its name on finish()."""

    def __init__(
        self, path: Path, basis: str = "", inputs: Iterable[Path] = (), halved: bool = False
    ) -> None:
        """`inputs`: files that `path` must not be.  `halved`: matrices without what is above their diagonals."""
        self._basis, self._halved = basis, halved
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
            ("moments", _lower(moments.values) if self._halved else moments.values),
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
        """Discards the file; does nothing after finish()."""
        with contextlib.suppress(OSError):  # a full disk, again
            self._zip.close()
        self._partial.discard()

    def _write(self, name: str, values: npt.NDArray[Any]) -> None:
        with self._zip.open(f"{name}.npy", "w", force_zip64=True) as out:
            np.lib.format.write_array(out, np.ascontiguousarray(values), allow_pickle=False)
