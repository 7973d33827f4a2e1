"""GGUF files as converters wrote them before: the same logits as transformers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from file_variants import with_joined_latent
from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_transformers import N_VOCAB, write_checkpoint

pytestmark = pytest.mark.slow


def without(path: Path, out: Path, *keys: str) -> None:
    """The same file without these keys."""
    file = _core.GGUFFile(str(path))
    assert set(keys) <= set(file.metadata)
    with _core.GGUFWriter(str(out)) as writer:
        for key, value in file.metadata.items():
            if key not in keys:
                writer.add(key, file.metadata_types[key], value)
        for t in file.tensors:
            writer.add_tensor(t.name, list(t.shape), t.format)
        for t in file.tensors:
            writer.write_tensor(t.name, t.data.reshape(-1))


# Models whose files leave out what follows from their size or tensors.
SILENT = {
    "gemma2": (
        {"num_hidden_layers": 46, "query_pre_attn_scalar": 16},
        ["gemma2.attention.scale"],
    ),  # 64 / 4 heads, not a head's 32
    "gemma3": ({"num_hidden_layers": 62, "query_pre_attn_scalar": 16}, ["gemma3.attention.scale"]),
    "deepseek3": ({}, ["deepseek2.expert_gating_func"]),
}


@pytest.mark.parametrize("name", SILENT)
def test_what_files_do_not_say(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    changes, keys = SILENT[name]
    model = write_checkpoint(name, tmp_path / "hf", **changes)
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), tmp_path / "new.gguf")
    without(tmp_path / "new.gguf", tmp_path / "silent.gguf", *keys)
    ids = np.random.default_rng(5).integers(0, N_VOCAB, 24).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].float().numpy()
    np.testing.assert_allclose(logits(tmp_path / "silent.gguf", ids), expected, rtol=0, atol=1e-3)


def logits(path: Path, ids: list[int]) -> np.ndarray:
    return _core.Session(_core.Model.load(str(path)), len(ids), type_k="f32", type_v="f32").forward(
        ids, "all"
    )


@pytest.mark.parametrize("name", ["deepseek2", "deepseek2, lite", "deepseek3"])
def test_joined_latent_attention(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    model = write_checkpoint(name, tmp_path / "hf")
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), tmp_path / "new.gguf")
    with_joined_latent(tmp_path / "new.gguf", tmp_path / "old.gguf")
    ids = np.random.default_rng(5).integers(0, N_VOCAB, 64).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].float().numpy()
    got = logits(tmp_path / "old.gguf", ids)
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-3)
    assert np.array_equal(got, logits(tmp_path / "new.gguf", ids))
    with_joined_latent(
        tmp_path / "new.gguf", tmp_path / "q8_0.gguf", "q8_0"
    )  # values as they are, keys decoded
    # A token here and there goes to other experts.
    assert np.median(np.abs(logits(tmp_path / "q8_0.gguf", ids) - expected)) < 0.03 * expected.std()
    write_plan(
        make_plan(open_source(tmp_path / "old.gguf"), PlanOptions("q8_0")),
        tmp_path / "converted.gguf",
    )
    assert np.isfinite(logits(tmp_path / "converted.gguf", ids)).all()

    with_joined_latent(tmp_path / "new.gguf", tmp_path / "cut.gguf", cut=1)
    with pytest.raises(_core.ModelFileError, match="attn_kv_b.weight' has shape"):
        _core.read_spec(str(tmp_path / "cut.gguf"))
