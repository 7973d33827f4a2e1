"""Reading weights at an offset.

With pread, not a mapping: a file that another process truncates gives an error instead of killing the reader, and what was
read does not count as the process's memory.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun.errors import ModelFileError


class DataFile:
    """An open file; read() may be called from any thread."""

    def __init__(self, path: Path, shown_path: str) -> None:
        self._shown_path = shown_path
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        fd = getattr(self, "_fd", None)
        if fd is not None:
            os.close(fd)

    def read(self, offset: int, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """An array from the bytes at `offset`.  Raises ModelFileError where the file ends before."""
        out = np.empty(shape, dtype)
        if out.size == 0:
            return out
        view = memoryview(out.data).cast("B")
        done = 0
        while done < len(view):
            n = os.preadv(self._fd, [view[done:]], offset + done)
            if n == 0:
                raise ModelFileError(
                    f"{self._shown_path}: ends at byte {offset + done}, inside a tensor; was it changed while being read?"
                )
            done += n
        return out
