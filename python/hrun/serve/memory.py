"""Chooses the size of a server's cache where the user names none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hrun.cache_memory import bytes_per_token
from hrun.runtime import context_of

_CONTEXTS = 4  # so that one long request does not displace all others
_SHARE = 4  # the cache gets one of so many parts of the free memory


def default_kv_tokens(
    params: Mapping[str, Any], n_ctx: int | None, type_k: str, type_v: str, free_bytes: int
) -> int:
    """Positions for several contexts, as far as a quarter of the memory holds them; one context at least.

    ``params`` are those of a plan.
    """
    context = context_of(n_ctx, int(params["n_ctx_train"]))
    room = free_bytes // _SHARE // max(bytes_per_token(params, type_k, type_v), 1)
    return max(context, min(_CONTEXTS * context, room))
