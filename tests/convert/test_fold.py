"""Channel scales folded between tensors: the function of the model stays, columns become even."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from hrun import _core as core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.convert.fold import UNEVEN, fold_channels
from hrun.convert.source import Source
from tiny_hf import TinyLlama


def logits(source: Source, path: Path) -> np.ndarray:
    write_plan(make_plan(source, PlanOptions("f32")), path)
    return core.Session(core.Model.load(str(path)), 64).forward(list(range(3, 40)), "all")


def spread(source: Source, name: str) -> float:
    tensor = next(t for t in source.tensors if t.name == name)
    rms = np.sqrt(np.square(tensor.read_rows(0, tensor.rows)).mean(axis=0))
    return float(rms.max() / rms.min())


def test_folding_keeps_the_function_and_evens_the_columns(tmp_path: Path) -> None:
    folder = TinyLlama(
        tmp_path / "tiny", layers=2, embd=64, heads=4, kv_heads=2, head_dim=16, ff=96
    ).path
    source = open_source(folder)
    assert fold_channels(source, 1e9)[0] is source
    before = logits(source, tmp_path / "a.gguf")

    # Scales of up to 32 folded in by somebody else are found and undone, up to a factor of 2.
    random = np.random.default_rng(1)
    scales = {
        f"blk.{layer}.{role}": 2.0 ** random.integers(-5, 6, n)
        for layer in range(2)
        for role, n in (("attn_norm", 64), ("ffn_norm", 64), ("ffn_up", 96), ("attn_v", 32))
    }

    def scaled(name: str):
        layer, role = name.rsplit(".", 2)[0], name.rsplit(".", 2)[1]
        rows, cols = scales.get(f"{layer}.{role}"), None
        if role in ("attn_q", "attn_k", "attn_v"):
            cols = scales[f"{layer}.attn_norm"]
        elif role in ("ffn_gate", "ffn_up"):
            cols = scales[f"{layer}.ffn_norm"]
        elif role == "ffn_down":
            cols = scales[f"{layer}.ffn_up"]
        elif role == "attn_output":
            cols = np.repeat(scales[f"{layer}.attn_v"].reshape(2, 1, 16), 2, axis=1).reshape(-1)
        return rows, cols

    tensors = []
    for tensor in source.tensors:
        rows, cols = scaled(tensor.name) if tensor.name.startswith("blk.") else (None, None)

        def read(first: int, last: int, tensor=tensor, rows=rows, cols=cols) -> np.ndarray:
            values = tensor.read_rows(first, last).astype(np.float64)
            if cols is not None:
                values = values / cols
            if rows is not None:
                values = values * (rows if len(tensor.shape) == 1 else rows[first:last, None])
            return np.ascontiguousarray(values, np.float32)

        tensors.append(replace(tensor, read_rows=read))
    uneven = replace(source, tensors=tensors)
    name = "blk.1.ffn_down.weight"
    assert spread(uneven, name) > UNEVEN
    evened, folds = fold_channels(uneven)
    assert (
        len(folds) == 8
        and evened.basis
        and spread(evened, name) < 2.1
        and spread(evened, "blk.0.attn_output.weight") < 4
    )
    assert np.abs(logits(evened, tmp_path / "c.gguf") - before).max() < 1e-4 * np.abs(before).max()
