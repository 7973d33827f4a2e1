"""Headers of safetensors files that lie: each is read, or refused with an error of hrun."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path
from typing import Any

import pytest

from hrun import Error
from hrun.convert.safetensors_file import SafetensorsFile

_NUMBERS = [
    0, 1, -1, 2, 16, 63, 64, 65, 2**31, 2**32, 2**53, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**64, 1e300, 1.5, None, True, "1", [], {},
]  # fmt: skip
_LENGTHS = [0, 1, 2, 7, 8, 64, 10**8, 10**8 + 1, 2**32, 2**63 - 8, 2**63, 2**64 - 8, 2**64 - 1]
_TYPES = ["F32", "F16", "BF16", "F64", "I32", "U8", "F8_E4M3", "F4", "nonsense", None, 1]


def _tensor(rng: random.Random) -> dict[str, Any]:
    good = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    odd = {
        "dtype": rng.choice(_TYPES),
        "shape": [rng.choice(_NUMBERS) for _ in range(rng.randrange(5))],
        "data_offsets": [rng.choice(_NUMBERS) for _ in range(rng.choice([1, 2, 2, 3]))],
    }
    return {key: odd[key] if rng.random() < 0.4 else good[key] for key in good if rng.random() < 0.97}  # fmt: skip


@pytest.mark.parametrize("seed", range(4))
def test_any_header_is_read_or_refused(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    path = tmp_path / "x.safetensors"
    read = refused = 0
    for _ in range(250):
        header = {f"t{k}": _tensor(rng) for k in range(rng.randrange(3))}
        text = bytearray(json.dumps(header).encode())
        if rng.random() < 0.1:
            text[rng.randrange(len(text))] = rng.randrange(256)
        length = rng.choice(_LENGTHS) if rng.random() < 0.2 else len(text)
        path.write_bytes(struct.pack("<Q", length) + text + bytes(rng.choice([64, 64, 0, 63, 128])))
        try:
            for tensor in SafetensorsFile(path, str(path)).tensors.values():
                assert tensor.offset + tensor.n_bytes <= path.stat().st_size
                _ = tensor.format
                if tensor.shape == (4, 4) and tensor.dtype == "F32":
                    assert tensor.rows(0, 4, 4).shape == (4, 4)
            read += 1
        except Error as error:
            refused += 1
            assert str(path) in str(error) and str(error).isprintable()
    assert read > 5 and refused > 50
