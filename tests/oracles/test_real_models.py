"""Real files against llama.cpp: token ids of hard strings, perplexity, greedy text.

python tools/fetch_real_models.py FOLDER && pip install llama-cpp-python
HRUN_REAL_MODELS=FOLDER HRUN_LLAMA_CPP=TREE python -m pytest tests/oracles/test_real_models.py

The ids need llama-cpp-python, the rest a built tree of llama.cpp (tests/support/llama_cpp_build.py).
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hrun import _core
from hrun.tokenizer import Tokenizer
from llama_cpp_build import compiled, logits

TEXTS = Path(__file__).resolve().parents[2] / "python" / "hrun" / "convert" / "texts"
NAMES = ("smollm2.gguf", "gemma3.gguf")
NEAR_TIE = 0.5  # nats: activations are coded in 8 bits by both, in blocks of other lengths
HARD = [
    "",
    " ",
    "   ",
    "\n\n\n",
    "a\tb\r\nc",
    "Hello, world!  Two spaces,   three.",
    " leading and trailing ",
    "don't can't I'LL WE'RE",
    "0 12 345 6789 10^-7 3.14159 1,000,000",
    "def f(x):\n    return x**2  # comment\n\n\tif x:",
    "ﬁne ligatures, naïve café, Ångström, e\u0301 and é",
    "Привет, как дела? 你好，世界。 こんにちは 안녕하세요 مرحبا שלום",
    "😀👩‍👩‍👧‍👦🏳️‍🌈 \U0001f9ff",
    "\u200b\u200d\ufeffinvisible\u00a0space\u3000wide",
    "▁ underline ▁▁",
    "\x00\x01\x7f\x80",
    "a" * 300,
    " " * 77 + "x",
    "ÃƒÂ© mojibake �",
    "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 ℝ ∑ ≠ ½ ² ™",
    "https://example.org/a?b=c&d=%20#e user@host.tld",
    '{"key": [1, 2.5e-3, null, true], \'q\': "\\u00e9\\n"}',
]


def model_path(name: str) -> Path:
    path = Path(os.environ.get("HRUN_REAL_MODELS", "")) / name
    if not os.environ.get("HRUN_REAL_MODELS") or not path.is_file():
        pytest.skip(f"HRUN_REAL_MODELS names no folder with {name} (tools/fetch_real_models.py)")
    return path


class Pair:
    """A model's vocabulary in hrun and in llama.cpp."""

    def __init__(self, path: Path, llama_cpp: Any) -> None:
        self.tokenizer = Tokenizer.from_gguf(path)
        self.theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    path = model_path(request.param)
    yield Pair(path, pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed"))


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_token_ids_are_llama_cpps(pair: Pair, text: str) -> None:
    expected = pair.theirs.tokenize(text.encode(), add_bos=False, special=False)
    assert pair.tokenizer.encode(text) == expected


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled("llama_logits", tmp_path_factory.mktemp("llama_cpp"))


def log_probabilities(values: np.ndarray) -> np.ndarray:
    """Turns logits [tokens, vocabulary] into log-probabilities, in place."""
    values -= values.max(axis=1, keepdims=True)
    for row in values:
        row -= np.float32(np.log(np.exp(row, dtype=np.float64).sum()))
    return values


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_perplexity_is_llama_cpps(name: str, tmp_path: Path, program: Path) -> None:
    """Perplexities agree within 1 %, on four pieces of prose of 250 tokens; the difference of a
    piece has a standard error of half a percent.
    """
    path = model_path(name)
    tokenizer = Tokenizer.from_gguf(path)
    begin = tokenizer.encode("", add_special=True)
    ids = tokenizer.encode((TEXTS / "prose.txt").read_text("utf-8")[:6000])
    model = _core.Model.load(str(path))
    losses = np.zeros(2)
    for first in range(0, 1000, 250):
        piece = [*begin, *ids[first : first + 250]]
        ours = _core.Session(model, 256, type_k="f32", type_v="f32").forward(piece, "all")
        theirs = logits(program, path, piece, model.n_vocab, tmp_path / "logits")
        at = np.arange(len(piece) - 1), np.array(piece[1:])
        for i, values in enumerate((ours, theirs)):
            losses[i] -= log_probabilities(values)[at].mean(dtype=np.float64) / 4
    mine, their = np.exp(losses)
    print(f"{name}: perplexity {mine:.4f}, llama.cpp {their:.4f}")
    assert abs(mine / their - 1) < 0.01


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_greedy_text_is_llama_cpps(name: str, tmp_path: Path, program: Path) -> None:
    """Each of hrun's 48 greedy tokens is llama.cpp's best after the same tokens, or nearly as good."""
    path = model_path(name)
    model = _core.Model.load(str(path))
    session = _core.Session(model, 256, type_k="f32", type_v="f32")
    ids = Tokenizer.from_gguf(path).encode("The capital of France is", add_special=True)
    n_prompt = len(ids)
    last = session.forward(ids, "last")[-1]
    for _ in range(48):
        ids.append(int(last.argmax()))
        last = session.forward(ids[-1:], "last")[-1]
    theirs = log_probabilities(logits(program, path, ids, model.n_vocab, tmp_path / "logits"))
    others = 0
    for i in range(n_prompt, len(ids)):
        before = theirs[i - 1]
        gap = float(before.max() - before[ids[i]])
        assert gap < NEAR_TIE, (i, ids[i], int(before.argmax()), gap)
        others += gap > 0
    print(f"{name}: {others} of 48 tokens are near ties")
    assert others <= 5


def test_the_script_names_the_files_of_the_tests() -> None:
    source = (TEXTS.parents[3] / "tools" / "fetch_real_models.py").read_text("utf-8")
    assert re.findall(r'"(\w+\.gguf)":', source) == list(NAMES)
