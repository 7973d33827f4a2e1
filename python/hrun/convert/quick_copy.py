"""Decides which model is run whole while a source is converted: itself, or a small copy of it.

An answer is drawn token by token, and each token passes through all layers, so the model that writes
calibration text is in memory whole.  Where that would take more than a calibrated conversion takes
anyway, a copy writes that is coded without calibration.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .parts import layer_of
from .plan import ConversionPlan, PlanOptions, make_plan
from .source import Source
from .write import write_plan

ITSELF = "itself"
TYPES = ("rtq4", "rtq3", "rtq2")  # of a copy, embedding and head included; the first that fits
_FIXED = 1 << 30
_OVERHEAD = 512 << 20  # of a process that runs a model: Python, the cache, working memory


def memory_bound(source: Source, memory: int) -> int:
    """Returns the bytes that a calibrated conversion takes at most: the largest layer as F32, twice,
    the moments of its inputs within ``memory`` bytes, and 1 GiB.
    """
    layers: dict[int, int] = {}
    widths: dict[int, set[int]] = {}
    for tensor in source.tensors:
        layer = layer_of(tensor.name)
        if layer is not None:
            layers[layer] = layers.get(layer, 0) + 4 * tensor.n_values
            if len(tensor.shape) > 1:
                widths.setdefault(layer, set()).add(tensor.cols)
    moments = max(
        (sum(_moment_bytes(n, memory) for n in found) for found in widths.values()), default=0
    )
    return 2 * max(layers.values(), default=0) + moments + _FIXED


def _moment_bytes(cols: int, memory: int) -> int:
    """Bytes of an input's moments; factoring them takes four times as many (TextMoments)."""
    return 4 * cols * min(cols, memory // (16 * cols) + 1)


def room_for_model(source: Source, memory: int) -> int:
    """Returns the bytes that a file may have which is run whole during the source's conversion."""
    return memory_bound(source, memory) - _OVERHEAD


def writer_type(source: Source, float_bytes: int, room: int) -> str | None:
    """Returns ITSELF, the type of the copy that is to write text, or None where every one is too large.

    ``float_bytes``: of the source as hrun runs it.
    """
    if float_bytes <= room:
        return ITSELF
    return next((name for name in TYPES if _copy_plan(source, name).data_bytes <= room), None)


def _copy_plan(source: Source, name: str) -> ConversionPlan:
    return make_plan(source, PlanOptions(name, pure=True))


def write_copy(
    source: Source,
    name: str,
    folder: Path,
    n_threads: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
) -> Path:
    """Writes the copy, where an earlier process has not; returns its path.  Raises hrun.Error."""
    path = folder / "writer.gguf"
    if not path.exists():
        write_plan(_copy_plan(source, name), path, n_threads, progress)
    return path
