"""Rows that are not a multiple of 256: the shapes of Qwen2-0.5B and SmolLM keep RTQ3 in every matrix of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_hf import TinyLlama


@pytest.mark.parametrize(
    ("embd", "ff", "heads", "kv_heads"),
    [(896, 4864, 14, 2), (576, 1536, 9, 3)],
    ids=["qwen2-0.5b", "smollm-135m"],
)
def test_no_tensor_falls_back(
    embd: int, ff: int, heads: int, kv_heads: int, tmp_path: Path
) -> None:
    model = TinyLlama(
        tmp_path / "hf",
        layers=1,
        embd=embd,
        ff=ff,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=64,
        vocab=320,
    )
    plan = make_plan(open_source(model.path), PlanOptions("rtq3"))
    outside = (plan.source.embedding, plan.source.head)
    for planned in plan.tensors:
        if len(planned.tensor.shape) > 1 and planned.tensor.name not in outside:
            assert planned.format.name == "rtq3" and planned.reason == "", planned.tensor.name
    matrices = [p for p in plan.tensors if len(p.tensor.shape) > 1 and p.tensor.name not in outside]
    assert 8 * sum(p.n_bytes for p in matrices) / sum(p.tensor.n_values for p in matrices) <= 3.2
    assert plan.layer_bits_per_weight <= 3.2
    write_plan(plan, tmp_path / "out.gguf")
    loaded = _core.Model.load(str(tmp_path / "out.gguf"))
    logits = _core.Session(loaded, 8).forward([1, 2, 3], "all")
    assert np.isfinite(logits).all() and logits.std() > 0


def test_of_equally_wide_formats_the_better_one_takes_the_rows(tmp_path: Path) -> None:
    """Rows of 96 do not fit Q3_K; IQ4_NL and Q4_0 both hold them in 4.5 bits."""
    model = TinyLlama(
        tmp_path / "hf", layers=1, embd=96, ff=160, heads=3, kv_heads=3, head_dim=32, vocab=320
    )
    plan = make_plan(open_source(model.path), PlanOptions("q3_k"))
    used = {p.format.name for p in plan.tensors if p.reason.startswith("rows of 96")}
    assert "iq4_nl" in used and "q4_0" not in used
