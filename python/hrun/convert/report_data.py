"""The data of a conversion report, which the page shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


BINS = np.linspace(-12, 12, 193)  # in units of the rms of 256 values


@dataclass
class Spread:
    """The distribution of values, in units of the rms of their 256-wide block: counts per bin of
    BINS, and the largest.
    """

    counts: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(BINS.size - 1, np.int64))
    largest: float = 0.0

    def add(self, blocks: Floats) -> float:
        """blocks [n, up to 256]; returns their own largest ratio to the rms."""
        scale = np.sqrt(np.square(blocks, dtype=np.float64).mean(axis=1, keepdims=True))
        ratios = np.divide(
            blocks, scale, out=np.zeros_like(blocks, dtype=np.float64), where=scale > 0
        )
        self.counts += np.histogram(np.clip(ratios, BINS[0], BINS[-1]), BINS)[0]
        largest = float(np.abs(ratios).max(initial=0.0))
        self.largest = max(self.largest, largest)
        return largest


@dataclass(frozen=True)
class TensorFigures:
    """outliers: largest value over the rms of its block, as it is and rotated; None where no inputs are known.  error: relative
    squared error, of the output where calibrated."""

    name: str
    shape: tuple[int, ...]
    format: str
    bits_per_weight: float
    n_bytes: int
    weight_outliers: tuple[float, float]
    input_outliers: tuple[float, float] | None
    error: float | None
    loss: float | None  # expected KL divergence that this tensor causes, where it was measured


@dataclass(frozen=True)
class Comparison:
    """A comparison on `text`: perplexity of the float model and of the file, and KL divergence in
    nats.
    """

    text: str
    n_tokens: int
    perplexity: tuple[float, float]
    divergence: npt.NDArray[np.float64]  # per position
    same_top: float


@dataclass
class ReportData:
    name: str
    output: str
    n_bytes: int
    bits_per_weight: float
    layer_bits_per_weight: float
    calibrated: bool
    weights: tuple[Spread, Spread] = field(
        default_factory=lambda: (Spread(), Spread())
    )  # before the rotation, and after it
    inputs: tuple[Spread, Spread] = field(default_factory=lambda: (Spread(), Spread()))
    tensors: list[TensorFigures] = field(default_factory=list)
    comparison: Comparison | None = None


def kind_of(name: str) -> tuple[str, str]:
    """Layer and role from a GGUF name: ("3", "ffn_down") from "blk.3.ffn_down.weight", ("", "output") from "output.weight"."""
    parts: list[Any] = name.removesuffix(".weight").split(".")
    return (
        (parts[1], ".".join(parts[2:]))
        if parts[0] == "blk" and len(parts) > 2
        else ("", ".".join(parts))
    )
