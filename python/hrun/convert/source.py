"""A source gives the converter metadata, and tensors whose rows can be read a slice at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

# A GGUF value: text that is not UTF-8 is kept as bytes.
Scalar = int | float | bool | str | bytes
Value = Scalar | Sequence[Scalar]


@dataclass(frozen=True)
class Entry:
    """One metadata entry; `type` as in GGUFFile.metadata_types: "u32", "string", "array<string>" ..."""

    key: str
    type: str
    value: Value


# Formats in which models are published by those who trained them.
NATIVE_FORMATS = ("mxfp4",)


class RowReader(Protocol):
    def __call__(self, first: int, last: int, /) -> npt.NDArray[np.float32]:
        """Rows first to last (exclusive) as C-contiguous float32 [last - first, cols]; callable from any thread."""


@dataclass(frozen=True)
class SourceTensor:
    """A tensor under its GGUF name.

    shape: GGUF order, shape[0] is the row length.  format: the name of its format in the source.  read_rows: see RowReader;
    slices must start and end at multiples of `row_step`.  read_bytes: the tensor's own blocks, where the source has blocks.
    origin: file and name in the source, for messages.  kept: not to be coded in few bits, whatever the file's format, but as
    `kept_as`.  native: its format is the one that the model was trained in, so that these blocks are the original.
    """

    name: str
    shape: tuple[int, ...]
    format: str
    read_rows: RowReader
    origin: str
    row_step: int = 1
    read_bytes: Callable[[], npt.NDArray[np.uint8]] | None = None
    kept: bool = False
    kept_as: str = "f32"
    native: bool = False

    @property
    def cols(self) -> int:
        return self.shape[0]

    @property
    def rows(self) -> int:
        rows = 1
        for n in self.shape[1:]:
            rows *= n
        return rows

    @property
    def n_values(self) -> int:
        return self.rows * self.cols


@dataclass(frozen=True)
class Source:
    """A model to convert.

    embedding, head: names of the tensors with those roles; head is None where the embedding is the head.
    files: every file that is read, so that none is overwritten.  basis: names what was folded into the tensors
    (fold.py); "" where they are those of the files.
    """

    path: Path
    kind: str  # "Hugging Face folder" or "GGUF file"
    name: str
    metadata: list[Entry]
    tensors: list[SourceTensor]
    embedding: str | None
    head: str | None
    files: list[Path]
    notes: list[str] = field(default_factory=list)
    basis: str = ""

    def renamed(self, name: str) -> Source:
        """The same model under another general.name."""
        entries = [entry for entry in self.metadata if entry.key != "general.name"]
        return replace(self, name=name, metadata=[*entries, Entry("general.name", "string", name)])
