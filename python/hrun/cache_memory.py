"""The memory that a KV cache takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrun._core import kv_bytes

# Pairs of formats for keys and values that nothing smaller is closer to f16 than.
PAIRS = (
    ("f16", "f16"),
    ("rtq8", "rtq8"),
    ("rtq8", "rtq4"),
    ("rtq5", "rtq4"),
    ("rtq4", "rtq4"),
    ("rtq4", "rtq3"),
    ("rtq3", "rtq3"),
    ("rtq3", "rtq2"),
)


def bytes_per_token(params: Mapping[str, Any], type_k: str, type_v: str) -> int:
    """Returns the bytes that one token takes in all layers, in pages; ``params`` are those of a
    plan.
    """
    return sum(
        n * (kv_bytes(type_k, k_dim, k_plain) + kv_bytes(type_v, v_dim))
        for n, k_dim, v_dim, k_plain in params["cached_heads"]
    )
