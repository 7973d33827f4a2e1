"""The mean of keys and their balance against the queries, from text, for files that bring them to coded KV caches.

Without them a cache takes both from a sequence's first positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hrun import _core

from .moments import Report
from .source import Entry, Source
from .text import CHUNK_TOKENS, chunks_of, spread_chunks

MEAN, BALANCE = "hrun.attention.key_mean", "hrun.attention.key_balance"
TOKENS = 16384  # of the text: the tables are means over all positions


def with_key_tables(
    source: Source,
    model: Path,
    tokens: Sequence[int],
    first_token: int | None,
    n_threads: int = 0,
    report: Report | None = None,
) -> Source:
    """The source with the two tables as keys, found by running ``model`` over some of the tokens.  Raises hrun.Error."""
    loaded = _core.Model.load(str(model), device="cpu", n_threads=n_threads)
    collector = _core.KeyCollector(loaded)
    n_ctx = min(CHUNK_TOKENS, loaded.n_ctx_train)
    texts = chunks_of(spread_chunks(tokens, TOKENS), first_token)
    for number, text in enumerate(texts):
        if report is not None:
            report(number * CHUNK_TOKENS, len(texts) * CHUNK_TOKENS, "calibrate: keys of the cache")
        session = _core.Session(loaded, n_ctx, n_batch=n_ctx)
        session.forward(text[:n_ctx], logits="none", observer=collector)
    tables = [collector.tables(layer) for layer in range(loaded.n_layers)]
    entries = [
        Entry(key, "array<f32>", np.concatenate([pair[i] for pair in tables]).tolist())
        for i, key in enumerate((MEAN, BALANCE))
    ]
    kept = [entry for entry in source.metadata if entry.key not in (MEAN, BALANCE)]
    return replace(source, metadata=[*kept, *entries])
