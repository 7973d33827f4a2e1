"""Gemma 3n: tokens with several hidden states, learned residuals, gates of which the largest are kept."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from rewritten_checkpoints import with_unread_keys
from tiny_transformers import N_VOCAB, write_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    made = tmp_path_factory.mktemp("states") / "hf"
    write_checkpoint("gemma3n", made)
    return made


@pytest.fixture(scope="module")
def path(folder: Path) -> Path:
    out = folder.parent / "out.gguf"
    write_plan(make_plan(open_source(folder), PlanOptions("f32")), out)
    return out


def rewritten(
    path: Path,
    out: Path,
    metadata: dict[str, Any],
    change: Callable[[str, np.ndarray], np.ndarray | None] = lambda name, values: values,
) -> str:
    """A copy with other values of some keys (None: without them), and tensors changed or, by None, left out."""
    file = _core.GGUFFile(str(path))
    kept = []
    for t in file.tensors:
        values = np.asarray(t.data).view(np.float32).reshape(list(reversed(t.shape)))
        if (made := change(str(t.name), values)) is not None:
            kept.append((t.name, made))
    with _core.GGUFWriter(str(out)) as writer:
        for key, value in file.metadata.items():
            if (value := metadata.get(key.removeprefix("gemma3n."), value)) is not None:
                writer.add(key, file.metadata_types[key], value)
        for name, values in kept:
            writer.add_tensor(name, list(reversed(values.shape)), "f32")
        for name, values in kept:
            writer.write_tensor(name, np.ascontiguousarray(values).view(np.uint8).reshape(-1))
        writer.finish()
    return str(out)


def logits(path: str) -> np.ndarray:
    ids = np.random.default_rng(2).integers(0, N_VOCAB, 20).tolist()
    session = _core.Session(_core.Model.load(path), 64, type_k="f32", type_v="f32")
    return session.forward(ids, "all")


def test_the_file_says_what_the_configuration_says(path: Path) -> None:
    metadata = _core.GGUFFile(str(path)).metadata
    assert metadata["gemma3n.altup.num_inputs"] == 3
    assert metadata["gemma3n.altup.active_idx"] == 1
    assert metadata["gemma3n.attention.shared_kv_layers"] == 3
    cutoffs = metadata["gemma3n.activation_sparsity_scale"]
    np.testing.assert_allclose(cutoffs[:3], [1.2815516, 1.6448536, 0.0], rtol=1e-6, atol=1e-12)
    assert cutoffs[3:] == [-math.inf] * 3
    assert metadata["gemma3n.feed_forward_length"] == [96, 96, 80, 96, 96, 64]


def test_tokens_beyond_the_table_of_vectors_have_the_first_ones(path: Path) -> None:
    table = next(
        t for t in _core.GGUFFile(str(path)).tensors if t.name == "per_layer_token_embd.weight"
    )
    rows = np.asarray(table.data).view(np.float32).reshape(N_VOCAB, -1)
    assert (rows[-20:] == rows[0]).all() and (rows[-21] != rows[0]).any()


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"altup.num_inputs": 1}, r"altup\.num_inputs' is 1, must be 2 to 64"),
        ({"altup.num_inputs": None}, r"altup\.num_inputs"),
        (
            {"altup.num_inputs": 4},
            r"altup_proj\.weight' has shape \[64, 64, 2\], the metadata says",
        ),
        ({"altup.active_idx": 3}, r"altup\.active_idx' is 3, must be 0 to 2"),
        ({"activation_sparsity_scale": [0.5] * 5}, "has 5 numbers, the model has 6 layers"),
        ({"activation_sparsity_scale": [math.nan] * 6}, "must be .* or -infinity"),
        ({"activation_sparsity_scale": [math.inf] * 6}, "must be .* or -infinity"),
        ({"embedding_length_per_layer_input": 0}, "is 0, must be 1 to"),
    ],
)
def test_wrong_numbers_are_named(
    path: Path, tmp_path: Path, metadata: dict[str, Any], message: str
) -> None:
    with pytest.raises(_core.ModelFileError, match=message):
        _core.read_spec(rewritten(path, tmp_path / "wrong.gguf", metadata))


@pytest.mark.parametrize(
    "name", ["altup_unembd_proj.weight", "blk.2.altup_router.weight", "blk.4.laurel_r.weight"]
)
def test_a_tensor_that_is_missing_is_named(path: Path, tmp_path: Path, name: str) -> None:
    out = rewritten(path, tmp_path / "less.gguf", {}, lambda n, v: None if n == name else v)
    with pytest.raises(_core.ModelFileError, match=f"'{name}' is missing"):
        _core.read_spec(out)


def test_each_part_counts(path: Path, tmp_path: Path) -> None:
    """No tensor and no number of these is read in vain."""
    want = logits(str(path))
    for number, (metadata, name) in enumerate(
        [
            ({"altup.active_idx": 0}, ""),
            ({"activation_sparsity_scale": [0.5, 1.6448536, 0.0] + [-math.inf] * 3}, ""),
            ({}, "altup_proj.weight"),
            ({}, "altup_unembd_proj.weight"),
            ({}, "blk.1.altup_predict_coef.weight"),
            ({}, "blk.1.altup_correct_coef.weight"),
            ({}, "blk.1.altup_correct_scale.weight"),
            ({}, "blk.1.altup_router_norm.weight"),
            ({}, "blk.1.laurel_l.weight"),
            ({}, "blk.1.laurel_post_norm.weight"),
        ]
    ):
        out = tmp_path / f"{number}.gguf"
        changed = rewritten(
            path, out, metadata, lambda n, v, name=name: np.roll(v, 1, -1) if n == name else v
        )
        assert np.abs(logits(changed) - want).max() > 1e-3, (metadata, name)


def test_steps_on_cuda_are_one_pass(path: Path, emulated_cuda: None) -> None:
    """The last steps come from a recorded graph."""
    model = _core.Model.load(str(path), device="cuda")
    ids = np.random.default_rng(3).integers(0, N_VOCAB, 14).tolist()
    whole = _core.Session(model, 64).forward(ids, "all")
    session = _core.Session(model, 64)
    for i, token in enumerate(ids):
        assert session.forward([token], "last").tobytes() == whole[i].tobytes(), i


def test_keys_that_nobody_reads_change_nothing(folder: Path, path: Path, tmp_path: Path) -> None:
    """The published files have them in the layers that share others'."""
    shutil.copytree(folder, tmp_path / "hf")
    with_unread_keys(tmp_path / "hf", (3, 4, 5))
    out = tmp_path / "out.gguf"
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), out)
    names = {str(t.name) for t in _core.GGUFFile(str(out)).tensors}
    assert {"blk.5.attn_k.weight", "blk.5.attn_v.weight", "blk.5.attn_k_norm.weight"} <= names
    assert np.array_equal(logits(str(out)), logits(str(path)))


