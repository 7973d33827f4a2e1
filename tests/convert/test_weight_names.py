"""Checkpoints whose weights have the names of wrappers, and indices beside a single file."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hrun import _core
from hrun.convert import Source, open_source
from tiny_hf import TinyLlama, write_safetensors


@pytest.fixture(scope="module")
def untied(tmp_path_factory: pytest.TempPathFactory) -> TinyLlama:
    return TinyLlama(tmp_path_factory.mktemp("names") / "hf", layers=1, embd=32, heads=2, kv_heads=1,
                     head_dim=16, ff=32, tied=False)  # fmt: skip


def renamed(model: TinyLlama, folder: Path, rename: Callable[[str], str]) -> Path:
    shutil.copytree(model.path, folder)
    tensors = {rename(name): values for name, values in model.weights.items()}
    write_safetensors(folder / "model.safetensors", tensors, "BF16")
    return folder


def values_of(source: Source) -> dict[str, np.ndarray]:
    return {t.name: t.read_rows(0, t.rows) for t in source.tensors}


WRAPPED: dict[str, Callable[[str], str]] = {
    "PEFT": lambda n: "base_model.model." + n,
    "data parallel": lambda n: "module." + n,
    "compiled": lambda n: "_orig_mod." + n,
    "compiled inside": lambda n: n.replace("model.", "model._orig_mod.", 1),
    "layers compiled": lambda n: n.replace("layers.0.", "layers.0._orig_mod."),
    "data parallel and compiled": lambda n: "module._orig_mod." + n,
    "sharded": lambda n: "_fsdp_wrapped_module." + n.replace("mlp.", "_fsdp_wrapped_module.mlp."),
    "language model outside": lambda n: "language_model." + n,
    "language model inside": lambda n: n.replace("model.", "model.language_model.", 1),
    "without the root": lambda n: n.removeprefix("model."),
}


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_are_left_out(wrapper: str, untied: TinyLlama, tmp_path: Path) -> None:
    source = open_source(renamed(untied, tmp_path / "m", WRAPPED[wrapper]))
    got, want = values_of(source), values_of(open_source(untied.path))
    assert got.keys() == want.keys() and "output.weight" in got
    assert all(np.array_equal(got[name], want[name]) for name in want)
    assert any("have names of a wrapper, like" in note for note in source.notes)


def test_names_that_are_not_clear_are_named(untied: TinyLlama, tmp_path: Path) -> None:
    def refused(folder: str, extra: dict[str, np.ndarray], rename: Callable[[str], str]) -> str:
        path = renamed(untied, tmp_path / folder, rename)
        tensors = {rename(name): values for name, values in untied.weights.items()}
        write_safetensors(path / "model.safetensors", {**tensors, **extra}, "BF16")
        with pytest.raises((_core.ModelFileError, _core.UnsupportedModelError)) as caught:
            open_source(path)
        return str(caught.value)

    embedding = untied.weights["model.embed_tokens.weight"]
    two = refused("two", {"b.model.embed_tokens.weight": embedding}, lambda n: "a." + n)
    assert "'model.embed_tokens.weight' is missing; it could be any of" in two
    assert "'a.model.embed_tokens.weight', 'b.model.embed_tokens.weight'" in two
    none = refused("none", {}, lambda n: n.replace("embed_tokens", "embeddings"))
    assert "is missing; found were 'model.embeddings.weight'" in none and " more" in none
    both = refused("both", {"model.norm.weight": np.ones(32)}, lambda n: "x." + n)
    assert "'x.model.norm.weight' and 'model.norm.weight' are both 'model.norm.weight'" in both
    lora = refused("lora", {"model.layers.0.q_proj.lora_A.weight": np.ones((2, 32))}, lambda n: n)
    assert "adapter that was not merged" in lora and "merge_and_unload" in lora


def test_an_adapter_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(_core.UnsupportedModelError, match="an adapter .LoRA., not a model"):
        open_source(tmp_path)


@pytest.mark.parametrize("index", [b"{}", b'{"weight_map": {"a": "model-00001-of-00002.safetensors"}}'])  # fmt: skip
def test_a_single_file_comes_before_an_index(
    index: bytes, untied: TinyLlama, tmp_path: Path
) -> None:
    folder = renamed(untied, tmp_path / "m", lambda n: n)
    (folder / "model.safetensors.index.json").write_bytes(index)
    source = open_source(folder)
    assert values_of(source).keys() == values_of(open_source(untied.path)).keys()
    assert any("index.json: not read, as model.safetensors is there" in n for n in source.notes)


def test_weights_under_another_name_are_named(untied: TinyLlama, tmp_path: Path) -> None:
    folder = renamed(untied, tmp_path / "m", lambda n: n)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    with pytest.raises(_core.ModelFileError, match="there is 'model-00001-of-00002.safetensors'"):
        open_source(folder)
