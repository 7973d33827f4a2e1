"""llama.cpp's importance matrices as second moments.

Both kinds hold the mean of x^2 per column of a tensor's input.  A diagonal matrix of them is dyadic in the rotated basis:
the 256-point transform of diag(p) has entry P[i xor j] at (i, j), P the transform of p divided by 256; signs cancel.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.errors import ModelFileError

from .folder import shown
from .moments import BLOCK, InputMoments, slice_name

Doubles = npt.NDArray[np.float64]

_LIMIT = 1 << 31  # bytes
_MAX_NAME = 1 << 12


@dataclass
class ImportanceMatrix:
    """power: per tensor name, mean of x^2 per column, float64 [cols]."""

    path: Path
    power: dict[str, Doubles] = field(default_factory=dict)
    _last: tuple[str, InputMoments] | None = None

    def of(self, tensor: str) -> InputMoments | None:
        if tensor not in self.power:
            return None
        if self._last is None or self._last[0] != tensor:
            power = self.power[tensor]
            self._last = (
                tensor,
                InputMoments((tensor,), power.size, dyadic_moments(power), power, None, 0),
            )
        return self._last[1]


def dyadic_moments(power: Doubles) -> npt.NDArray[np.float32]:
    """R diag(power) R^T per block of 256 columns, float32 [groups, 256, 256]; a short last block in the leading part."""
    cols = power.size
    width = min(BLOCK, cols)
    out = np.zeros((-(-cols // width), width, width), np.float32)
    for group, first in enumerate(range(0, cols, width)):
        block, done = power[first : first + width], 0
        while done < block.size:  # the tail is rotated in pieces of 128, 64 and 32
            piece = max(n for n in (32, 64, 128, 256) if n <= block.size - done)
            transformed = _walsh(block[done : done + piece]) / piece
            i = np.arange(piece)
            out[group, done : done + piece, done : done + piece] = transformed[
                i[:, None] ^ i[None, :]
            ]
            done += piece
    return out


def _walsh(values: Doubles) -> Doubles:
    """Unnormalised transform in natural order."""
    out = values.astype(np.float64)
    half = 1
    while half < out.size:
        pairs = out.reshape(-1, 2, half)
        out = np.stack([pairs[:, 0] + pairs[:, 1], pairs[:, 0] - pairs[:, 1]], axis=1).reshape(-1)
        half *= 2
    return out


def read_imatrix(path: Path) -> ImportanceMatrix:
    """A file of llama-imatrix, GGUF or the older binary form.  Raises ModelFileError."""
    if not path.is_file():
        raise ModelFileError(f"{path}: no such file")
    with open(path, "rb") as handle:
        is_gguf = handle.read(4) == b"GGUF"
    found = _read_gguf(path) if is_gguf else _read_binary(path)
    if not found:
        raise ModelFileError(f"{path}: holds no importance values")
    for name, power in found.items():
        if not (np.isfinite(power).all() and (power >= 0).all()):
            raise ModelFileError(
                f"{path}: the importance of '{shown(name)}' has values that are negative or not finite"
            )
    return ImportanceMatrix(path, found)


def _read_gguf(path: Path) -> dict[str, Doubles]:
    """NAME.in_sum2, sums of squares [experts, cols], and NAME.counts, [experts, 1]."""
    file = _core.GGUFFile(str(path))
    if file.metadata.get("general.type") != "imatrix":
        raise ModelFileError(
            f"{path}: a GGUF file, but general.type is '{shown(file.metadata.get('general.type'))}', not 'imatrix'"
        )
    arrays = {str(t.name): (t, t.shape) for t in file.tensors}
    found: dict[str, Doubles] = {}
    for name, (tensor, shape) in arrays.items():
        if not name.endswith(".in_sum2"):
            continue
        base = name[: -len(".in_sum2")]
        counts = arrays.get(f"{base}.counts")
        if counts is None or tensor.format != "f32" or counts[0].format != "f32":
            raise ModelFileError(f"{path}: '{shown(name)}' has no counts, or they are not F32")
        sums = np.frombuffer(tensor.data, np.float32).astype(np.float64).reshape(-1, shape[0])
        n = np.frombuffer(counts[0].data, np.float32).astype(np.float64)
        if n.size != sums.shape[0]:
            raise ModelFileError(
                f"{path}: '{shown(base)}' has {sums.shape[0]} sums and {n.size} counts"
            )
        if n.sum() > 0:
            found[base] = sums.sum(axis=0) / n.sum()
        if n.size > 1:
            found |= {slice_name(base, i): sums[i] / n[i] for i in range(n.size) if n[i] > 0}
    file.check_readable()
    return found


def _read_binary(path: Path) -> dict[str, Doubles]:
    """int32 entries, then per entry: int32 length and name, int32 calls, int32 n, n float32 (mean of x^2 times calls)."""
    if path.stat().st_size > _LIMIT:
        raise ModelFileError(f"{path}: too large for an importance matrix")
    data = path.read_bytes()
    at = 0

    def number(what: str, largest: int) -> int:
        nonlocal at
        if at + 4 > len(data):
            raise ModelFileError(
                f"{path}: ends at byte {len(data)} inside {what}; not an importance matrix of llama-imatrix"
            )
        value: int = struct.unpack_from("<i", data, at)[0]
        if not 0 <= value <= largest:
            raise ModelFileError(
                f"{path}: {what} at byte {at} is {value}; not an importance matrix of llama-imatrix"
            )
        at += 4
        return value

    found: dict[str, Doubles] = {}
    for _ in range(number("the number of entries", 1 << 20)):
        length = number("the length of a name", _MAX_NAME)
        name = data[at : at + length].decode("utf-8", "replace")
        at += length
        calls = number(f"the calls of '{shown(name)}'", (1 << 31) - 1)
        n = number(f"the size of '{shown(name)}'", max(0, len(data) - at - 4) // 4)
        values = np.frombuffer(data, "<f4", n, at).astype(np.float64)
        at += 4 * n
        if n and calls:
            found[name] = values / calls
    return found
