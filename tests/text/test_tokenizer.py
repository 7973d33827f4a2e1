"""Tokenizers from GGUF files: the reference cases of the vocabulary files, round trips, control tokens, damaged input."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hrun import ArgumentError, ModelFileError, Tokenizer, UnsupportedModelError
from hrun._core import GGUFFile, read_spec
from hrun.pre_tokenizers import PRE_TOKENIZERS
from hrun.stream import Utf8Decoder
from hrun.tokenizer import BYTE, CONTROL, NORMAL, UNKNOWN, byte_alphabet
from hrun.tokenizer_rules import huggingface_rules, pieces
from tiny_hf import tokenizer_json

DATA = Path(__file__).resolve().parents[1] / "data" / "vocab"
VOCABULARIES = [
    "bert-bge",
    "deepseek-coder",
    "deepseek-llm",
    "gpt-2",
    "llama-bpe",
    "llama-spm",
    "mpt",
    "phi-3",
    "qwen2",
    "starcoder",
]
LARGE = ("deepseek-llm", "llama-bpe", "qwen2")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LARGE else []) for n in VOCABULARIES],
)
def test_reference_cases(name: str, vocabulary: Callable[[str], Path]) -> None:
    texts = (DATA / f"{name}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    wanted = (DATA / f"{name}.out").read_text().split("\n")
    tokenizer = Tokenizer.from_gguf(vocabulary(name))
    assert len(texts) > 40
    for text, want in zip(texts, wanted):
        assert tokenizer.encode(text) == [int(t) for t in want.split()], text
        if name != "bert-bge":  # it keeps neither case nor spaces
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_unknown_kinds_are_named(tiny_model: Callable[..., Path]) -> None:
    with pytest.raises(UnsupportedModelError, match="'plamo2'; known are 'gpt2'"):
        Tokenizer(metadata(tiny_model, model="plamo2"), "x.gguf")
    with pytest.raises(
        UnsupportedModelError, match="'new-model'; known are .*llama-bpe.*--pre-tokenizer"
    ):
        Tokenizer(metadata(tiny_model, pre="new-model", json=None), "x.gguf")
    other = Tokenizer(metadata(tiny_model, pre="new-model", json=None), "x.gguf", "gpt-2")
    assert other.encode("the 123") == Tokenizer(metadata(tiny_model, json=None), "x.gguf").encode(
        "the 123"
    )


LINES = ["It's", "don't", " x", "  ", "\n", "\r\n", "\t", "\n\n", "1", "12345", ",", "...", "!\n", "Ä", "é", "日本", " the", "The",
         "a\u0301", "\u00a0", "\u2028", "<|eos|>", "_", "(", "0\nx", "a\nb", ".\nC", "\u0301\nq", "//\nz", "ה\nw"]  # fmt: skip


def same_in_pieces(encode: Callable[[str], list[Any]], seed: int) -> bool:
    """Does a text give the same whole as in the pieces that a long one is cut into?"""
    source = random.Random(seed)
    for _ in range(100):
        text = "".join(source.choices(LINES, k=source.randrange(2, 60)))
        cut = list(pieces(text, source.randrange(1, 12)))
        assert "".join(cut) == text
        if list(itertools.chain.from_iterable(map(encode, cut))) != encode(text):
            return False
    return True


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_a_line_may_be_encoded_alone(tiny_model: Callable[..., Path], pre: str) -> None:
    tokenizer = Tokenizer(metadata(tiny_model, pre=pre, json=None), "x.gguf")
    cutter = tokenizer._rules._tokenizer.pre_tokenizer
    same = same_in_pieces(lambda text: [piece for piece, _ in cutter.pre_tokenize_str(text)], 3)
    assert same == tokenizer._rules._ends_lines == (pre != "superbpe")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepseek-coder", "deepseek-llm", "gpt-2", "llama-bpe", "qwen2"])
def test_a_line_of_a_real_vocabulary_may_be_encoded_alone(
    name: str, vocabulary: Callable[[str], Path]
) -> None:
    tokenizer = Tokenizer.from_gguf(vocabulary(name))
    assert tokenizer._rules._ends_lines
    for special in (False, True):
        assert same_in_pieces(lambda text, s=special: tokenizer.encode(text, parse_special=s), 4)


def test_where_it_is_not_known_a_text_is_whole(tiny_model: Callable[..., Path]) -> None:
    described = json.loads(tokenizer_json())
    assert huggingface_rules(json.dumps(described), 400, "x")._ends_lines
    split = described["pre_tokenizer"]["pretokenizers"][0]
    for change in (
        {"normalizer": {"type": "Lowercase"}},
        {"pre_tokenizer": None},
        {"pre_tokenizer": {"type": "Whitespace"}},
        {"pre_tokenizer": {**split, "pattern": {"Regex": "[^x]+"}}},
        {"pre_tokenizer": {**split, "behavior": "Removed"}},
        {"added_tokens": [{**described["added_tokens"][0], "content": "end\nof"}]},
    ):
        rules = huggingface_rules(json.dumps({**described, **change}), 400, "x")
        assert not rules._ends_lines, change
    superbpe = Tokenizer(metadata(tiny_model, pre="superbpe", json=None), "x.gguf")
    assert not superbpe._rules._ends_lines


@pytest.mark.parametrize("pre", sorted(PRE_TOKENIZERS))
def test_every_pre_tokenizer_keeps_the_text(pre: str, tiny_model: Callable[..., Path]) -> None:
    rules = PRE_TOKENIZERS[pre]
    changes: dict[str, Any] = {"pre": pre, "json": None}
    if not rules.byte_level:  # text as it is: bytes as <0xNN>
        tokens = (
            [f"<0x{b:02X}>" for b in range(256)]
            + list(dict.fromkeys("▁abcdefghijklmnopqrstuvwxyz0123456789"))
            + ["▁t", "th"]
        )
        changes |= {
            "tokens": tokens,
            "token_type": [BYTE] * 256 + [NORMAL] * (len(tokens) - 256),
            "merges": ["▁ t", "t h"],
        }
        changes |= {f"{role}_token_id": None for role in ("bos", "eos", "padding")}
    tokenizer = Tokenizer(metadata(tiny_model, **changes), "x.gguf")
    rng = random.Random(1)
    alphabet = "abc THE's 0123456789 \n\r\t.,!?-_<>|^$+(){}[]éßÅ中文字かなカナ한글อักษร𝔘🙂\u0301\u200d\u00a0"
    for _ in range(60):
        text = "".join(rng.choice(alphabet) for _ in range(rng.randrange(40)))
        assert tokenizer.decode(tokenizer.encode(text)) == text, text


def random_text(rng: random.Random) -> str:
    kinds = (
        "abcdefghij ",
        "the of and it's I'LL we've ",
        "0123456789",
        " \n\t\r",
        ".,;:!?'\"()[]{}<>|/\\",
        "éàüßñøåÆ",
        "中文字漢",
        "かなカナ",
        "한국어",
        "привет",
        "αβγ",
        "مرحبا",
        "नमस्ते",
        "🙂👍🏽🇩🇪",
        "\u0301\u200b\u00a0\u3000",
        "𝔘𝕏",
        "ªº²½Ⅷ",
    )
    return "".join(rng.choice(rng.choice(kinds)) for _ in range(rng.randrange(60)))


@pytest.mark.parametrize("name", VOCABULARIES)
def test_equals_llama_cpp_on_random_text(name: str, vocabulary: Callable[[str], Path]) -> None:
    """The second implementation; HRUN_LONG_TESTS=1 for 20,000 strings in place of 300."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = vocabulary(name)
    theirs = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    tokenizer = Tokenizer.from_gguf(path)
    rng = random.Random(2)
    different = []
    count = 20_000 if os.environ.get("HRUN_LONG_TESTS") else 300
    for _ in range(count):
        text = random_text(rng)
        if name == "bert-bge":  # llama.cpp treats marks, wide spaces and Hangul in its own way
            text = text.encode("ascii", "ignore").decode()
        if name == "deepseek-llm":  # here the wide space, which the model counts as punctuation
            text = text.replace("\u3000", "")
        ids = tokenizer.encode(text)
        if name != "bert-bge":
            assert tokenizer.decode(ids) == text
        if ids != theirs.tokenize(text.encode(), add_bos=False, special=False):
            different.append(text)
    assert not different, different[:5]


