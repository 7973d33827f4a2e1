"""SentencePiece BPE: merges by score, whole pieces, bytes; the definition as the second implementation."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrun import ModelFileError
from hrun.sentencepiece import SentencePieceRules
from hrun.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Tokenizer

PIECES = ["▁", "a", "b", "c", "▁a", "ab", "bc", "abc", "▁ab", "aa", "aaa", "é", "▁▁", "<s", ">"]


def scores_of(seed: int) -> list[float]:
    rng = random.Random(seed)
    return [rng.choice([0.0, -1.0, -2.5, -float(i)]) for i in range(260 + len(PIECES))]


def sentencepiece(seed: int = 0, **changes: Any) -> Tokenizer:
    pieces = ["<unk>", "<s>", "</s>", "<tool>", *(f"<0x{b:02X}>" for b in range(256)), *PIECES]
    types = [UNKNOWN, CONTROL, CONTROL, USER_DEFINED, *[BYTE] * 256, *[NORMAL] * len(PIECES)]
    scores = scores_of(seed)
    values: dict[str, Any] = {
        "model": "llama", "tokens": pieces, "token_type": types, "scores": scores, "bos_token_id": 1, "eos_token_id": 2,
        "unknown_token_id": 0,
    }  # fmt: skip
    return Tokenizer(
        {f"tokenizer.ggml.{k}": v for k, v in (values | changes).items() if v is not None},
        "spm.gguf",
    )


def test_scores_may_be_infinite_but_numbers() -> None:
    """Merges only compare them, as in llama.cpp."""
    scores = scores_of(0)
    scores[-len(PIECES) :] = [0.0] * len(PIECES)
    scores[260 + PIECES.index("ab")] = -float("inf")
    scores[260 + PIECES.index("bc")] = float("inf")
    made = sentencepiece(scores=scores, add_space_prefix=False)
    assert [made.tokens[i] for i in made.encode("abc")] == ["abc"]
    assert [made.tokens[i] for i in made.encode("bcab")] == ["bc", "ab"]
    scores[7] = float("nan")
    with pytest.raises(ModelFileError, match="scores, entry 7 is nan"):
        sentencepiece(scores=scores)


def slow_merge(scores: dict[str, float], text: str) -> list[str]:
    """The definition: join the best-scored pair of neighbours, the leftmost of equals, until none is a token."""
    pieces = list(text.replace(" ", "▁"))
    while True:
        joins = [
            (-scores[a + b], i)
            for i, (a, b) in enumerate(itertools.pairwise(pieces))
            if a + b in scores
        ]
        if not joins:
            return pieces
        i = min(joins)[1]
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def rules(pieces: list[str], scores: list[float], **kinds: int) -> SentencePieceRules:
    """Makes rules that put no space before a text; pieces have ids from 257 on, bytes from 1 on."""
    tokens = ["<unk>", *(f"<0x{b:02X}>" for b in range(256)), *pieces]
    types = [UNKNOWN, *[BYTE] * 256, *(kinds.get(p, NORMAL) for p in pieces)]
    return SentencePieceRules(tokens, types, [0.0] * 257 + scores, False, 0, "spm.gguf")


def test_twenty_thousand_strings() -> None:
    rng = random.Random(5)
    for _ in range(200):
        alphabet = "ab▁é☃c<>🙂"[: rng.randrange(2, 10)]
        pieces = list(
            dict.fromkeys(
                "".join(rng.choice(alphabet) for _ in range(rng.choice([1, 1, 2, 2, 3, 4, 6, 9])))
                for _ in range(rng.randrange(5, 80))
            )
        )
        scores = [rng.choice([0.0, -1.0, -2.5, -float(i)]) for i in range(len(pieces))]
        made = rules(pieces, scores)
        by_text = dict(zip(pieces, scores))
        for _ in range(100):
            text = "".join(rng.choice(alphabet + " x") for _ in range(rng.randrange(40)))
            want: list[int] = []
            for piece in slow_merge(by_text, text):
                want += (
                    [257 + pieces.index(piece)]
                    if piece in by_text
                    else [1 + b for b in piece.encode()]
                )
            assert made.encode(text, False) == want, (pieces, scores, text)


# Vocabularies in which every merge makes the next one possible.
CASCADES = {
    "one by one, the long first": ([1 + i for i in range(1000)], 1.0),
    "one by one, the short first": ([1 + i for i in range(1000)], -1.0),
    "one by one, equal": ([1 + i for i in range(4000)], 0.0),
    "doubling": ([1 << i for i in range(17)], -1.0),
    "doubling, the long first": ([1 << i for i in range(17)], 1.0),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASCADES)
def test_a_mebibyte_that_cascades(name: str) -> None:
    lengths, slope = CASCADES[name]
    made = rules(["a" * n for n in lengths], [slope * n for n in lengths])
    start = time.process_time()
    ids = made.encode("a" * (1 << 20), False)
    assert time.process_time() - start < 1.0
    assert sum(lengths[i - 257] for i in ids) == 1 << 20
    short = "a" * 300
    want = slow_merge({"a" * n: slope * n for n in lengths}, short)
    assert [lengths[i - 257] for i in made.encode(short, False)] == [len(piece) for piece in want]


@pytest.mark.parametrize("text", ["<", "<unused", "<unused1>", "a", " "])
def test_a_mebibyte_with_many_whole_pieces(text: str) -> None:
    pieces = [*(f"<unused{i}>" for i in range(6000)), "▁", "▁▁", "a", "aa"]
    made = rules(pieces, [0.0] * len(pieces), **dict.fromkeys(pieces[:6000], USER_DEFINED))
    start = time.process_time()
    ids = made.encode(text * ((1 << 20) // len(text)), False)
    assert time.process_time() - start < 1.0
    if text == "<unused1>":
        assert set(ids) == {258}


def test_the_longest_whole_piece_wins() -> None:
    pieces = ["<a>", "<a>b", "<", "a"]
    made = rules(pieces, [0.0] * 4, **{"<a>": USER_DEFINED, "<a>b": USER_DEFINED})
    assert made.encode("a<a>b<a>a<a", False) == [260, 258, 257, 260, 259, 260]


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="abc é<s>☃", max_size=20), st.integers(0, 5))
def test_sentencepiece_merges_by_score(text: str, seed: int) -> None:
    tokenizer = sentencepiece(seed)
    want: list[int] = []
    for piece in slow_merge(dict(zip(PIECES, scores_of(seed)[260:])), " " + text) if text else []:
        known = piece in PIECES
        want += [260 + PIECES.index(piece)] if known else [4 + b for b in piece.encode()]
    assert tokenizer.encode(text) == want
    assert tokenizer.decode(want) == text


def test_sentencepiece_control_and_user_tokens() -> None:
    tokenizer = sentencepiece()
    assert tokenizer.adds_bos
    assert tokenizer.encode("a", add_special=True)[0] == 1
    assert 1 not in tokenizer.encode("<s>") and tokenizer.decode(tokenizer.encode("<s>")) == "<s>"
    assert tokenizer.encode("<s>a", parse_special=True) == [1, *tokenizer.encode("a")]
    # After an added token of either kind the next word has its mark, as in llama.cpp.
    assert tokenizer.encode("a<tool>b") == [*tokenizer.encode("a"), 3, *tokenizer.encode("b")]
    both = tokenizer.encode("<tool><s>b<tool>c", parse_special=True)
    assert both == [3, 1, *tokenizer.encode("b"), 3, *tokenizer.encode("c")]
    bare = sentencepiece(add_space_prefix=False)
    assert bare.encode("<tool>a") == [3, *bare.encode("a")]
    assert tokenizer.decode([1, *tokenizer.encode("a b")], skip_special=True) == "a b"
    assert sentencepiece(add_space_prefix=False).encode("a") == [260 + PIECES.index("a")]


def test_sentencepiece_without_bytes() -> None:
    types = [UNKNOWN, CONTROL, CONTROL, USER_DEFINED, *[NORMAL] * 256, *[NORMAL] * len(PIECES)]
    assert sentencepiece(token_type=types).encode("☃")[-1] == 0
    with pytest.raises(ModelFileError, match="neither"):
        sentencepiece(token_type=types, unknown_token_id=None)
