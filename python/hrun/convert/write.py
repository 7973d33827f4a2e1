"""Encodes a plan into a GGUF file that appears under its name only when it is complete.

The file is written as NAME.partial-PID beside its destination, validated, flushed to disk and renamed.  Memory holds one
encoded tensor and a few slices of its rows.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import struct
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.errors import ConversionError, UnsupportedModelError
from hrun.outputs import PartialFile, checked_output

from .encoding import Encoder
from .folder import shown
from .plan import ConversionPlan, PlannedTensor
from .source import Entry, Source
from .table import size_text

if TYPE_CHECKING:
    from .check_result import Check

_SLICE_VALUES = (
    1 << 18
)  # weights per encoding task: large against the call's cost, small against a tensor

_ROWS_TOGETHER = 4  # that the calibrated search codes side by side (ldlq.cpp)

Bytes = npt.NDArray[np.uint8]
Progress = Callable[[int, int, str], None]


def check_output(source: Source, output: Path) -> Path:
    """The real path to write.  Raises ArgumentError for an output that is an input, not a file, or in no folder."""
    return checked_output(output, source.files)


def write_plan(
    plan: ConversionPlan,
    output: Path,
    n_threads: int = 0,
    progress: Progress | None = None,
    encoder: Encoder | None = None,
    inspect: Callable[[Path], Check | None] | None = None,
    kept: Path | None = None,
) -> int:
    """Writes the file and returns its size in bytes; an existing file is replaced at the end, in one step.

    progress(weights done, all weights, tensor) is called as slices finish.  n_threads 0: all of the machine's.
    encoder: how weights are coded, without calibration if None.  inspect: looks at the complete file before it gets its
    name; what it finds is stored in the file.
    kept: a folder for coded tensors, in which those of a process that was killed may lie; not for another plan.
    Raises ArgumentError, ConversionError (weights not finite or beyond the format, full disk), ModelFileError; after an
    error or KeyboardInterrupt nothing new is in the folder and an old file is untouched.
    """
    metadata = file_metadata(plan)
    if inspect is not None:
        metadata = [*_CHECK_ENTRIES, *metadata]
    _check_free_space(plan, metadata, check_output(plan.source, output))
    n_threads = n_threads or len(os.sched_getaffinity(0))
    try:
        with PartialFile(output, plan.source.files) as partial:
            writer = _core.GGUFWriter(str(partial.path))
            try:
                for entry in metadata:
                    writer.add(entry.key, entry.type, entry.value)
                for planned in plan.tensors:
                    writer.add_tensor(
                        planned.tensor.name, list(planned.tensor.shape), planned.format.name
                    )
                _write_tensors(plan, writer, n_threads, progress, encoder or Encoder(), kept)
                writer.finish()
            except BaseException:
                writer.abort()
                raise
            _validate(partial.path, plan)
            if inspect is not None and (found := inspect(partial.path)) is not None:
                _store_check(partial.path, found)
            size = partial.path.stat().st_size
            partial.finish()
    except OSError as error:
        raise ConversionError(
            f"{output}: {error.strerror or error}; nothing was written"
        ) from error
    return size


# They stand first in the file, so that their places are known.
_CHECK_ENTRIES = (
    Entry("hrun.check.tokens", "u32", 0),
    Entry("hrun.check.mean_kld", "f32", math.nan),
    Entry("hrun.check.same_top", "f32", math.nan),
    Entry("hrun.check.greedy_alike", "f32", math.nan),
)
_HEADER_BYTES = 24  # of GGUF: magic, version, two counts


def _store_check(path: Path, found: Check) -> None:
    """Writes the check's results over the placeholders of _CHECK_ENTRIES."""
    values = (
        struct.pack("<I", found.n_tokens),
        struct.pack("<f", found.mean_divergence),
        struct.pack("<f", found.same_top),
        struct.pack("<f", found.greedy_alike),
    )
    at = _HEADER_BYTES
    with open(path, "r+b") as file:
        for entry, value in zip(_CHECK_ENTRIES, values):
            at += 8 + len(entry.key) + 4  # length, key, type
            file.seek(at)
            file.write(value)
            at += len(value)