@pytest.mark.slow
@pytest.mark.parametrize("name", VOCABULARIES)
def test_a_mebibyte_of_one_letter(name: str, vocabulary: Callable[[str], Path]) -> None:
    tokenizer = Tokenizer.from_gguf(vocabulary(name))
    start = time.process_time()
    ids = tokenizer.encode("a" * (1 << 20))
    assert time.process_time() - start < 1.0
    assert name == "bert-bge" or tokenizer.decode(ids) == "a" * (1 << 20)


UNIGRAM = [
    ("<unk>", 0.0, UNKNOWN),
    ("</s>", 0.0, CONTROL),
    ("▁", -3.0, NORMAL),
    ("▁the", -1.0, NORMAL),
    ("▁th", -1.5, NORMAL),
    ("e", -2.0, NORMAL),
    ("re", -1.0, NORMAL),
    ("t", -4.0, NORMAL),
    ("h", -4.0, NORMAL),
]


def unigram_metadata(tiny_model: Callable[..., Path], **changes: Any) -> dict[str, Any]:
    whole = {
        "model": "t5",
        "json": None,
        "tokens": [p for p, _, _ in UNIGRAM],
        "scores": [s for _, s, _ in UNIGRAM],
        "token_type": [k for _, _, k in UNIGRAM],
        "merges": None,
        "unknown_token_id": 0,
        "eos_token_id": 1,
        "bos_token_id": None,
        "padding_token_id": None,
    }
    return metadata(tiny_model, **(whole | changes))


