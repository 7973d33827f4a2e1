"""Experts that a checkpoint holds one by one, or in one tensor with the gate's rows before the up matrix's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_hf import write_safetensors

pytestmark = pytest.mark.slow

EXPERTS = 6


def test_experts_in_one_tensor_give_the_same_file(tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from safetensors.numpy import load_file

    from tiny_transformers import write_checkpoint

    write_checkpoint("qwen3moe", tmp_path / "hf")
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), tmp_path / "apart.gguf")
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    layers = {name.split(".mlp.")[0] for name in weights if ".mlp.experts." in name}
    for layer in layers:
        parts = {
            kind: np.stack(
                [weights.pop(f"{layer}.mlp.experts.{e}.{kind}_proj.weight") for e in range(EXPERTS)]
            )
            for kind in ("gate", "up", "down")
        }
        weights[f"{layer}.mlp.experts.gate_up_proj"] = np.concatenate(
            [parts["gate"], parts["up"]], axis=1
        )
        weights[f"{layer}.mlp.experts.down_proj"] = parts["down"]
    write_safetensors(tmp_path / "hf" / "model.safetensors", weights, "F32")
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), tmp_path / "one.gguf")
    assert (tmp_path / "one.gguf").read_bytes() == (tmp_path / "apart.gguf").read_bytes()


def test_experts_stored_as_inputs_by_outputs(tmp_path: Path) -> None:
    """Qwen 3 VL was published with this layout; transformers 5 writes the experts as outputs by
    inputs.
    """
    pytest.importorskip("transformers", reason="transformers is not installed")
    from safetensors.numpy import load_file

    from tiny_transformers import write_checkpoint

    write_checkpoint("qwen3 vl, experts", tmp_path / "hf")
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), tmp_path / "rows.gguf")
    weights = load_file(tmp_path / "hf" / "model.safetensors")
    packed = [name for name in weights if name.endswith((".experts.gate_up_proj", ".down_proj"))]
    assert len(packed) == 4
    for name in packed:
        weights[name] = np.ascontiguousarray(weights[name].swapaxes(1, 2))
    write_safetensors(tmp_path / "hf" / "model.safetensors", weights, "F32")
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), tmp_path / "cols.gguf")
    assert (tmp_path / "cols.gguf").read_bytes() == (tmp_path / "rows.gguf").read_bytes()