def test_sensitive_matrices_stay_as_they_are_stored(folder: Path, tmp_path: Path) -> None:
    """In 16 bits where they have so many, in F32 where not, whatever the file's format."""
    from safetensors.torch import load_file, save_file

    names = {
        "altup_proj.weight",
        "altup_unembd_proj.weight",
        "per_layer_model_proj.weight",
        "blk.0.laurel_l.weight",
        "blk.0.laurel_r.weight",
    }
    small = {f"blk.0.altup_{part}.weight" for part in ("router", "predict_coef", "correct_coef")}
    for stored in ("f32", "bf16"):
        source = tmp_path / stored
        source.mkdir()
        for file in folder.iterdir():
            if file.name != "model.safetensors":
                (source / file.name).write_bytes(file.read_bytes())
        tensors = load_file(folder / "model.safetensors")
        if stored == "bf16":
            tensors = {name: tensor.bfloat16() for name, tensor in tensors.items()}
        save_file(tensors, source / "model.safetensors", {"format": "pt"})
        out = tmp_path / f"{stored}.gguf"
        write_plan(make_plan(open_source(source), PlanOptions("rtq4")), out)
        again = tmp_path / f"{stored}-again.gguf"
        write_plan(make_plan(open_source(out), PlanOptions("q8_0")), again)
        for path in (out, again):
            formats = {str(t.name): t.format for t in _core.GGUFFile(str(path)).tensors}
            assert {formats[name] for name in names} == {stored}
            assert {formats[name] for name in small} == {"f32"}
        assert formats["blk.0.attn_q.weight"] == "q8_0"
        assert np.isfinite(logits(str(again))).all()