def test_unigram(tiny_model: Callable[..., Path]) -> None:
    tokenizer = Tokenizer(unigram_metadata(tiny_model), "x.gguf")
    assert tokenizer.encode("there the") == [3, 6, 3]  # "▁the" "re" scores -2, "▁th" "e" "re" -4.5


def charsmap(units: list[int], pool: bytes, size: int | None = None) -> bytes:
    trie = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(trie) if size is None else size) + trie + pool


def trie(leaf: int) -> list[int]:
    """ "A" leads to the replacement at `leaf`: the root's base is 256, that of "A" 512."""
    units = [0] * 768
    units[0] = 256 << 10
    units[256 ^ 65] = (512 ^ 256 ^ 65) << 10 | 1 << 8 | 65
    units[512] = 1 << 31 | leaf
    return units


def test_charsmap_is_applied(tiny_model: Callable[..., Path]) -> None:
    good = charsmap(trie(3), "é\0the\0".encode())
    rules = Tokenizer(unigram_metadata(tiny_model, precompiled_charsmap=list(good)), "x.gguf")
    assert rules.encode("Are A") == [3, 6, 3]


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\1\0", "has 2 bytes"),
        (charsmap([0] * 256, b"a\0", 2**32 - 1), "claims a trie of 4294967295 bytes"),
        (charsmap([0] * 256, b"a\0", 0), "claims a trie of 0 bytes"),
        (charsmap([0] * 256, b"a\0", 5), "claims a trie of 5 bytes"),
        (charsmap([0x7FFFFFFF] * 256, b"a\0"), "leads to unit"),
        (charsmap([0] * 255, b"a\0"), "leads to unit 255"),
        (charsmap(trie(9), "é\0the\0".encode()), "names a replacement at 9 of 7 bytes"),
        (charsmap(trie(1), "é\0the\0".encode()), "at 1, inside a character"),
        (charsmap(trie(0), b"\xff\0"), "not UTF-8"),
    ],
)
def test_broken_charsmap(tiny_model: Callable[..., Path], data: bytes, says: str) -> None:
    values = unigram_metadata(tiny_model, precompiled_charsmap=list(data))
    with pytest.raises(ModelFileError, match=f"precompiled_charsmap.*{says}"):
        Tokenizer(values, "x.gguf").encode("A")
    form = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}
    whole = json.loads(tokenizer_json())
    whole["normalizer"] = {"type": "Sequence", "normalizers": [form]}
    with pytest.raises(ModelFileError, match=f"precompiled_charsmap.*{says}"):
        Tokenizer(metadata(tiny_model, json=json.dumps(whole)), "x.gguf").encode("A")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "fails on this text: chunk size"),
        ({"prefix": "#" * 10}, "tokenizer.huggingface.json: range end index"),
        ({"model": {"type": "Unigram", "unk_id": None, "vocab": [["b", -1.0]]}}, "fails on this text: .*unk_id"),
    ],
)  # fmt: skip
def test_a_panic_of_the_library_is_an_error(
    change: dict[str, Any], says: str, tiny_model: Callable[..., Path]
) -> None:
    """A panic is no Exception: it would pass whoever catches the errors of hrun."""
    whole = json.loads(tokenizer_json(300))
    prefix = change.pop("prefix", None)
    whole.update(change)
    if prefix:
        whole["model"]["continuing_subword_prefix"] = prefix
    with pytest.raises(ModelFileError, match=says):
        for text in ("a", "a" * (1 << 17)):
            Tokenizer(metadata(tiny_model, json=json.dumps(whole)), "x.gguf").encode(text)