def _write_tensors(
    plan: ConversionPlan,
    writer: _core.GGUFWriter,
    n_threads: int,
    progress: Progress | None,
    encoder: Encoder,
    kept: Path | None,
) -> None:
    done, total = 0, plan.n_values

    def advance(n: int, name: str) -> None:
        nonlocal done
        done += n
        if progress is not None:
            progress(done, total, name)

    with encoding_pool(n_threads) as pool:
        for number, planned in enumerate(plan.tensors):
            place = kept / f"coded-{number}" if kept is not None else None
            if place is not None and place.exists():
                data = np.fromfile(place, np.uint8)
                advance(planned.tensor.n_values, planned.tensor.name)
            else:
                data = encode_tensor(planned, pool, n_threads, advance, encoder)
                if place is not None and planned.tensor.format != planned.format.name:
                    new = place.with_name("coded.new")
                    data.tofile(new)
                    os.replace(new, place)
            writer.write_tensor(planned.tensor.name, data)
            del data  # before the next one is made
        encoder.finish()


@contextlib.contextmanager
def encoding_pool(n_threads: int) -> Iterator[ThreadPoolExecutor]:
    pool = ThreadPoolExecutor(n_threads, thread_name_prefix="hrun-encode")
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def encode_tensor(
    planned: PlannedTensor,
    pool: ThreadPoolExecutor,
    n_threads: int,
    advance: Callable[[int, str], None],
    encoder: Encoder,
) -> Bytes:
    """All blocks of the tensor, uint8 [n_bytes], encoded in slices of rows by the pool."""
    tensor, info = planned.tensor, planned.format
    as_is = (
        tensor.read_bytes()
        if tensor.read_bytes is not None and tensor.format == info.name
        else None
    )
    out = as_is if as_is is not None else np.empty(planned.n_bytes, np.uint8)
    row_bytes = info.row_bytes(tensor.cols)

    def encode(first: int, last: int) -> int:
        weights = tensor.read_rows(first, last)
        _check_weights(planned, weights, first)
        if as_is is None:
            out[first * row_bytes : last * row_bytes] = encoder.encode(info, weights, tensor.name)
        return (last - first) * tensor.cols

    def run(begin: int, end: int) -> None:
        is_slow = as_is is None and encoder.is_slow
        slice_values = _SLICE_VALUES // 8 if is_slow else _SLICE_VALUES
        rows = max(_ROWS_TOGETHER if is_slow else 1, slice_values // tensor.cols)
        step = max(tensor.row_step, rows // tensor.row_step * tensor.row_step)
        running: deque[Future[int]] = deque()
        try:
            for first in range(begin, end, step):
                if len(running) > 2 * n_threads:  # bounds the slices in memory
                    advance(running.popleft().result(), tensor.name)
                last = min(first + step, end)
                try:
                    running.append(pool.submit(encode, first, last))
                except RuntimeError:  # the system gives no more threads
                    advance(encode(first, last), tensor.name)
            while running:
                advance(running.popleft().result(), tensor.name)
        except BaseException:
            for future in running:
                future.cancel()
            raise

    if as_is is None and encoder.has_parts(tensor, info):
        for part in range(tensor.shape[2]):
            encoder.prepare(tensor, info, part)
            run(part * tensor.shape[1], (part + 1) * tensor.shape[1])
        return out
    if as_is is None:
        encoder.prepare(tensor, info)
    run(0, tensor.rows)
    return out


def _check_weights(
    planned: PlannedTensor, weights: npt.NDArray[np.float32], first_row: int
) -> None:
    """Raises ConversionError that names the first weight that is not finite or beyond the format's range."""
    limit = planned.format.max_weight if planned.format.encodable else np.finfo(np.float32).max
    if weights.size == 0 or (
        weights.min() >= -limit and weights.max() <= limit
    ):  # false if any is NaN
        return
    row, col = np.argwhere(~(np.abs(weights) <= limit))[0]
    found = weights[row, col]
    why = (
        f"{planned.format.name.upper()} holds magnitudes up to {limit:.6g}; give the tensor another format (--tensor-type)"
        if np.isfinite(found)
        else "weights must be finite"
    )
    raise ConversionError(
        f"{planned.tensor.origin}: tensor '{shown(planned.tensor.name)}': value {col} of row {first_row + row} is "
        f"{found:g}; {why}"
    )


def file_metadata(plan: ConversionPlan) -> list[Entry]:
    """The source's metadata and what describes this file's coding."""
    entries = list(plan.source.metadata)
    entries.append(Entry("general.file_type", "u32", _file_type(plan)))
    entries.append(Entry("general.quantization_version", "u32", 2))
    entries.append(
        Entry("general.quantized_by", "string", f"hrun {getattr(_core, '__version__', '')}".strip())
    )
    for info in plan.formats_used():
        if info.rotated:
            entries += [
                Entry(f"hrun.format.{info.name}.version", "u32", info.version),
                Entry(f"hrun.format.{info.name}.id", "u32", info.id),
                Entry(f"hrun.format.{info.name}.block", "u32", info.block_values),
                Entry(f"hrun.format.{info.name}.block_bytes", "u32", info.block_bytes),
                Entry(f"hrun.format.{info.name}.rotation", "string", "hadamard"),
                Entry(f"hrun.format.{info.name}.rotation_block", "u32", 256),
                Entry(f"hrun.format.{info.name}.rotation_tail", "array<u32>", [128, 64, 32]),
                Entry(
                    f"hrun.format.{info.name}.signs",
                    "string",
                    "splitmix64" if info.signed_rotation else "none",
                ),
            ]
    return entries


def _file_type(plan: ConversionPlan) -> int:
    """llama.cpp's number for files mostly in this format; our formats' own ids, which no other program knows, for ours."""
    from gguf import LlamaFileType

    if plan.mix is not None:
        return plan.mix.file_type
    name = plan.format.name.upper()
    for candidate in (f"ALL_{name}", f"MOSTLY_{name}", f"MOSTLY_{name}_S"):
        if candidate in LlamaFileType.__members__:
            return int(LlamaFileType[candidate])
    return int(plan.format.id) if plan.format.rotated else int(LlamaFileType.GUESSED)


def _check_free_space(plan: ConversionPlan, metadata: list[Entry], real: Path) -> None:
    needed = plan.data_bytes + 32 * len(plan.tensors) + header_bytes(metadata, len(plan.tensors))
    free = shutil.disk_usage(real.parent).free
    if needed > free:
        raise ConversionError(
            f"{real}: not enough room: the file takes {size_text(needed)}, {size_text(free)} are free in {real.parent}"
        )


def header_bytes(metadata: list[Entry], n_tensors: int) -> int:
    """Returns an upper bound on the bytes before the data of the tensors."""
    return sum(_value_bytes(entry) + len(entry.key) + 16 for entry in metadata) + 128 * n_tensors


def _value_bytes(entry: Entry) -> int:
    values = entry.value if isinstance(entry.value, list) else [entry.value]
    return sum(
        8 + len(v.encode("utf-8", "replace") if isinstance(v, str) else v)
        if isinstance(v, (str, bytes))
        else 8
        for v in values
    )


def _validate(partial: Path, plan: ConversionPlan) -> None:
    """Reads the finished file back as a model, unless the source itself was of a kind that hrun does not run."""
    try:
        _core.read_spec(str(partial))
    except UnsupportedModelError:
        if plan.source.kind != "GGUF file":
            raise
