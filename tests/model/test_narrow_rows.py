"""Rows that are not a multiple of 256: the shapes of Qwen2-0.5B and SmolLM keep RTQ3 in every matrix of the layers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_hf import TinyLlama

TRELLIS = [info.name for info in _core.formats() if info.trellis]


@pytest.mark.parametrize(
    ("embd", "ff", "heads", "kv_heads"),
    [pytest.param(896, 4864, 14, 2, marks=pytest.mark.slow), (576, 1536, 9, 3)],
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


@pytest.mark.parametrize("name", TRELLIS)
def test_a_tied_table_in_a_rotated_format(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """SmolLM's width: looked up to what its blocks decode to, and multiplied as a head, by every tier and on CUDA."""
    model = TinyLlama(
        tmp_path / "hf", layers=1, embd=576, ff=192, heads=9, kv_heads=3, head_dim=64, vocab=320
    )
    plan = make_plan(open_source(model.path), PlanOptions("f32", embedding_format=name))
    assert plan.source.head is None
    table = next(p for p in plan.tensors if p.tensor.name == "token_embd.weight")
    assert (
        table.format.name == name and table.bits_per_weight <= table.format.bits_per_weight + 0.03
    )
    coded, plain = tmp_path / "coded.gguf", tmp_path / "plain.gguf"
    write_plan(plan, coded)
    write_plan(make_plan(open_source(coded), PlanOptions("f32", pure=True)), plain)

    def logits(path: Path, **options: object) -> np.ndarray:
        loaded = _core.Model.load(str(path), **options)
        return _core.Session(loaded, 8).forward([1, 2, 3, 319], "all")

    expected = logits(plain)  # the table as floats: its products round no activations
    got = logits(coded, cpu_tier="scalar")
    assert np.abs(got - expected).max() < 0.03 * np.abs(expected).max()
    for tier in _core.cpu_tiers():
        if tier.available:
            assert np.array_equal(logits(coded, cpu_tier=tier.name), got), tier.name
    request.getfixturevalue("emulated_cuda")
    on_cuda = logits(coded, device="cuda")
    assert np.abs(on_cuda - got).max() < 5e-3 * np.abs(got).max()
