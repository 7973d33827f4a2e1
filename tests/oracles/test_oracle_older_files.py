"""GGUF files as converters wrote them before: the same logits as transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_transformers import N_VOCAB, write_checkpoint

pytestmark = pytest.mark.slow

LATENT = ("attention.key_length_mla", "attention.value_length_mla")


def with_joined_latent(path: Path, out: Path, joined_format: str = "f32", cut: int = 0) -> None:
    """A deepseek2 file of 2024: attn_kv_b in place of attn_k_b and attn_v_b, the sizes of heads as of any attention.

    cut: rows left out, for a damaged file.
    """
    file = _core.GGUFFile(str(path))
    heads = file.metadata["deepseek2.attention.head_count"]
    k, v = (file.metadata[f"deepseek2.{key}"] for key in LATENT)
    changed: dict[str, Any] = {
        "attention.key_length": k,
        "attention.value_length": v,
        "attention.head_count_kv": heads,
    }
    writer = _core.GGUFWriter(str(out))
    for key, value in file.metadata.items():
        name = key.removeprefix("deepseek2.")
        if name not in LATENT:
            writer.add(key, file.metadata_types[key], changed.get(name, value))
    tensors = {t.name: t for t in file.tensors}
    made = []
    for name, t in tensors.items():
        if "attn_v_b" in name:
            continue
        if "attn_k_b" not in name:
            made.append((name, list(t.shape), t.format, t.data))
            continue
        keys = (
            t.data.view(np.float32).reshape(heads, t.shape[1], t.shape[0]).swapaxes(1, 2)
        )  # [head, nope, latent]
        other = tensors[name.replace("attn_k_b", "attn_v_b")]
        values = other.data.view(np.float32).reshape(
            heads, other.shape[1], other.shape[0]
        )  # [head, value, latent]
        joined = np.concatenate([keys, values], axis=1).reshape(-1, other.shape[0])
        joined = np.ascontiguousarray(joined[: len(joined) - cut])
        made.append(
            (
                name.replace("attn_k_b", "attn_kv_b"),
                list(joined.shape[::-1]),
                joined_format,
                _core.encode(joined_format, joined, None),
            )
        )
    for name, shape, kind, _ in made:
        writer.add_tensor(name, shape, kind)
    for name, _, _, data in made:
        writer.write_tensor(name, np.asarray(data).view(np.uint8).reshape(-1))
    writer.finish()


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
    np.testing.assert_allclose(logits(tmp_path / "silent.gguf", ids), expected, rtol=0, atol=1e-4)


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
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
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
