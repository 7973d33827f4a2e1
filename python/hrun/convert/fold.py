"""Channel scales folded between tensors before coding: the function of the model stays, its weights become even.

A column of a matrix may be scaled by s if what feeds it is scaled by 1/s: the norm before it, the up-projection's rows before
the down-projection, the value rows before the attention's output.  Columns of equal rms are the form of least error: within a
block of 256 the rotation spreads the mean power of the weights over all of them, while the error feedback pays for the
geometric mean of the inputs' (encoder: cpp/encode/input_moments.h).  And it is the same form whatever scales somebody
else folded in before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import numpy.typing as npt

from .source import Source, SourceTensor

Floats = npt.NDArray[np.float32]

# Architectures whose blocks are: norm, q k v, attention, output; norm, gate up, silu product, down - and nothing else that reads
# or writes the folded channels.
_PLAIN_BLOCKS = ("llama", "qwen2", "qwen3")
_SAMPLE_ROWS = 256
# Below this ratio between the columns' rms, folding changes the error by less than 2 % in either direction (measured on the
# demo checkpoint: 1.07 to 6.7, -2 % to +1 %); hostile scales of 30 make it hundreds of times larger.
UNEVEN = 8.0


@dataclass(frozen=True)
class Fold:
    """Scales of the channels between one writer and its readers.

    scale [cols] multiplies the columns of `readers`; the source of the channels gets the inverse.
    """

    readers: tuple[str, ...]
    writer: str
    scale: Floats


def fold_channels(source: Source, threshold: float = UNEVEN) -> tuple[Source, list[Fold]]:
    """The source with the channels evened where their rms differs by more than `threshold` (0: everywhere it can be done)."""
    by_name = {tensor.name: tensor for tensor in source.tensors}
    if (
        next((e.value for e in source.metadata if e.key == "general.architecture"), None)
        not in _PLAIN_BLOCKS
    ):
        return source, []
    folds = []
    layer = 0
    while f"blk.{layer}.attn_norm.weight" in by_name:
        at = partial(_find, by_name, layer)
        for readers, writer in (
            (("attn_q", "attn_k", "attn_v"), "attn_norm"),
            (("ffn_gate", "ffn_up"), "ffn_norm"),
            (("ffn_down",), "ffn_up"),
            (("attn_output",), "attn_v"),
        ):
            matrices, feeds = [at(name) for name in readers], at(writer)
            if (
                feeds is None
                or any(m is None for m in matrices)
                or (f"blk.{layer}.{writer}.bias" in by_name)
            ):
                continue
            fold = _fold([m for m in matrices if m is not None], feeds, threshold, source)
            if fold is not None:
                folds.append(fold)
        layer += 1
    if not folds:
        return source, []
    columns = {name: fold.scale for fold in folds for name in fold.readers}
    rows = {fold.writer: fold for fold in folds}
    tensors = [
        _scaled(tensor, columns.get(tensor.name), _row_scale(rows.get(tensor.name), tensor))
        for tensor in source.tensors
    ]
    digest = hashlib.sha256(
        b"".join(fold.writer.encode() + fold.scale.tobytes() for fold in folds)
    ).hexdigest()
    return replace(source, tensors=tensors, basis=f"folded {digest[:16]}"), folds


def _find(by_name: dict[str, SourceTensor], layer: int, role: str) -> SourceTensor | None:
    return by_name.get(f"blk.{layer}.{role}.weight")


def _sample(tensor: SourceTensor) -> Floats:
    step = tensor.row_step
    n = max(1, min(tensor.rows, _SAMPLE_ROWS) // step)
    firsts = sorted({i * (tensor.rows // step) // n * step for i in range(n)})
    return np.concatenate(
        [tensor.read_rows(first, min(first + step, tensor.rows)) for first in firsts]
    )


def _fold(
    matrices: Sequence[SourceTensor], writer: SourceTensor, threshold: float, source: Source
) -> Fold | None:
    rms = np.sqrt(
        np.mean([np.square(_sample(m), dtype=np.float64).mean(axis=0) for m in matrices], axis=0)
    )
    is_norm = len(writer.shape) == 1
    n_channels = writer.cols if is_norm else writer.rows
    if (
        not is_norm and n_channels != rms.size
    ):  # grouped attention: the heads of a group read the same values
        head = _integer(source, "attention.value_length") or _integer(
            source, "embedding_length"
        ) // max(1, _integer(source, "attention.head_count"))
        if head <= 0 or n_channels % head or rms.size % n_channels:
            return None
        heads, group = n_channels // head, rms.size // n_channels
        shared = np.sqrt(np.square(rms).reshape(heads, group, head).mean(axis=1))
        rms = np.repeat(shared[:, None], group, axis=1).reshape(-1)
    if (
        rms.size % max(n_channels, 1)
        or not np.isfinite(rms).all()
        or rms.min() <= 0
        or rms.max() < threshold * rms.min()
    ):
        return None
    # Scales are powers of two, which are exact in every float format.
    scale = np.exp2(np.rint(np.log2(np.exp(np.log(rms).mean()) / rms)))
    if (scale == 1).all():
        return None
    return Fold(tuple(m.name for m in matrices), writer.name, scale.astype(np.float32))


def _integer(source: Source, key: str) -> int:
    return next(
        (
            e.value
            for e in source.metadata
            if e.key.endswith(f".{key}") and isinstance(e.value, int)
        ),
        0,
    )


def _row_scale(fold: Fold | None, tensor: SourceTensor) -> Floats | None:
    """Returns the factors by which the writer's rows (a norm's values) are multiplied."""
    if fold is None:
        return None
    n = tensor.cols if len(tensor.shape) == 1 else tensor.rows
    scale = fold.scale
    if scale.size != n:  # repeated for the heads of a group, which are neighbours
        heads_times_group = scale.size // n
        head = _period(scale, n, heads_times_group)
        scale = scale.reshape(n // head, heads_times_group, head)[:, 0].reshape(-1)
    return (1 / scale).astype(np.float32)


def _period(scale: Floats, n: int, group: int) -> int:
    """Returns the length of a head: the largest for which the scales of a group's heads agree."""
    for head in sorted((d for d in range(1, n + 1) if n % d == 0), reverse=True):
        parts = scale.reshape(n // head, group, head)
        if (parts == parts[:, :1]).all():
            return head
    raise AssertionError("the scales of a group's heads differ")


def _scaled(tensor: SourceTensor, columns: Floats | None, rows: Floats | None) -> SourceTensor:
    if columns is None and rows is None:
        return tensor
    is_vector = len(tensor.shape) == 1

    def read_rows(first: int, last: int) -> Floats:
        values = tensor.read_rows(first, last).copy()
        if columns is not None:
            values *= columns
        if rows is not None:
            values *= rows if is_vector else rows[first:last, None]
        return np.ascontiguousarray(values, np.float32)

    return replace(tensor, read_rows=read_rows, read_bytes=None)
