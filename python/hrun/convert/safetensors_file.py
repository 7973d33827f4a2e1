"""A safetensors file: the header checked by the `safetensors` library, the data read in slices of rows.

The library's NumPy face has no bf16 and maps the file; see data_file.py for why that is not wanted.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open

from hrun.errors import ModelFileError, UnsupportedModelError
from hrun.library_errors import library_errors

from .data_file import DataFile
from .folder import PICKLE_SENTENCE, looks_like_pickle, shown

_HEADER_LIMIT = 100_000_000  # bytes, the library's own limit

# safetensors' name -> (dtype on disk, hrun's name for the table)
_DTYPES: dict[str, tuple[np.dtype[Any], str]] = {
    "F32": (np.dtype("<f4"), "f32"),
    "F16": (np.dtype("<f2"), "f16"),
    "BF16": (np.dtype("<u2"), "bf16"),
    "F64": (np.dtype("<f8"), "f64"),
}


@dataclass(frozen=True)
class StoredTensor:
    """shape as in the file ([rows, cols], outermost first); offset in bytes from the start of the file."""

    file: SafetensorsFile = field(repr=False)
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    n_bytes: int

    @property
    def shown_path(self) -> str:
        return self.file.shown_path

    @property
    def format(self) -> str:
        """hrun's name of the number type.  Raises UnsupportedModelError for types that hold no weights."""
        return self.file.format_of(self)

    def rows(self, first: int, last: int, cols: int) -> npt.NDArray[np.float32]:
        return self.file.read_rows(self, first, last, cols)

    def array(self, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        """The whole tensor, its bytes taken as `dtype`."""
        return self.file.read_array(self, dtype)


class SafetensorsFile:
    """Open file with its tensor table.  Raises ModelFileError, UnsupportedModelError (pickles)."""

    def __init__(self, path: Path, shown_path: str) -> None:
        self.path = path
        self.shown_path = shown_path
        with open(path, "rb") as handle:
            head = handle.read(16)
            if looks_like_pickle(head):
                raise UnsupportedModelError(
                    f"{shown_path}: not safetensors but a pickle archive; {PICKLE_SENTENCE}"
                )
            if len(head) < 8:
                raise ModelFileError(
                    f"{shown_path}: {len(head)} bytes are too few for a safetensors file"
                )
            header_bytes = int.from_bytes(head[:8], "little")
            size = os.fstat(handle.fileno()).st_size
            if header_bytes > min(size - 8, _HEADER_LIMIT):
                raise ModelFileError(
                    f"{shown_path}: not a safetensors file: its header claims {header_bytes} bytes, the file has {size}"
                )
            with (
                library_errors(f"{shown_path}: not a sound safetensors file"),
                safe_open(str(path), framework="numpy"),
            ):
                pass
            handle.seek(8)
            try:
                table = json.loads(handle.read(header_bytes))
            except (ValueError, RecursionError) as error:
                raise ModelFileError(
                    f"{shown_path}: unreadable safetensors header: {shown(error)}"
                ) from None
        start = 8 + header_bytes
        self.tensors: dict[str, StoredTensor] = {}
        for name, entry in table.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                self.tensors[name] = StoredTensor(
                    self, name, entry["dtype"], tuple(entry["shape"]), start + first, last - first
                )
        self._data = DataFile(path, shown_path)

    def format_of(self, tensor: StoredTensor) -> str:
        """hrun's name of the tensor's number type.  Raises UnsupportedModelError for types that hold no weights."""
        if tensor.dtype not in _DTYPES:
            raise UnsupportedModelError(
                f"{self.shown_path}: tensor '{shown(tensor.name)}' has type {shown(tensor.dtype)}; "
                f"read are {', '.join(_DTYPES)}"
            )
        return _DTYPES[tensor.dtype][1]

    def read_array(self, tensor: StoredTensor, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
        return self._data.read(tensor.offset, tensor.shape, dtype)

    def read_slice(
        self, tensor: StoredTensor, which: int, dtype: npt.DTypeLike
    ) -> npt.NDArray[Any]:
        """tensor[which], its bytes taken as `dtype`."""
        n_bytes = tensor.n_bytes // tensor.shape[0]
        return self._data.read(tensor.offset + which * n_bytes, tensor.shape[1:], dtype)

    def read_rows(
        self, tensor: StoredTensor, first: int, last: int, cols: int
    ) -> npt.NDArray[np.float32]:
        """Rows first to last of the tensor seen as [n, cols], float32 [last - first, cols].  Thread-safe."""
        dtype = _DTYPES[tensor.dtype][0]
        raw = self._data.read(
            tensor.offset + first * cols * dtype.itemsize, (last - first, cols), dtype
        )
        if tensor.dtype == "F32":
            return raw
        if tensor.dtype == "BF16":
            return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        with np.errstate(
            over="ignore"
        ):  # an f64 beyond f32 becomes infinity, which the encoder refuses by name
            return raw.astype(np.float32)
