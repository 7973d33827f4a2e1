"""RWKV's vocabulary: at each byte the longest token, by a list as it is published and by a GGUF file's escapes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hrun import Tokenizer
from hrun.convert.folder import ModelFolder
from hrun.convert.hf_tokenizer import read_tokenizer
from hrun.convert.rwkv import VOCABULARY
from hrun.errors import ModelFileError
from rwkv_reference import world_vocabulary

N_VOCAB = 300
TEXTS = [
    "",
    "\n\n",
    "then they say: the",
    "it's \"'quoted'\" a\tb\\x\\",
    "é日本日 \U0001f600 тест",
    "\x00\x7f <s> [PAD290]",
    "thethenthey" * 500,
]


def made(folder: Path, text: str, n_vocab: int = N_VOCAB) -> Tokenizer:
    (folder / VOCABULARY).write_text(text, encoding="utf-8")
    entries = read_tokenizer(ModelFolder(folder), n_vocab, {}).entries
    return Tokenizer({entry.key: entry.value for entry in entries}, "test")


def longest(tokens: dict[bytes, int], data: bytes) -> list[int]:
    """The same, slowly."""
    ids = []
    while data:
        token = next(data[:n] for n in range(len(data), 0, -1) if data[:n] in tokens)
        ids.append(tokens[token])
        data = data[len(token) :]
    return ids


def test_the_longest_tokens_are_taken(tmp_path: Path) -> None:
    tokenizer = made(tmp_path, world_vocabulary())
    tokens = {tokenizer.token_bytes(i): i for i in range(1, 271)}
    assert len(tokens) == 270 and b"\xff\x00" in tokens and b"\\x" in tokens
    letters = random.Random(1)
    mixed = ["".join(letters.choices("the ynab\n\t'\"\\x日本é", k=60)) for _ in range(200)]
    for text in [*(t[:400] for t in TEXTS), *mixed]:
        assert tokenizer.encode(text) == longest(tokens, text.encode()), text
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.decode(tokenizer.encode(TEXTS[-1])) == TEXTS[-1]


def test_ends_and_marks(tmp_path: Path) -> None:
    tokenizer = made(tmp_path, world_vocabulary())
    blank = tokenizer.encode("\n\n")
    assert blank == [tokenizer.end_of_turn_id] and tokenizer.bos_id == tokenizer.eos_id == 0
    assert tokenizer.encode("a", add_special=True) == tokenizer.encode("a")
    # The name of a mark is text unless it is asked for.
    assert 0 not in tokenizer.encode("<s>")
    assert tokenizer.encode("a<s>b", parse_special=True) == [
        *tokenizer.encode("a"),
        0,
        *tokenizer.encode("b"),
    ]
    # Tokens of half a character come out as bytes.
    half = next(i for i in range(1, 271) if tokenizer.token_bytes(i) == b"\xe6\x97")
    assert tokenizer.decode([half, *tokenizer.encode("a")]) == "\ufffda"


@pytest.mark.parametrize(
    ("line", "n_vocab"),
    [
        ("1 'ab' 3\n", N_VOCAB),
        ("2 'a' 1\n", N_VOCAB),
        ("1 __import__('os') 1\n", N_VOCAB),
        ("1 3 1\n", N_VOCAB),
        ("1\n", N_VOCAB),
        ("1 '' 0\n", N_VOCAB),
        (world_vocabulary(), 270),
    ],
)
def test_damaged_lists_are_refused(line: str, n_vocab: int, tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match=VOCABULARY):
        made(tmp_path, line, n_vocab)


def test_a_missing_byte_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError, match="neither the byte 2 nor"):
        made(tmp_path, "1 '\\x00' 1\n2 '\\x01' 1\n")
