"""How large a cache a server takes where nobody says."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from hrun.cache_memory import bytes_per_token
from hrun.runtime import DEFAULT_CONTEXT

_CONTEXTS = 4  # so that one long request does not displace all others
_SHARE = 4  # of the free memory one part is for the cache


def default_kv_tokens(
    params: Mapping[str, Any], n_ctx: int | None, type_k: str, type_v: str, free_bytes: int
) -> int:
    """Positions for several contexts, as far as a quarter of the memory holds them; one context at least.

    ``params`` are those of a plan.
    """
    trained = int(params["n_ctx_train"])
    context = min(trained, DEFAULT_CONTEXT) if n_ctx is None else n_ctx or trained
    room = free_bytes // _SHARE // max(bytes_per_token(params, type_k, type_v), 1)
    return max(context, min(_CONTEXTS * context, room))


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
