"""Types such as q4_k_m: which tensor gets which format, by role, place, shape and kind of model."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest

from hrun import _core
from hrun.cli.convert import default_output, main
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.convert.mixes import MIXES
from hrun.convert.source import Entry, Source, SourceTensor
from tiny_hf import TinyLlama

# The raised ones of 32 layers: the first and the last four, and every third between.
RAISED = {*range(4), *range(28, 32), *range(6, 28, 3)}


def matrix(name: str, *shape: int) -> SourceTensor:
    return SourceTensor(name, shape, "f16", lambda first, last: np.zeros((last - first, shape[0]), np.float32), name)  # fmt: skip


def model(
    layers: int, *, cols: int = 256, experts: int = 0, architecture: str = "llama", tied: bool = False
) -> Source:  # fmt: skip
    down = "ffn_down_exps" if experts else "ffn_down"
    names = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", down)
    tensors = [matrix(f"blk.{i}.{name}.weight", cols, 8) for i in range(layers) for name in names]
    tensors += [matrix("token_embd.weight", cols, 8), matrix("output_norm.weight", cols)]
    if not tied:
        tensors.append(matrix("output.weight", cols, 8))
    facts = {"block_count": layers, "attention.head_count": 8, "attention.head_count_kv": 2, "expert_count": experts}  # fmt: skip
    entries = [Entry("general.architecture", "string", architecture)]
    entries += [Entry(f"{architecture}.{key}", "u32", value) for key, value in facts.items()]
    head = None if tied else "output.weight"
    return Source(gguf.__file__, "GGUF file", "x", entries, tensors, "token_embd.weight", head, [])  # type: ignore[arg-type]


def formats(source: Source, mix: str, **options: bool) -> dict[str, str]:
    plan = make_plan(source, PlanOptions(mix, **options))  # type: ignore[arg-type]
    return {p.tensor.name: p.format.name for p in plan.tensors}


def layers_with(found: dict[str, str], role: str, format: str) -> set[int]:
    return {int(n.split(".")[1]) for n, f in found.items() if f".{role}." in n and f == format}


def test_more_bits_for_values_and_down_matrices_of_some_layers() -> None:
    found = formats(model(32), "Q4_K_M")
    assert layers_with(found, "attn_v", "q6_k") == RAISED == layers_with(found, "ffn_down", "q6_k")
    assert layers_with(found, "attn_v", "q4_k") == set(range(32)) - RAISED
    assert len(RAISED) == 16
    assert found["output.weight"] == "q6_k" and found["token_embd.weight"] == "q4_k"
    assert found["output_norm.weight"] == "f32"
    others = ("attn_q", "attn_k", "attn_output", "ffn_gate", "ffn_up")
    assert {f for n, f in found.items() if n.split(".")[-2] in others} == {"q4_k"}


@pytest.mark.parametrize(
    ("mix", "values", "down", "output"),
    [
        ("q3_k_s", {"q3_k": 32}, {"q3_k": 32}, "q3_k"),
        ("q3_k_m", {"q5_k": 2, "q4_k": 30}, {"q5_k": 2, "q4_k": 30}, "q4_k"),
        ("q3_k_l", {"q5_k": 32}, {"q5_k": 32}, "q5_k"),
        ("q4_k_s", {"q5_k": 4, "q4_k": 28}, {"q5_k": 4, "q4_k": 28}, "q4_k"),
        ("q5_k_s", {"q5_k": 32}, {"q5_k": 32}, "q5_k"),
        ("q5_k_m", {"q6_k": 16, "q5_k": 16}, {"q6_k": 16, "q5_k": 16}, "q5_k"),
    ],
)
def test_each_mix(mix: str, values: dict[str, int], down: dict[str, int], output: str) -> None:
    found = formats(model(32), mix)
    for role, expected in (("attn_v", values), ("ffn_down", down), ("attn_output", {output: 32})):
        assert {f: len(layers_with(found, role, f)) for f in expected} == expected, role


def test_kinds_of_models() -> None:
    tied = formats(model(4, tied=True), "q4_k_m")
    assert tied["token_embd.weight"] == "q6_k"
    eight = formats(model(32, experts=8), "q4_k_m")
    assert layers_with(eight, "attn_v", "q8_0") == layers_with(eight, "attn_k", "q8_0") == set(range(32))  # fmt: skip
    assert layers_with(eight, "attn_output", "q5_k") == set(range(32))
    assert layers_with(eight, "ffn_down_exps", "q6_k") == RAISED
    large = formats(model(80), "q4_k_s")
    assert layers_with(large, "attn_v", "q5_k") == set(range(80))
    falcon = formats(model(32, architecture="falcon"), "q4_k_m")
    assert falcon["output.weight"] == "q8_0"
    assert layers_with(falcon, "ffn_down", "q6_k") == {0, 1}
    assert layers_with(falcon, "ffn_down", "q5_k") == RAISED - {0, 1}


def test_rows_that_do_not_fit() -> None:
    narrow = formats(model(32, cols=576), "q4_k_m")
    assert narrow["blk.5.attn_q.weight"] == "q5_0" and narrow["blk.0.attn_v.weight"] == "q8_0"
    assert narrow["output.weight"] == "q8_0"
    odd = formats(model(4, cols=40), "q5_k_s")
    assert odd["blk.0.attn_q.weight"] == "f16"


def test_what_is_asked_for_comes_first() -> None:
    plan = make_plan(
        model(8), PlanOptions("q4_k_m", [("ffn_down", "q8_0")], embedding_format="q5_0")
    )
    found = {p.tensor.name: p.format.name for p in plan.tensors}
    assert layers_with(found, "ffn_down", "q8_0") == set(range(8))
    assert found["token_embd.weight"] == "q5_0" and found["output.weight"] == "q6_k"
    assert set(formats(model(8), "q4_k_m", pure=True).values()) == {"q4_k", "f32"}


@pytest.mark.slow
@pytest.mark.parametrize("mix", MIXES)
def test_files_say_what_they_are(mix: str, tmp_path: Path) -> None:
    tiny = TinyLlama(tmp_path / "tiny", tied=False)
    out = tmp_path / "out.gguf"
    assert main([str(tiny.path), "-o", str(out), "--type", mix.upper(), "--no-check"]) == 0
    file_type = _core.GGUFFile(str(out)).metadata["general.file_type"]
    assert gguf.LlamaFileType(file_type).name == f"MOSTLY_{mix.upper()}"
    again = open_source(out)
    write_plan(make_plan(again, PlanOptions("f32")), tmp_path / "back.gguf")


def test_the_name_of_the_output() -> None:
    assert default_output(Path("a/Model-Q4_K_M.gguf"), "x", "q5_k_s") == Path("Model-Q5_K_S.gguf")
