"""Real files against llama.cpp: token ids of hard strings.

python tools/fetch_real_models.py FOLDER && pip install llama-cpp-python
HRUN_REAL_MODELS=FOLDER python -m pytest tests/oracles/test_real_models.py
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hrun.tokenizer import Tokenizer

TEXTS = Path(__file__).resolve().parents[2] / "python" / "hrun" / "convert" / "texts"
NAMES = ("smollm2.gguf", "gemma3.gguf")
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


class Pair:
    """A model's vocabulary in hrun and in llama.cpp."""

    def __init__(self, path: Path, llama_cpp: Any) -> None:
        self.tokenizer = Tokenizer.from_gguf(path)
        self.theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)


@pytest.fixture(scope="module", params=NAMES)
def pair(request: pytest.FixtureRequest) -> Iterator[Pair]:
    path = Path(os.environ.get("HRUN_REAL_MODELS", "")) / request.param
    if not os.environ.get("HRUN_REAL_MODELS") or not path.is_file():
        pytest.skip(
            f"HRUN_REAL_MODELS names no folder with {request.param} (tools/fetch_real_models.py)"
        )
    yield Pair(path, pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed"))


@pytest.mark.parametrize("text", HARD, ids=range(len(HARD)))
def test_token_ids_are_llama_cpps(pair: Pair, text: str) -> None:
    expected = pair.theirs.tokenize(text.encode(), add_bos=False, special=False)
    assert pair.tokenizer.encode(text) == expected


def test_the_script_names_the_files_of_the_tests() -> None:
    source = (TEXTS.parents[3] / "tools" / "fetch_real_models.py").read_text("utf-8")
    assert re.findall(r'"(\w+\.gguf)":', source) == list(NAMES)