def test_library_errors_let_others_pass() -> None:
    from hrun.library_errors import library_errors

    for error in (KeyboardInterrupt, MemoryError, SystemExit, UnsupportedModelError):
        with pytest.raises(error), library_errors("x"):
            raise error("y")
    with pytest.raises(ModelFileError, match="^x: y$"), library_errors("x"):
        raise ValueError("y")


def test_merges_that_the_library_refuses(tiny_model: Callable[..., Path]) -> None:
    """A merge of a part that is no token never applies.

    A merge whose result is no token is refused: nobody knows what it should do.
    """
    whole = json.loads(tokenizer_json(300))
    data = dict(metadata(tiny_model, json=json.dumps(whole)))
    text = "the quick brown fox's times " * 3
    ids = Tokenizer(data, "x.gguf").encode(text)
    whole["model"]["merges"] += [["a", "zz%"], ["zz%", "zz%"]]
    assert Tokenizer(metadata(tiny_model, json=json.dumps(whole)), "x.gguf").encode(text) == ids
    whole["model"]["merges"] += [["a", "%"]]
    with pytest.raises(ModelFileError, match="huggingface.json: Token `a%` out of vocabulary"):
        Tokenizer(metadata(tiny_model, json=json.dumps(whole)), "x.gguf")


@pytest.mark.parametrize("score", [float("inf"), -float("inf")])
def test_infinite_scores(tiny_model: Callable[..., Path], score: float) -> None:
    scores = [s for _, s, _ in UNIGRAM[:-1]] + [score]
    with pytest.raises(ModelFileError, match="scores, entry 8 is -?inf"):
        Tokenizer(unigram_metadata(tiny_model, scores=scores), "x.gguf").encode("A")


@pytest.fixture(scope="module")
def tiny(tiny_model: Callable[..., Path]) -> Tokenizer:
    return Tokenizer.from_gguf(tiny_model())


def metadata(tiny_model: Callable[..., Path], **changes: Any) -> dict[str, Any]:
    changed = dict(GGUFFile(str(tiny_model())).metadata)
    for key, value in changes.items():
        full = f"tokenizer.{'huggingface.json' if key == 'json' else 'ggml.' + key}"
        changed.pop(full, None)
        if value is not None:
            changed[full] = value
    return changed


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60))
def test_round_trip(tiny: Tokenizer, text: str) -> None:
    ids = tiny.encode(text)
    assert tiny.decode(ids) == text
    assert tiny.decode_bytes(ids) == b"".join(map(tiny.token_bytes, ids))
    decoder = Utf8Decoder()
    assert "".join(decoder.feed(tiny.token_bytes(i)) for i in ids) + decoder.flush() == text
    assert not any(tiny.is_control(i) for i in ids)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="<|im_start>end/ \n", max_size=60))
def test_both_sources_of_rules_agree(
    tiny: Tokenizer, tiny_model: Callable[..., Path], text: str
) -> None:
    other = _without_json(tiny_model)
    assert other.encode(text) == tiny.encode(text)
    assert other.encode(text, parse_special=True) == tiny.encode(text, parse_special=True)


_built: list[Tokenizer] = []


def _without_json(tiny_model: Callable[..., Path]) -> Tokenizer:
    if not _built:
        _built.append(Tokenizer(metadata(tiny_model, json=None), "built.gguf"))
    return _built[0]


def test_control_tokens_only_where_asked_for(tiny: Tokenizer) -> None:
    end = tiny.tokens.index("<|im_end|>")
    text = "a<|im_end|>b"
    assert end not in tiny.encode(text)
    assert tiny.decode(tiny.encode(text)) == text
    assert tiny.encode(text, parse_special=True) == [*tiny.encode("a"), end, *tiny.encode("b")]
    assert tiny.decode([end]) == "<|im_end|>" and tiny.decode([end], skip_special=True) == ""
    assert end in tiny.end_ids and tiny.eos_id in tiny.end_ids


