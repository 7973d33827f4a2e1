"""hrun's formats for the ``gguf`` package, whose tools refuse files with types that they do not know.

    import hrun.gguf_types
    hrun.gguf_types.register()
    reader = gguf.GGUFReader("model-RTQ3.gguf")

Rows must be multiples of 256 long: the package has no place for hrun's short last block.
"""

from __future__ import annotations

from typing import Any

import gguf
import gguf.quants
import numpy as np
import numpy.typing as npt

from hrun import _core


class _Decoder:
    """The methods that ``gguf.quants.dequantize`` asks of a type."""

    def __init__(self, name: str, block_bytes: int) -> None:
        self._name, self._block_bytes = name, block_bytes

    def dequantize(self, data: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """uint8 [..., bytes of a row] to float32 [..., columns]."""
        rows = np.ascontiguousarray(data.view(np.uint8)).reshape(-1, data.shape[-1])
        cols = rows.shape[1] // self._block_bytes * 256
        out = _core.decode(self._name, rows.reshape(-1), len(rows), cols)
        return np.asarray(out, np.float32).reshape(*data.shape[:-1], cols)


def register() -> None:
    """Adds RTQ2 to RTQ6 and ITQ3_S to gguf's types, sizes and decoders; a second call changes nothing."""
    kinds: Any = gguf.GGMLQuantizationType
    traits: Any = gguf.quants._type_traits
    known = {int(kind) for kind in kinds}
    for row in _core.formats():
        if row.rotated and row.id not in known:
            member: Any = int.__new__(kinds, row.id)
            member._name_, member._value_ = row.name.upper(), row.id
            member.__objclass__ = kinds
            type.__setattr__(kinds, member._name_, member)
            kinds._member_map_[member._name_] = member
            kinds._value2member_map_[row.id] = member
            kinds._member_names_.append(member._name_)
            gguf.GGML_QUANT_SIZES[member] = (row.block_values, row.block_bytes)
            traits[member] = _Decoder(row.name, row.block_bytes)
