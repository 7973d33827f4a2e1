"""GGUF files of every architecture that hrun writes, read by llama.cpp: the same logits.

Optional: `pip install torch transformers`, and HRUN_LLAMA_CPP=FOLDER, a built tree of llama.cpp (tests/support/llama_cpp_build.py).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from llama_cpp_build import compiled, logits
from rewritten_checkpoints import with_unread_keys
from tiny_transformers import N_VOCAB, TINY, write_checkpoint

pytestmark = pytest.mark.slow

# In these models llama.cpp computes something else than transformers, and hrun follows
# transformers.
DIFFERENT = {
    "mistral": "llama.cpp knows no window for this architecture",
    "phi3": "llama.cpp leaves out the window",
    "phimoe": "llama.cpp has RMS norms, and a softmax in place of the sparse mixer",
    "phimoe, short": "llama.cpp has RMS norms, and a softmax in place of the sparse mixer",
    "phimoe, long": "llama.cpp has RMS norms, and a softmax in place of the sparse mixer",
    "starcoder2": "llama.cpp leaves out the window",
    "gemma2": "llama.cpp takes the scale of queries from the sizes",
    "gemma3": "llama.cpp takes the scale of queries from the sizes",
    "gemma3, multimodal": "llama.cpp takes the scale of queries from the sizes",
    "gpt-oss": "llama.cpp rounds the ends of yarn's ramp to whole pairs",
    "deepseek2, lite": "llama.cpp tells models without compressed queries by their number of layers",
    "command-r, plus": "llama.cpp knows the norms of heads in models of 64 layers or more",
    "qwen35, no period": "llama.cpp has one size for heads of keys and of values",
    "qwen2 vl": "llama.cpp's logits of so small a model are no numbers",
    "qwen2.5 vl": "llama.cpp's logits of so small a model are no numbers",
    "exaone 4": "llama.cpp knows windows in the model of 64 layers",
    "arcee with biases": "llama.cpp knows no biases in the feed-forward block",
    "youtu": "llama.cpp wants a width of experts where there are none",
    "gemma4, small": "llama.cpp knows the shared layers of the published models alone",
    "gemma3n": "llama.cpp knows the sizes of the published models alone",
    "bitnet": "llama.cpp has SiLU in place of the squared positive part",
    "deepseek2": "llama.cpp ranks groups of experts by their two best",
}

# Above 0.02: a GELU before each of two norms that enlarge its error; gates' deviations from their mean are divided by one less
# than there are.
WIDER = {"gemma4, experts": 0.05, "gemma3n, as published": 0.05}


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("llama_logits", tmp_path_factory.mktemp("llama_cpp"))


@pytest.mark.parametrize("name", [name for name in TINY if name not in DIFFERENT])
def test_llama_cpp_reads_it_alike(name: str, tmp_path: Path, program: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_checkpoint(name, tmp_path / "hf")
    same_logits(name, tmp_path, program)


def test_it_shares_the_keys_of_gemma_3n_alike(tmp_path: Path, program: Path) -> None:
    """llama.cpp takes the layers from 20 on for those that share, and wants keys and values that nobody reads in these too."""
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    name = "gemma3n, as published"
    sizes = {"num_hidden_layers": 22, "num_kv_shared_layers": 2, "intermediate_size": 4096}
    write_checkpoint(name, tmp_path / "hf", **sizes)
    with_unread_keys(tmp_path / "hf", (20, 21))
    same_logits(name, tmp_path, program)


def same_logits(name: str, tmp_path: Path, program: Path) -> None:
    path = tmp_path / "out.gguf"
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), path)
    ids = np.random.default_rng(5).integers(0, N_VOCAB, 64).tolist()
    expected = logits(program, path, ids, N_VOCAB)
    session = _core.Session(_core.Model.load(str(path)), 256, type_k="f32", type_v="f32")
    got = session.forward(ids, "all")
    # llama.cpp's table of GELU has 11 bits.
    np.testing.assert_allclose(got, expected, rtol=0, atol=WIDER.get(name, 0.02))