control_text = st.lists(
    st.sampled_from(["<|im_end|>", "<|im_start|>", "<|", "|>", "im_end", "a", "\n", "<|eos|>"]),
    max_size=8,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(control_text)
def test_guarded_text_is_plain_text(tiny: Tokenizer, text: str) -> None:
    """A user's text gives the same tokens inside a template as alone; the template's own control
    tokens are real.
    """
    guard = "\ufdd0"
    start, end = tiny.tokens.index("<|im_start|>"), tiny.tokens.index("<|im_end|>")
    ids = tiny.encode_guarded("<|im_start|>" + tiny.guard(text, guard) + "<|im_end|>", guard)
    assert ids[0] == start and ids[-1] == end
    assert ids[1:-1] == tiny.encode(text)


def test_ends(tiny_model: Callable[..., Path]) -> None:
    def made(**changes: Any) -> Tokenizer:
        return Tokenizer(metadata(tiny_model, **changes), "x.gguf")

    plain = made().encode("the")
    assert made(add_bos_token=True).encode("the", add_special=True) == [made().bos_id, *plain]
    assert made(add_bos_token=False).encode("the", add_special=True) == plain
    both = made(add_bos_token=True, add_eos_token=True)
    assert both.encode("the", add_special=True) == [both.bos_id, *plain, both.eos_id]
    for none in (0xFFFFFFFF, -1, -7, 300, 10**6):
        assert made(bos_token_id=none).bos_id is None
        assert made(eos_token_id=none, eos_token_ids=[none, 5]).end_ids >= {5}
    assert {7, 8} <= made(eot_token_id=7, eom_token_id=8).end_ids


def test_of_equal_tokens_the_highest_id_encodes(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> None:
    """This works as in llama.cpp; the note of the core says so."""
    import gguf_bytes

    tokens = list(metadata(tiny_model)["tokenizer.ggml.tokens"])
    unused = tokens.index("[unused294]")
    tokens[unused] = "the"
    data = metadata(tiny_model, json=None, tokens=tokens)
    assert Tokenizer(data, "x.gguf").encode("the") == [unused]
    path = tmp_path / "twice.gguf"
    names = [f"t{i}" for i in range(63)] + ["t0"]
    path.write_bytes(gguf_bytes.model().set_array("tokenizer.ggml.tokens", "string", names).build())
    assert any("the highest id encodes it" in w for w in read_spec(str(path)).warnings)


def test_merges_of_no_tokens_and_repeated_merges(tiny_model: Callable[..., Path]) -> None:
    data = metadata(tiny_model, json=None)
    merges = list(data["tokenizer.ggml.merges"])
    plain = Tokenizer(data, "x.gguf")
    odd = ["zz yy", *merges, "a zz", *merges[::-1]]  # the first of equal merges counts
    other = Tokenizer(metadata(tiny_model, json=None, merges=odd), "x.gguf")
    text = "the quick brown fox, and then the dog " * 3
    assert other.encode(text) == plain.encode(text)


def test_added_tokens_beyond_the_model(tiny_model: Callable[..., Path]) -> None:
    import json

    from tiny_hf import tokenizer_json

    text = tokenizer_json(300)
    values = json.loads(text)
    tokens = [f"t{i}" for i in range(300)]

    def of(json_text: str) -> Tokenizer:
        changes = {"json": json_text, "tokens": tokens, "token_type": [NORMAL] * 300}
        return Tokenizer(metadata(tiny_model, **changes), "x.gguf")

    for i in (300, 301):
        added = dict(values["added_tokens"][-1], id=i, content=f"<extra{i}>")
        values["added_tokens"].append(added)
    prompt = "the <extra300> fox"
    ids = of(json.dumps(values)).encode(prompt, parse_special=True)
    assert ids == of(text).encode(prompt, parse_special=True) and max(ids) < 300


GEMMA4_PIECES = ["▁", "▁▁", "a", "b", "ab", "▁a", "▁ab", "\n", "\n\n", "\n\n\n", "\n" * 5]


def gemma4(**changes: Any) -> Tokenizer:
    """Pieces have ids from 260 on, bytes from 4 on."""
    special = ["<pad>", "<eos>", "<bos>", "<turn|>"]
    values = {
        "model": "gemma4",
        "pre": "default",
        "tokens": [*special, *(f"<0x{b:02X}>" for b in range(256)), *GEMMA4_PIECES],
        "token_type": [CONTROL] * 4 + [BYTE] * 256 + [NORMAL] * len(GEMMA4_PIECES),
        "merges": ["▁ ▁", "a b", "▁ a", "▁ ab"],
        "bos_token_id": 2,
        "eos_token_id": 1,
        "add_bos_token": False,
        **changes,
    }
    return Tokenizer({f"tokenizer.ggml.{k}": v for k, v in values.items()}, "g4.gguf")


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ab ab", ["ab", "▁ab"]),
        ("a  ab", ["a", "▁▁", "ab"]),
        ("  a", ["▁▁", "a"]),
        ("a\nb", ["a", "\n", "b"]),
        ("a\n\n\nb", ["a", "\n\n\n", "b"]),  # whole, without a merge
        ("\n\n\n\n", ["\n"] * 4),  # no token of four
        ("a\n\n<turn|>\n\n\n", ["a", "\n\n", "<turn|>", "\n\n\n"]),
        ("é", ["<0xC3>", "<0xA9>"]),
        ("a▁b", ["a", "▁", "b"]),
    ],
)
def test_gemma4(text: str, pieces: list[str]) -> None:
    tokenizer = gemma4()
    ids = tokenizer.encode(text, parse_special=True)
    assert [tokenizer.tokens[i] for i in ids] == pieces
    if "▁" not in text:
        assert tokenizer.decode(ids) == text


