"""Checks a SentencePiece charsmap before the `tokenizers` library sees it: the library trusts its sizes and offsets.

A charsmap is the length of a trie in bytes, the trie, and a pool of replacements that end in NUL.  The trie is a double array of
32-bit units; a step from the base of a state by a byte reads the unit at base XOR byte.
"""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any

import numpy as np

_STEP = 4096  # states followed at once
_LABEL = np.uint32(0x8000_00FF)
_VALUE = np.uint32(0x7FFF_FFFF)


def charsmap_fault(data: bytes) -> str | None:
    """Returns the fault of the charsmap, or None if every text can be normalised with it."""
    if len(data) < 4:
        return f"has {len(data)} bytes, expected 4 or more"
    size = int.from_bytes(data[:4], "little")
    if size % 4 or not 4 <= size <= len(data) - 4:
        return (
            f"claims a trie of {size} bytes, "
            f"expected a multiple of 4 from 4 to the {len(data) - 4} that follow"
        )
    pool = data[4 + size :]
    try:
        pool.decode()
    except UnicodeDecodeError as error:
        return f"has replacements that are not UTF-8 at byte {4 + size + error.start}"
    units = np.frombuffer(data, "<u4", size // 4, 4)
    # A replacement may begin at a character, or at the end of the pool.
    begins = np.ones(len(pool) + 1, bool)
    begins[:-1] = (np.frombuffer(pool, np.uint8) & 0xC0) != 0x80
    return _trie_fault(units, begins)


def tokenizer_json_fault(text: str) -> str | None:
    """The first fault of a charsmap anywhere in a tokenizer.json; None also where the text is no JSON."""
    if "Precompiled" not in text and "\\u" not in text:
        return None
    try:
        waiting: list[Any] = [json.loads(text)]
    except (ValueError, RecursionError):
        return None  # the library says what is wrong with it
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += [v for v in value if isinstance(v, (dict, list))]
            continue
        if not isinstance(value, dict):
            continue
        waiting += [v for v in value.values() if isinstance(v, (dict, list))]
        encoded = value.get("precompiled_charsmap")
        if not isinstance(encoded, str):
            continue
        try:
            data = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            return "is not base64"
        if fault := charsmap_fault(data):
            return fault
    return None


def _offsets(units: np.ndarray) -> np.ndarray:
    return (units >> np.uint32(10)) << ((units & np.uint32(1 << 9)) >> np.uint32(6))


def _trie_fault(units: np.ndarray, begins: np.ndarray) -> str | None:
    letters = np.arange(1, 256, dtype=np.uint32)
    seen = np.zeros(len(units), bool)  # bases whose steps were followed
    waiting = [_offsets(units[:1])]
    while waiting:
        bases = np.unique(waiting.pop())
        if len(bases) and int(bases[-1]) | 0xFF >= len(units):
            return f"has a trie of {len(units)} units that leads to unit {int(bases[-1]) | 0xFF}"
        bases = bases[~seen[bases]]
        if len(bases) > _STEP:
            waiting.append(bases[_STEP:])
            bases = bases[:_STEP]
        seen[bases] = True
        at = bases[:, None] ^ letters
        found = units[at]
        taken = (found & _LABEL) == letters
        at, found = at[taken], found[taken]
        following = at ^ _offsets(found)
        leaves = following[(found & np.uint32(1 << 8)) != 0]
        if len(leaves):
            if int(leaves.max()) >= len(units):
                return f"has a trie of {len(units)} units that leads to unit {int(leaves.max())}"
            values = units[leaves] & _VALUE
            if int(values.max()) >= len(begins):
                return f"names a replacement at {int(values.max())} of {len(begins) - 1} bytes"
            if not begins[values].all():
                return (
                    f"names a replacement at {int(values[~begins[values]][0])}, inside a character"
                )
        if len(following):
            waiting.append(following)
    return None
