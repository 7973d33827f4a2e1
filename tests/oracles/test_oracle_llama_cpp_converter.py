"""GGUF files of llama.cpp's own converter, read by hrun: the same logits as transformers.

Optional: `HRUN_LLAMA_CPP=FOLDER python -m pytest tests/oracles/test_oracle_llama_cpp_converter.py` with the source tree of llama.cpp,
and `pip install torch transformers`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hrun import _core
from llama_cpp_build import source
from tiny_transformers import N_VOCAB, TINY, write_checkpoint

pytestmark = pytest.mark.slow

# Its converter knows tokenizers by a hash of what they do to a text, and ours are made up.
SCRIPT = """
import json, sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/gguf-py"]
from conversion.base import TextModel

def vocabulary(self):
    described = json.loads((Path(self.dir_model) / "tokenizer.json").read_text())
    ids = {**described["model"]["vocab"], **{t["content"]: t["id"] for t in described["added_tokens"]}}
    names = {i: t for t, i in ids.items()}
    size = self.hparams["vocab_size"]
    return [names.get(i, f"[PAD{i}]") for i in range(size)], [1 if i in names else 5 for i in range(size)], "gpt-2"

TextModel.get_vocab_base = vocabulary
from conversion.glm import SolarOpenModel
SolarOpenModel.set_vocab = lambda self: self._set_vocab_gpt2()
TextModel._set_vocab_glm = lambda self: self._set_vocab_gpt2()
from conversion.glm import Glm4Model
Glm4Model.set_vocab = lambda self: self._set_vocab_gpt2()
TextModel._set_vocab_sentencepiece = TextModel._set_vocab_llama_hf = lambda self, *_, **__: self._set_vocab_gpt2()
from conversion.phi import Phi3MiniModel
Phi3MiniModel.set_vocab = lambda self: self._set_vocab_gpt2()
from conversion.gemma import Gemma4Model
Gemma4Model.set_vocab = lambda self: self._set_vocab_gpt2()
from conversion.nemotron import NemotronHModel
NemotronHModel.set_vocab = lambda self: self._set_vocab_gpt2()
from conversion.internlm import InternLM2Model
from conversion.chatglm import ChatGLMModel
from conversion.muse_glimmer import MuseGlimmerModel
for model in (InternLM2Model, ChatGLMModel, MuseGlimmerModel):
    model.set_vocab = lambda self: self._set_vocab_gpt2()
import convert_hf_to_gguf
sys.argv = ["convert_hf_to_gguf.py", sys.argv[2], "--outfile", sys.argv[3], "--outtype", "f32", *sys.argv[4:]]
convert_hf_to_gguf.main()
"""
# It looks for the layers that predict several tokens at once in every model of these.
_OPTIONS = dict.fromkeys(("qwen35", "qwen35moe", "qwen3next"), ("--no-mtp",))
# Models that llama.cpp's converter describes otherwise than they are, and how; hrun follows the
# file.
DIFFERENT = {
    "mistral": "its files do not mention the window",
    "starcoder2": "its files do not mention the window",
    "gemma2": "its files do not mention the scale of queries",
    "gemma3": "its files do not mention the scale of queries",
    "gemma3, multimodal": "its files do not mention the scale of queries",
    "qwen3 vl, experts": "its converter reads the published layout of experts alone",
    "falcon mamba": "its files do not mention the epsilon of the norms of steps",
    "gemma3n": "its converter takes the published sizes alone",
    "hunyuan": "its converter takes the published sizes alone",
    "hunyuan, experts": "its converter takes the published sizes alone",
    "pythia": "its converter wants a key that transformers 5 drops from the configuration",
    "gpt-neox, in turn": "its converter wants a key that transformers 5 drops from the configuration",
    "laguna": "its files have the window that the configuration names for a model without such layers",
    "mimo 2": "its converter reads the published layout of the configuration alone",
    "smolvlm": "its converter knows the other part of the model alone",
    "glm 4, 9b": "its converter takes 1e-5 for the epsilon of norms",
    "bitnet": "its converter takes the nearest ternary weights",
    "bitnet, first": "its converter takes the nearest ternary weights",
    "falcon 7b": "its converter takes the number of heads of keys as it stands, which is not the model's",
    "llava, qwen2": "its converter takes every Llava for a Llama",
    "nemotron h": "its converter reads defaults of transformers' configuration as experts",
    "granite 4 h, turned": "its files say that nothing is turned",
    "bamba": "its converter takes heads for turned as a whole",
    **dict.fromkeys(
        ("phimoe", "phimoe, short", "phimoe, long"),
        "its converter knows the model under the published class alone",
    ),
    "gpt-oss, whole ramp": "its files do not say how the ends of yarn's ramp are rounded",
}

# Keys of config.json that its converter wants and transformers no longer writes.
MISSING = {
    "gpt2": {"n_ctx": 256},
    "cohere2": {"rotary_pct": 1.0},
    "solar open": {"partial_rotary_factor": 1.0},  # it takes a half where there is none
}
# Keys that it reads as older checkpoints have them.
OLDER = {
    "granite, windows": {"no_rope_layers": [0, 1, 1, 1, 0]},
    "granite 4 h": {"layer_types": ["mamba", "attention", "mamba"]},
    "granite 4 h, dense": {"layer_types": ["mamba", "attention", "mamba"]},
    "nemotron h, experts": {"hybrid_override_pattern": "ME*EM", "num_hidden_layers": 5},
}


@pytest.mark.parametrize("name", TINY)
def test_its_files_give_the_same_logits(name: str, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    tree = str(source())
    if name in DIFFERENT:
        pytest.skip(DIFFERENT[name])
    model = write_checkpoint(name, tmp_path / "hf")
    config = json.loads((tmp_path / "hf" / "config.json").read_text())
    (tmp_path / "hf" / "config.json").write_text(
        json.dumps({**MISSING.get(name, {}), **config, **OLDER.get(name, {})})
    )
    out = tmp_path / "theirs.gguf"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            tree,
            str(tmp_path / "hf"),
            str(out),
            *_OPTIONS.get(TINY[name].architecture, ()),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    ids = np.random.default_rng(5).integers(0, N_VOCAB, 64).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].float().numpy()
    got = _core.Session(_core.Model.load(str(out)), 64, type_k="f32", type_v="f32").forward(
        ids, "all"
    )
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