def test_gemma4_begins_with_bos_and_ends_with_its_turn() -> None:
    tokenizer = gemma4()
    assert tokenizer.encode("a", add_special=True) == [2, 262]  # whatever add_bos_token says
    assert tokenizer.end_ids == {1, 3} and not tokenizer.adds_space
    assert 3 not in tokenizer.encode("<turn|>")
    with pytest.raises(ModelFileError, match="merges is missing"):
        gemma4(merges=[])


def test_text_that_is_not_unicode(tiny: Tokenizer) -> None:
    assert tiny.decode(tiny.encode("a\udc80b")) == "a\ufffdb"
    assert tiny.decode(tiny.encode("\ud83d\ude00")) == "😀"
    assert tiny.decode(tiny.encode("a\0b")) == "a\0b"


def test_ill_formed_bytes(tiny: Tokenizer) -> None:
    byte = {b: tiny.tokens.index(c) for c, b in byte_alphabet().items()}
    assert tiny.decode([byte[0xC3]]) == "\ufffd"
    assert tiny.decode([byte[0xC3], byte[0xA9]]) == "é"
    assert tiny.decode([byte[0xED], byte[0xA0], byte[0x80]]) == "\ufffd" * 3


@pytest.mark.parametrize("token", [-1, 10**6, 2**63, 1.5, "1", None, True])
def test_bad_ids(tiny: Tokenizer, token: Any) -> None:
    with pytest.raises(ArgumentError, match="token id"):
        tiny.decode([token])


def test_time_is_linear(tiny: Tokenizer) -> None:
    start = time.monotonic()
    assert len(tiny.encode("a" * (1 << 18))) == 1 << 18
    assert time.monotonic() - start < 10  # about 0.5 s; a quadratic merge would take many minutes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"json": "{"}, "tokenizer.huggingface.json"),
        ({"json": None, "model": "foo"}, "'foo'"),
        ({"json": None, "model": None}, "missing"),
        ({"json": None, "pre": "foo\x1b[2J"}, r"'foo\\x1b\[2J'"),
        ({"json": None, "merges": None}, "merges is missing"),
        ({"json": None, "merges": ["ab"]}, "entry 0"),
        ({"json": None, "model": "llama"}, "scores is missing"),
        ({"json": None, "model": "llama", "scores": [0.0]}, "scores has 1 entries"),
        ({"json": None, "model": "llama", "scores": [float("nan")] * 300}, "entry 0 is nan"),
        ({"tokens": None}, "tokens is missing"),
        ({"tokens": [1, 2]}, "no array of strings"),
        ({"tokens": "abc"}, "expected an array of strings"),
        ({"token_type": [1]}, "token_type has 1 entries"),
        ({"eos_token_id": "x"}, "eos_token_id is str"),
        ({"add_bos_token": 1}, "add_bos_token is int"),
    ],
)
def test_damaged_vocabularies(
    tiny_model: Callable[..., Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((ModelFileError, UnsupportedModelError), match=message) as caught:
        Tokenizer(metadata(tiny_model, **changes), "bad.gguf")
    assert "bad.gguf" in str(caught.value) and str(caught.value).isprintable()
