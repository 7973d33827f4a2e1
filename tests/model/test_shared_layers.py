"""Layers that read others' keys and values, vectors of every layer, and experts whose matrices lie together."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrun import _core
from hrun.cache_memory import bytes_per_token
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_transformers import N_VOCAB, write_checkpoint

pytestmark = pytest.mark.slow

IDS = np.random.default_rng(2).integers(0, N_VOCAB, 20).tolist()


def converted(name: str, folder: Path) -> Path:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_checkpoint(name, folder / "hf")
    out = folder / "out.gguf"
    write_plan(make_plan(open_source(folder / "hf"), PlanOptions("f32")), out)
    return out


def logits(model: _core.Model) -> np.ndarray:
    return _core.Session(model, 64, type_k="f32", type_v="f32").forward(IDS, "all")


@pytest.mark.parametrize("name", ["gemma4, small", "gemma3n"])
def test_layers_go_where_the_keys_that_they_read_are(
    name: str, tmp_path: Path, emulated_cuda: None
) -> None:
    """Layers 3 to 5 read the keys of 1 and 2: a cut below 1 or none at all is possible, one between is refused."""
    path = str(converted(name, tmp_path))
    want = logits(_core.Model.load(path, device="cpu"))
    for n in (0, 5, 6, 7):
        got = logits(_core.Model.load(path, device="cuda", n_gpu_layers=n))
        assert np.abs(got - want).max() < 1e-4 * np.abs(want).max(), n
    for n in (1, 2, 3, 4):
        with pytest.raises(_core.UnsupportedModelError, match="reads the keys and values of layer"):
            _core.Model.load(path, device="cuda", n_gpu_layers=n)


def test_the_cache_is_that_of_each_layers_own_heads(tmp_path: Path) -> None:
    """Layers with a window have heads of another size, and the last three keep no keys."""
    path = converted("gemma4, small", tmp_path)
    tensors = {t.name: t.shape for t in _core.GGUFFile(str(path)).tensors}
    params = _core.read_spec(str(path)).params
    keys, values = (
        [tensors[f"blk.{l}.attn_{kind}.weight"][1] for l in range(3)] for kind in ("k", "v")
    )
    assert len(set(keys)) == 2
    assert sum(n * k for n, k, *_ in params["cached_heads"]) == sum(keys)
    assert bytes_per_token(params, "f16", "f16") == 2 * (sum(keys) + sum(values))


def test_a_layer_without_its_vectors_is_an_error(tmp_path: Path) -> None:
    path = converted("gemma4, small", tmp_path)
    file, out = _core.GGUFFile(str(path)), tmp_path / "without.gguf"
    with _core.GGUFWriter(str(out)) as writer:
        for key, value in file.metadata.items():
            writer.add(key, file.metadata_types[key], value)
        kept = [t for t in file.tensors if t.name != "blk.4.proj.weight"]
        for t in kept:
            writer.add_tensor(t.name, list(t.shape), t.format)
        for t in kept:
            writer.write_tensor(t.name, np.asarray(t.data).view(np.uint8).reshape(-1))
        writer.finish()
    with pytest.raises(_core.ModelFileError, match=r"blk\.4\.proj\.weight' is missing"):
        _core.read_spec(str(out))


@pytest.mark.parametrize("name", ["qwen3moe", "gemma4, experts"])
def test_gates_and_values_of_experts_may_be_in_one_tensor(name: str, tmp_path: Path) -> None:
    path = converted(name, tmp_path)
    file, out = _core.GGUFFile(str(path)), tmp_path / "together.gguf"
    tensors = {t.name: t for t in file.tensors}
    made = []
    for t in file.tensors:
        if "ffn_up_exps" in t.name:
            continue
        data, shape, written = np.asarray(t.data).view(np.float32), list(t.shape), t.name
        if "ffn_gate_exps" in t.name:
            cols, rows, experts = shape
            up = np.asarray(tensors[t.name.replace("gate", "up")].data).view(np.float32)
            both = [part.reshape(experts, rows, cols) for part in (data, up)]
            data, shape = np.concatenate(both, axis=1), [cols, 2 * rows, experts]
            written = t.name.replace("ffn_gate_exps", "ffn_gate_up_exps")
        made.append((written, shape, np.ascontiguousarray(data)))
    with _core.GGUFWriter(str(out)) as writer:
        for key, value in file.metadata.items():
            writer.add(key, file.metadata_types[key], value)
        for written, shape, _ in made:
            writer.add_tensor(written, shape, "f32")
        for written, _, data in made:
            writer.write_tensor(written, data.view(np.uint8).reshape(-1))
        writer.finish()
    assert np.array_equal(logits(_core.Model.load(str(out))), logits(_core.Model.load(str(path))))
