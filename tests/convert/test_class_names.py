"""Classes of config.json that are another architecture's model: other names, wrappers, layers that are not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.errors import UnsupportedModelError
from tiny_hf import TinyLlama, write_safetensors


def converted(folder: Path, **options: Any) -> _core.GGUFFile:
    out = folder.with_suffix(".gguf")
    write_plan(make_plan(open_source(folder), PlanOptions("f32", **options)), out)
    _core.Model.load(str(out))
    return _core.GGUFFile(str(out))


def bytes_of(file: _core.GGUFFile) -> dict[str, bytes]:
    return {t.name: bytes(t.data) for t in file.tensors}


@pytest.mark.parametrize(
    "name", ["LLaMAForCausalLM", "InternLM3ForCausalLM", "IQuestCoderForCausalLM"]
)
def test_another_name_of_llama(name: str, tmp_path: Path) -> None:
    plain = TinyLlama(tmp_path / "plain")
    TinyLlama(tmp_path / "other", config={"architectures": [name]})
    other = converted(tmp_path / "other")
    assert other.metadata["general.architecture"] == "llama"
    assert bytes_of(other) == bytes_of(converted(plain.path))


def test_a_wrapper_of_unknown_name_is_read_by_its_text(tmp_path: Path) -> None:
    plain = TinyLlama(tmp_path / "plain")
    text = {k: v for k, v in plain.config.items() if k != "architectures"}
    inner = {
        f"model.language_model.{k.removeprefix('model.')}": v for k, v in plain.weights.items()
    }
    seen = {
        f"model.{part}.weight": np.ones((4, 4), np.float32)
        for part in (
            "vision_tower.layers.0.fc1",
            "multi_modal_projector.linear_1",
            "connector.proj",
        )
    }
    wrapper = TinyLlama(tmp_path / "wrapper")
    wrapper.write_json(
        "config.json",
        {
            "architectures": ["NobodyKnowsItForConditionalGeneration"],
            "text_config": text,
            "vision_config": {"hidden_size": 4},
        },
    )
    write_safetensors(wrapper.path / "model.safetensors", {**inner, **seen}, "F32")
    source = open_source(wrapper.path)
    assert "3 tensors of the vision or sound part left out: hrun runs the text" in source.notes
    assert bytes_of(converted(wrapper.path)) == bytes_of(converted(plain.path))

    wrapper.write_json(
        "config.json",
        {
            "architectures": ["NobodyKnowsItForConditionalGeneration"],
            "text_config": {**text, "model_type": "mllama_text_model"},
        },
    )
    with pytest.raises(UnsupportedModelError, match="'NobodyKnowsItForConditionalGeneration'"):
        open_source(wrapper.path)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    """Qwen 3.5 and others name them mtp.*."""
    further = {
        name: np.ones((256, 256), np.float32)
        for name in ("mtp.fc.weight", "mtp.layers.0.mlp.up_proj.weight", "model.mtp.norm.weight")
    }
    TinyLlama(tmp_path / "hf", weights=further)
    plain = TinyLlama(tmp_path / "plain")
    source = open_source(tmp_path / "hf")
    assert any(note.startswith("3 tensors of layers beyond the 2") for note in source.notes)
    assert bytes_of(converted(tmp_path / "hf")) == bytes_of(converted(plain.path))
