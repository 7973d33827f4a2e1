"""How large a cache a server takes where nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hrun.runtime import DEFAULT_CONTEXT

_CONTEXTS = 4  # so that one long request does not displace all others
_SHARE = 4  # of the free memory one part is for the cache


def default_kv_tokens(metadata: Mapping[str, Any], n_ctx: int | None, free_bytes: int) -> int:
    """Positions for several contexts, as far as a quarter of the memory holds them; one context at least."""
    architecture = metadata.get("general.architecture")

    def number(name: str, fallback: int) -> int:
        value = metadata.get(f"{architecture}.{name}")
        return value if isinstance(value, int) and 0 < value < 2**31 else fallback

    trained = number("context_length", DEFAULT_CONTEXT)
    context = min(trained, DEFAULT_CONTEXT) if n_ctx is None else n_ctx or trained
    heads = number("attention.head_count", 32)
    width = number("embedding_length", 4096) // heads
    per_layer = number("attention.head_count_kv", heads) * (
        number("attention.key_length", width) + number("attention.value_length", width)
    )
    per_token = 2 * per_layer * number("block_count", 32)
    return max(context, min(_CONTEXTS * context, free_bytes // _SHARE // max(per_token, 1)))


def free_memory() -> int:
    """Bytes that the machine has to give."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) << 10
    except (OSError, ValueError, IndexError):
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
