"""Codes weights: plainly, or against the second moments of their inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.errors import ConversionError
from hrun.fork_lock import ForkLock

from .moments import InputMoments, MomentSource, slice_name
from .source import SourceTensor

Bytes = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Preset:
    """survivors: paths of the search, at most.  scale: of the blocks, in units of the one for a Gaussian block.  passes: searches
    of each row.  damping: multiple of the mean diagonal added to the moments."""

    name: str
    survivors: int
    scale: float
    passes: int
    damping: float


# One scale with more survivors is as good as several scales with fewer, and faster: at 3 bits on rows of 576 columns against
# correlated inputs, output error relative to the input's power and weights per second and thread, when there was a choice: 16
# survivors, two scales 0.00263 / 0.77 M; 24, one 0.00258 / 1.6 M; 64, three 0.00214 / 0.21 M; 144, one 0.00212 / 0.43 M.
PRESETS = {
    "normal": Preset("normal", 24, 1.1, 1, 0.01),
    "best": Preset("best", 144, 1.02, 1, 0.005),
}

# Is searched exactly by `best` alone: the exact search of RTQ5 has 1024 states of 32 predecessors, where the others have at most
# 512 of 8 or 256 of 16; the fast one codes sixteen times as many weights per second for 5 % more error.
_MANY_STATES = "rtq5"


class Encoder:
    """Codes slices of tensors; `prepare` first, then `encode` from any thread."""

    def __init__(
        self,
        moments: MomentSource | None = None,
        preset: Preset | None = None,
        keeps_errors: bool = False,
        n_threads: int = 0,
    ) -> None:
        """``n_threads``: for factoring moments, 0: all."""
        self._moments, self._preset, self._n_threads = moments, preset, n_threads
        self._input: InputMoments | None = None
        self._factor: Any = None
        self._searches = False  # is the prepared tensor coded by the calibrated search?
        self._whole: tuple[str, InputMoments | None] = (
            "",
            None,
        )  # the facts known about a tensor, for its slices too
        self._lock = ForkLock()
        self._error = self._energy = 0.0
        self._tensor: str | None = None
        self.keeps_errors = keeps_errors
        self.errors: dict[
            str, float
        ] = {}  # relative error per tensor, where keeps_errors or the search knows it
        self.uncalibrated: list[str] = []  # tensors that wanted moments and had none

    def has_parts(self, tensor: SourceTensor, info: Any) -> bool:
        """May the slices of this tensor have inputs of their own?"""
        return self._moments is not None and not info.is_float and len(tensor.shape) == 3

    def prepare(self, tensor: SourceTensor, info: Any, part: int | None = None) -> None:
        """Makes ready what all rows of a tensor share, or of one of its slices, and closes the account of the tensor before."""
        if self._tensor != tensor.name:
            self.finish_tensor()
        self._tensor, self._searches = tensor.name, False
        wanted = tensor.name if part is None else slice_name(tensor.name, part)
        # What others asked for goes before the next moments are made.
        if self._input is not None and not {wanted, tensor.name} & set(self._input.tensors):
            self._input = self._factor = None
        if self._whole[0] != tensor.name:
            self._whole = ("", None)
        if self._moments is None or info.is_float:
            return
        found, damping = self._known(tensor, part)
        if found is not None and found.cols != tensor.cols:
            raise ConversionError(
                f"tensor '{tensor.name}' has rows of {tensor.cols} values, the calibration has {found.cols}"
            )
        if found is None and tensor.name not in self.uncalibrated:
            self.uncalibrated.append(tensor.name)
        if found is not self._input:
            self._input, self._factor = found, None
        self._searches = found is not None and info.trellis and self._preset is not None
        if found is not None and self._searches and self._factor is None:
            self._factor = _core.InputFactor.make(
                found.values, found.cols, damping, self._n_threads
            )

    def _known(self, tensor: SourceTensor, part: int | None) -> tuple[InputMoments | None, float]:
        """Returns the moments of the tensor's input, or its slice's, and their damping."""
        assert self._moments is not None
        damping = self._preset.damping if self._preset is not None else 0.0
        found = self._moments.of(slice_name(tensor.name, part)) if part is not None else None
        if found is not None:
            # An expert sees a part of the text: as much damping as its moments are unsure.
            return found, damping + (
                min(1.0, found.cols / found.n_tokens) if found.n_tokens else 0.0
            )
        if self._input is not None and tensor.name in self._input.tensors:
            return self._input, damping
        if self._whole[0] != tensor.name:
            self._whole = (tensor.name, self._moments.of(tensor.name))
        return self._whole[1], damping

    def finish_tensor(self) -> None:
        if self._tensor is not None and self._energy > 0:
            self.errors[self._tensor] = self._error / self._energy
        self._tensor, self._error, self._energy = None, 0.0, 0.0

    def finish(self) -> None:
        """Closes the account of the last tensor and lets go of its input's moments."""
        self.finish_tensor()
        self._input = self._factor = None
        self._whole, self._searches = ("", None), False

    @property
    def is_slow(self) -> bool:
        """Is the prepared tensor coded by the calibrated search?"""
        return self._searches

    def encode(self, info: Any, weights: Floats, tensor: str) -> Bytes:
        """float32 [rows, cols] to blocks, uint8."""
        if self._searches and self._preset is not None:
            preset = self._preset
            blocks, errors, energies = _core.encode_calibrated(
                info.name,
                weights,
                self._factor,
                preset.survivors,
                preset.scale,
                preset.passes,
                tensor=tensor,
            )
            with self._lock:
                self._error += float(errors.sum())
                self._energy += float(energies.sum())
            return np.asarray(blocks)
        importance = None
        if self._input is not None and not info.rotated and not info.is_float:
            importance = self._input.power.astype(np.float32)
        blocks = np.asarray(
            _core.encode(info.name, weights, importance, tensor=tensor, fast=self._is_fast(info))
        )
        if self.keeps_errors:
            difference = weights - _core.decode(info.name, blocks, *weights.shape)
            with self._lock:
                self._error += float(np.square(difference, dtype=np.float64).sum())
                self._energy += float(np.square(weights, dtype=np.float64).sum())
        return blocks

    def _is_fast(self, info: Any) -> bool:
        """Is a format without calibration coded by the fast search?"""
        if self._preset is None:
            return True
        return info.name == _MANY_STATES and self._preset.name != "best"

    def relative_error(self, info: Any, weights: Floats, tensor: str) -> float:
        """Squared error of the output of these rows in the prepared format, relative to the output; without calibration, of
        the rows themselves."""
        keeps, self.keeps_errors = self.keeps_errors, True
        self._error = self._energy = 0.0
        self.encode(info, weights, tensor)
        self.keeps_errors = keeps
        return self._error / self._energy if self._energy > 0 else 0.0
