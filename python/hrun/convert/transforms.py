"""Turns tensors of a checkpoint into tensors of a GGUF file: stacked, reordered, transposed, taken
apart.

A transform gets the stored tensors (one, or one per slice), each with `shape` and `rows(first, last, cols)`, and gives the
reader of the written rows and the step in which they may be read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


class Stored(Protocol):
    """A tensor of a checkpoint, whatever it is coded in.  shape: outermost first.  format: hrun's name, for the table."""

    @property
    def name(self) -> str: ...

    @property
    def shown_path(self) -> str: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def format(self) -> str: ...

    def rows(self, first: int, last: int, cols: int) -> Floats:
        """Rows first to last of the tensor seen as [n, cols], float32 [last - first, cols].  Thread-safe."""


@dataclass(frozen=True)
class Target:
    """The tensor that is written: `slices` matrices of [rows, cols] (rows 1: vectors); sizes by
    dimension name.
    """

    rows: int
    cols: int
    slices: int
    sliced: bool
    vector: bool
    sizes: dict[str, int]


Reader = Callable[[int, int], Floats]
Made = tuple[Reader, int]
Shape = tuple[int, ...]


def plain_shape(t: Target) -> Shape:
    one = (t.cols,) if t.vector else (t.rows, t.cols)
    return (t.slices, *one) if t.sliced else one


def _transposed_shape(t: Target) -> Shape:
    return (t.slices, t.cols, t.rows) if t.sliced else (t.cols, t.rows)


def _joined_shape(t: Target) -> Shape:
    return (t.slices * t.rows, t.cols)


def _joined_transpose_shape(t: Target) -> Shape:
    return (t.slices * t.cols, t.rows)


def _paired_transposed_shape(t: Target) -> Shape:
    return (t.slices, t.cols, 2 * t.rows)


def _twice_the_rows_shape(t: Target) -> Shape:
    return (t.slices, 2 * t.rows, t.cols) if t.sliced else (2 * t.rows, t.cols)


def _paired_values_shape(t: Target) -> Shape:
    return (t.slices, 2 * t.cols) if t.sliced else (2 * t.cols,)


def _latent_shape(t: Target) -> Shape:
    s = t.sizes
    return (s["heads"] * (s["nope"] + s["latent_v"]), s["latent_kv"])


def _as_is(stored: Stored, t: Target) -> Made:
    return (lambda first, last: stored.rows(first, last, t.cols)), 1


def _after_padding_shape(t: Target) -> Shape:
    return (t.rows + t.sizes.get("position_offset", 0), t.cols)


def _after_padding(stored: Stored, t: Target) -> Made:
    offset = t.sizes.get("position_offset", 0)
    return (lambda first, last: stored.rows(first + offset, last + offset, t.cols)), 1


def _first_row_beyond_shape(t: Target) -> Shape:
    return (min(t.rows, t.sizes["per_layer_vocab"]), t.cols)


def _first_row_beyond(stored: Stored, t: Target) -> Made:
    n = stored.shape[0]

    def read(first: int, last: int) -> Floats:
        there = stored.rows(min(first, n - 1), max(min(last, n), min(first, n - 1) + 1), t.cols)
        if last <= n:
            return there
        beyond = np.repeat(stored.rows(0, 1, t.cols), last - max(first, n), axis=0)
        return beyond if first >= n else np.concatenate([there, beyond])

    return read, 1


def _plus_one(stored: Stored, t: Target) -> Made:
    return (lambda first, last: stored.rows(first, last, t.cols) + np.float32(1)), 1


def _interleave_heads(stored: Stored, t: Target) -> Made:
    """Rows of a head from pairs (i, i + n/2) of the n that are turned, as Hugging Face has them, to (2i, 2i + 1), as
    GGUF's llama has them.
    """
    head_dim, half, cols = t.sizes["head"], t.sizes["half_rot"], t.cols
    order = np.arange(head_dim)
    order[: 2 * half] = order[: 2 * half].reshape(2, half).T.reshape(-1)
    if t.rows == 1:  # a bias: one row of heads * head_dim values
        return (
            lambda first, last: (
                stored.rows(first, last, cols)
                .reshape(-1, head_dim)[:, order]
                .reshape(last - first, cols)
            )
        ), 1
    return (
        lambda first, last: (
            stored.rows(first, last, cols)
            .reshape(-1, head_dim, cols)[:, order]
            .reshape(last - first, cols)
        )
    ), head_dim


