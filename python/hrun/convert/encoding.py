"""How weights are coded: plainly, or against the second moments of their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun import _core

from .moments import InputMoments, MomentSource
from .source import SourceTensor

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preset:
    """survivors: paths of the search.  scales: block scales tried, in units of the one for a Gaussian block.  passes: searches
    of each row.  damping: multiple of the mean diagonal added to the moments."""

    name: str
    survivors: int
    scales: tuple[float, ...]
    passes: int
    damping: float


# Measured on the demo checkpoint, relative output error of 32 rows each of 4 matrices, weights per second and core:
# 16 survivors .00498 / 0.98 M; 64 .00447 / 0.42 M; 256 .00436 / 0.16 M; without calibration .01166.
PRESETS = {
    "normal": Preset("normal", 16, (1.12,), 1, 0.01),
    "best": Preset("best", 64, (1.05, 1.15, 1.25), 2, 0.005),
}


class Encoder:
    """Codes slices of tensors; `prepare` first, then `encode` from any thread."""

    def __init__(self, moments: MomentSource | None = None, preset: Preset | None = None) -> None:
        self._moments, self._preset = moments, preset
        self._input: InputMoments | None = None
        self._factor: Any = None
        self.uncalibrated: list[str] = []  # tensors that wanted moments and had none

    def prepare(self, tensor: SourceTensor, info: Any) -> None:
        """Makes ready what all slices of a tensor share."""
        if self._moments is None or info.is_float:
            self._input = self._factor = None
            return
        found = self._moments.of(tensor.name)
        if found is not None and found.cols != tensor.cols:
            raise _core.ConversionError(f"tensor '{tensor.name}' has rows of {tensor.cols} values, the calibration has {found.cols}")
        if found is None:
            self.uncalibrated.append(tensor.name)
        if found is self._input and found is not None and (self._factor is not None or not info.trellis):
            return
        self._input = found
        self._factor = None
        if found is not None and info.trellis and self._preset is not None:
            self._factor = _core.InputFactor.make(found.values, found.cols, self._preset.damping)

    @property
    def is_slow(self) -> bool:
        """Is the prepared tensor coded by the calibrated search?"""
        return self._factor is not None

    def encode(self, info: Any, weights: Floats, tensor: str) -> Bytes:
        """float32 [rows, cols] to blocks, uint8."""
        if self._factor is not None and info.trellis and self._preset is not None:
            preset = self._preset
            blocks, _ = _core.encode_calibrated(info.name, weights, self._factor, preset.survivors, preset.scales, preset.passes,
                                                tensor=tensor)
            return np.asarray(blocks)
        importance = None
        if self._input is not None and not info.rotated and not info.is_float:
            importance = self._input.power.astype(np.float32)
        return np.asarray(_core.encode(info.name, weights, importance, tensor=tensor))
