"""The mean of keys and their balance against the queries, from text, for files that bring them to coded KV caches.

Without them a cache takes both from a sequence's first positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hrun import _core
from hrun.outputs import scratch_folder

from .moments import Report
from .parts import PartFile, run_to_head
from .source import Entry, Source
from .text import chunks_of, spread_chunks

MEAN, BALANCE = "hrun.attention.key_mean", "hrun.attention.key_balance"
TOKENS = 16384  # of the text: the tables are means over all positions


def with_key_tables(
    source: Source,
    file: PartFile,
    tokens: Sequence[int],
    first_token: int | None,
    folder: Path,
    report: Report | None = None,
) -> Source:
    """The source with the two tables as keys, found by running ``file`` over some of the tokens, a part at a time.

    ``folder``: for scratch.  Raises hrun.Error, OSError.
    """
    shape = _core.read_spec(str(file.path)).params
    chunks = chunks_of(spread_chunks(tokens, TOKENS), first_token)
    texts = [chunk[: shape["n_ctx_train"]] for chunk in chunks]
    collector = _core.KeyCollector(shape["n_layers"])
    with scratch_folder(folder) as scratch:
        run_to_head(file, texts, scratch, report, "calibrate: keys of the cache", collector)
    tables = [collector.tables(layer) for layer in range(shape["n_layers"])]
    entries = [
        Entry(key, "array<f32>", np.concatenate([pair[i] for pair in tables]).tolist())
        for i, key in enumerate((MEAN, BALANCE))
    ]
    kept = [entry for entry in source.metadata if entry.key not in (MEAN, BALANCE)]
    return replace(source, metadata=[*kept, *entries])