def _per_slice(t: Target, one: Callable[[int], Floats]) -> Made:
    """Reads whole slices: one(i) is slice i as [rows, cols]."""

    def read(first: int, last: int) -> Floats:
        parts = [one(i) for i in range(first // t.rows, -(-last // t.rows))]
        out = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return np.ascontiguousarray(out, dtype=np.float32)

    return read, t.rows


def _transpose(stored: Stored, t: Target) -> Made:
    return _per_slice(t, lambda i: stored.rows(i * t.cols, (i + 1) * t.cols, t.rows).T)


def _paired_rows_transposed(odd: int) -> Callable[[Stored, Target], Made]:
    return lambda stored, t: _per_slice(
        t, lambda i: stored.rows(i * t.cols, (i + 1) * t.cols, 2 * t.rows).T[odd::2]
    )


def _half_rows(second: int) -> Callable[[Stored, Target], Made]:
    """Takes the first or the second half of slices that have twice the rows."""
    return lambda stored, t: _per_slice(
        t,
        lambda i: stored.rows((2 * i + second) * t.rows, (2 * i + second + 1) * t.rows, t.cols),
    )


def _half_rows_transposed(second: int) -> Callable[[Stored, Target], Made]:
    return lambda stored, t: _per_slice(
        t,
        lambda i: stored.rows(i * t.cols, (i + 1) * t.cols, 2 * t.rows).T[
            second * t.rows : (second + 1) * t.rows
        ],
    )


def _paired_values(odd: int) -> Callable[[Stored, Target], Made]:
    return lambda stored, t: (
        (lambda first, last: np.ascontiguousarray(stored.rows(first, last, 2 * t.cols)[:, odd::2])),
        1,
    )


def _latent_keys(stored: Stored, t: Target) -> Made:
    step = t.sizes["nope"] + t.sizes["latent_v"]
    return _per_slice(
        t, lambda h: stored.rows(h * step, h * step + t.sizes["nope"], t.sizes["latent_kv"]).T
    )


def _latent_values(stored: Stored, t: Target) -> Made:
    step = t.sizes["nope"] + t.sizes["latent_v"]
    return _per_slice(
        t, lambda h: stored.rows(h * step + t.sizes["nope"], (h + 1) * step, t.sizes["latent_kv"])
    )


def _same_shape_gathered(order_of: Callable[[Target], npt.NDArray[np.int64]]) -> Any:
    """Rows (of a vector, values) in another order: row i of what is written is row order[i] of what is stored."""

    def make(stored: Stored, t: Target) -> Made:
        order = order_of(t)
        if t.vector:
            return (lambda first, last: stored.rows(first, last, t.cols)[:, order]), 1
        return _gathered(stored, order, t.cols), 1

    return make


def _gathered(stored: Stored, order: npt.NDArray[np.int64], cols: int) -> Reader:
    def read(first: int, last: int) -> Floats:
        wanted = order[first:last]
        parts, at = [], 0
        for end in [*(np.flatnonzero(np.diff(wanted) != 1) + 1), wanted.size]:  # runs
            parts.append(stored.rows(int(wanted[at]), int(wanted[end - 1]) + 1, cols))
            at = int(end)
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return read


def _tiled(sizes: dict[str, int], n: int) -> npt.NDArray[np.int64]:
    """Returns the order of n rows in value heads.

    The file stores together all value heads that read one key head.  The result has those that read
    key heads 0, 1, 2 ... in turn, over and over.
    """
    keys, values = sizes["delta_key_heads"], sizes["delta_heads"]
    heads = np.arange(n, dtype=np.int64).reshape(keys, values // keys, n // values)
    return heads.swapaxes(0, 1).reshape(-1)


def _tile_heads(t: Target) -> npt.NDArray[np.int64]:
    return _tiled(t.sizes, t.cols if t.vector else t.rows)


def _tile_last_heads(t: Target) -> npt.NDArray[np.int64]:
    n_values = t.sizes["delta_v"]
    return np.concatenate(
        [np.arange(t.rows - n_values), t.rows - n_values + _tiled(t.sizes, n_values)]
    )


def _by_key_head(t: Target) -> list[npt.NDArray[np.int64]]:
    """Rows of queries, keys, values and gates, where those of a key head lie together."""
    s = t.sizes
    keys, k_dim = s["delta_key_heads"], s["delta_key_head"]
    v = s["delta_v"] // keys
    group = np.arange(keys * (2 * k_dim + 2 * v), dtype=np.int64).reshape(keys, -1)
    return [part.reshape(-1) for part in np.split(group, [k_dim, 2 * k_dim, 2 * k_dim + v], axis=1)]


def _by_key_head_shape(t: Target) -> Shape:
    return (t.sizes["delta_qkv"] + t.sizes["delta_v"], t.cols)


def _of_key_groups(t: Target) -> list[npt.NDArray[np.int64]]:
    """Rows (of a vector, values) of queries, keys and values, where those of one head of keys lie together."""
    s = t.sizes
    groups, head = s["kv_heads"], s["head"]
    per_group = s["heads"] // groups
    rows = np.arange(groups * (per_group + 2) * head, dtype=np.int64)
    parts = rows.reshape(groups, per_group + 2, head)
    return [p.reshape(-1) for p in (parts[:, :-2], parts[:, -2], parts[:, -1])]


def _key_groups_shape(t: Target) -> Shape:
    return (t.sizes["qkv"],) if t.vector else (t.sizes["qkv"], t.cols)


def _interleaved(order: npt.NDArray[np.int64], t: Target) -> npt.NDArray[np.int64]:
    return order.reshape(-1, 2, t.sizes["head"] // 2).swapaxes(1, 2).reshape(-1)


def _taps_shape(t: Target) -> Shape:
    """A convolution of each channel by itself has [channels, 1, taps]."""
    return (t.rows, 1, t.cols) if t.cols == t.sizes["conv_taps"] else plain_shape(t)


def _column_shape(t: Target) -> Shape:
    return (t.rows,)


def _groups_shape(t: Target) -> Shape:
    return (t.slices * t.cols,)


def _tile_head_columns(stored: Stored, t: Target) -> Made:
    order = _tiled(t.sizes, t.cols)
    return (lambda first, last: stored.rows(first, last, t.cols)[:, order]), 1


def _minus_exp(make: Callable[[Stored, Target], Made]) -> Callable[[Stored, Target], Made]:
    def made(stored: Stored, t: Target) -> Made:
        read, step = make(stored, t)
        return (
            lambda first, last: (-np.exp(read(first, last).astype(np.float64))).astype(np.float32)
        ), step

    return made


# Name in the Transform enumeration -> (the stored tensor's shape, the reader).
TRANSFORMS: dict[str, tuple[Callable[[Target], Shape], Callable[[Stored, Target], Made]]] = {
    "none": (plain_shape, _as_is),
    "interleave_q_heads": (plain_shape, _interleave_heads),
    "interleave_k_heads": (plain_shape, _interleave_heads),
    "plus_one": (plain_shape, _plus_one),
    "transpose": (_transposed_shape, _transpose),
    "fourth": (plain_shape, _as_is),
    "joined": (_joined_shape, _as_is),
    "joined_transpose": (_joined_transpose_shape, _transpose),
    "even_rows_transposed": (_paired_transposed_shape, _paired_rows_transposed(0)),
    "odd_rows_transposed": (_paired_transposed_shape, _paired_rows_transposed(1)),
    "first_half": (_twice_the_rows_shape, _half_rows(0)),
    "second_half": (_twice_the_rows_shape, _half_rows(1)),
    "first_half_transposed": (_paired_transposed_shape, _half_rows_transposed(0)),
    "second_half_transposed": (_paired_transposed_shape, _half_rows_transposed(1)),
    "even_values": (_paired_values_shape, _paired_values(0)),
    "odd_values": (_paired_values_shape, _paired_values(1)),
    "latent_keys": (_latent_shape, _latent_keys),
    "latent_values": (_latent_shape, _latent_values),
    "taps": (_taps_shape, _as_is),
    "first_row_beyond": (_first_row_beyond_shape, _first_row_beyond),
    "after_padding": (_after_padding_shape, _after_padding),
    "tile_heads": (plain_shape, _same_shape_gathered(_tile_heads)),
    "tile_last_heads": (_taps_shape, _same_shape_gathered(_tile_last_heads)),
    "tile_head_columns": (plain_shape, _tile_head_columns),
    "tile_heads_minus_exp": (plain_shape, _minus_exp(_same_shape_gathered(_tile_heads))),
    "minus_exp": (plain_shape, _minus_exp(_as_is)),
    "delta_groups_qkv": (
        _by_key_head_shape,
        _same_shape_gathered(lambda t: np.concatenate(_by_key_head(t)[:3])),
    ),
    "key_groups": (
        _key_groups_shape,
        _same_shape_gathered(lambda t: np.concatenate(_of_key_groups(t))),
    ),
    "key_groups_q": (
        _key_groups_shape,
        _same_shape_gathered(lambda t: _interleaved(_of_key_groups(t)[0], t)),
    ),
    "key_groups_k": (
        _key_groups_shape,
        _same_shape_gathered(lambda t: _interleaved(_of_key_groups(t)[1], t)),
    ),
    "key_groups_v": (_key_groups_shape, _same_shape_gathered(lambda t: _of_key_groups(t)[2])),
    "column": (_column_shape, _as_is),
    "column_minus_exp": (_column_shape, _minus_exp(_as_is)),
    "groups": (_groups_shape, _as_is),
    "delta_groups_gate": (_by_key_head_shape, _same_shape_gathered(lambda t: _by_key_head(t)[3])),
}

# If a tensor's columns are coded (quantized_checkpoint.py): the columns that a transform keeps, as
# rows.
CODED_ROWS: dict[str, slice] = {
    "transpose": slice(None),
    "even_rows_transposed": slice(0, None, 2),
    "odd_rows_transposed": slice(1, None, 2),
}


def stacked(readers: list[Reader], rows: int) -> Reader:
    """Rows of several tensors of `rows` rows each, one after the other."""

    def read(first: int, last: int) -> Floats:
        parts = []
        while first < last:
            which, at = divmod(first, rows)
            end = min(last, (which + 1) * rows)
            parts.append(readers[which](at, at + end - first))
            first = end
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    return read
