"""Position scalings, biases and untied heads of a converted checkpoint against transformers, beyond the original context."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_hf import TinyLlama

pytestmark = pytest.mark.slow

SCALINGS: dict[str, dict[str, Any] | None] = {
    "none": None,
    "linear": {"rope_type": "linear", "factor": 4.0},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "yarn": {"rope_type": "yarn", "factor": 8.0, "original_max_position_embeddings": 64},
    "yarn, all keys": {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.7,
        "beta_fast": 20.0,
        "beta_slow": 2.0,
    },
}


@pytest.mark.parametrize("name", SCALINGS)
def test_logits_equal_transformers(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    rng = np.random.default_rng(3)
    bias = name in ("none", "yarn")
    sizes = {"q": 128, "k": 64, "v": 64, "o": 64} if bias else {}
    model = TinyLlama(
        tmp_path / "hf",
        embd=64,
        ff=96,
        heads=4,
        kv_heads=2,
        head_dim=32,
        dtype="F32",
        tied=not bias,
        config={"rope_scaling": SCALINGS[name], "attention_bias": bias},
        weights={
            f"model.layers.{layer}.self_attn.{part}_proj.bias": rng.standard_normal(n).astype(
                np.float32
            )
            for layer in range(2)
            for part, n in sizes.items()
        },
    )
    write_plan(make_plan(open_source(model.path), PlanOptions("f32")), tmp_path / "out.gguf")
    ids = rng.integers(0, 300, 400).tolist()
    reference = transformers.AutoModelForCausalLM.from_pretrained(
        model.path, dtype=torch.float32
    ).eval()
    with torch.no_grad():
        expected = reference(torch.tensor([ids])).logits[0].numpy()
    model_file = _core.Model.load(str(tmp_path / "out.gguf"))
    got = _core.Session(model_file, 512, type_k="f32", type_v="f32").forward(ids, "all")
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
