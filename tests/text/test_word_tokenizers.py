"""WordPiece and Unigram vocabularies against the libraries that define them, on hard strings of many scripts."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from hrun import Tokenizer
from hrun._core import GGUFFile
from tiny_encoders import TEXT, piece_tokenizer, word_tokenizer

DATA = Path(__file__).resolve().parents[1] / "data" / "vocab"
HARD = [
    *TEXT,
    "",
    " ",
    "  two  spaces \t tab \n newline \r\n ",
    "ＦＵＬＬ　ｗｉｄｔｈ　１２３",
    "ﬁ ligature, ½, ², ℃, ㎏, №, Ⅷ",
    "café café Å Å İstanbul ıI ŞŞ ẞ straße",
    "ΑΣΊΑ ὈΔΥΣΣΕΎΣ άέή",
    "Привет, МИР! Ёж съел ёлку — «да»",
    "你好，世界！东京都 3丁目 ㊗️",
    "カタカナ ｶﾀｶﾅ がぎぐ ゛",
    "한국어 각 각 조선말",
    "नमस्ते दुनिया क्षत्रिय ज्ञ",
    "ภาษาไทยไม่มีช่องว่าง",
    "שָׁלוֹם עוֹלָם العَرَبِيَّة ‏rtl‏",
    "tiếng Việt: phở, đường, Nguyễn",
    "emoji 👍🏽 👩‍👩‍👧‍👦 🇺🇸 ☃️ ❤",
    "zero\u200bwidth\u200djoin\ufeffbom\u00adsoft",
    "control \x00\x01\x7f\x85 chars",
    "don't can't it's 'tis “quoted” — dash… end.",
    "https://example.org/a?b=c&d=%20#e user@host",
    "supercalifragilisticexpialidocious" * 4,
    "a" * 250,
    "[CLS] [SEP] [MASK] <s> </s> <unk>",
    "\U0010ffff \ue000 \ufffd",
    "1234567890 3.14 1,000,000 0x1F ½",
]


def described(entries: list[Any]) -> dict[str, Any]:
    return {entry.key: entry.value for entry in entries}


def from_json(text: str, folder: Path, n_vocab: int) -> tuple[Tokenizer, Tokenizer]:
    """Makes the tokenizer twice: from metadata as hrun's files have it, and as others' files have
    it, without tokenizer.json.
    """
    from hrun.convert.embedding_part import EmbeddingPart, with_template_ends
    from hrun.convert.folder import ModelFolder
    from hrun.convert.hf_tokenizer import read_tokenizer

    folder.mkdir()
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")
    vocabulary = read_tokenizer(ModelFolder(folder), n_vocab, {})
    part = EmbeddingPart(pooled=True)
    metadata = described(with_template_ends(vocabulary.entries, vocabulary.ends, part, False))
    plain = {k: v for k, v in metadata.items() if k != "tokenizer.huggingface.json"}
    return Tokenizer(metadata, "ours"), Tokenizer(plain, "theirs")


@pytest.mark.parametrize("lowercase", [True, False])
def test_wordpiece_is_the_librarys(lowercase: bool, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Library

    text = word_tokenizer(600, lowercase)
    library = Library.from_str(text)
    library.encode_special_tokens = True
    n_vocab = library.get_vocab_size()
    for tokenizer in from_json(text, tmp_path / "words", n_vocab):
        assert tokenizer.bos_id is None or tokenizer.tokens[tokenizer.bos_id] == "[CLS]"
        for hard in HARD:
            want = library.encode(hard, add_special_tokens=False).ids
            assert tokenizer.encode(hard) == want, hard
            around = [library.token_to_id("[CLS]"), *want, library.token_to_id("[SEP]")]
            assert tokenizer.encode(hard, add_special=True) == around, hard
            pair = tokenizer.encode_pair(hard, "the dog")
            second = library.encode("the dog", add_special_tokens=False).ids
            assert pair == ([*around, *second, around[-1]], len(around))


def test_a_real_wordpiece_vocabulary_is_transformers(tmp_path: Path) -> None:
    """The vocabulary of BGE and of BERT, from a file of llama.cpp."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    path = tmp_path / "bert.gguf"
    path.write_bytes(lzma.decompress((DATA / "bert-bge.gguf.xz").read_bytes()))
    ours = Tokenizer(GGUFFile(str(path)).metadata, str(path))
    words = [
        t if kind == 3 or t == "[UNK]" else t[1:] if t.startswith("▁") else f"##{t}"
        for t, kind in zip(ours.tokens, ours.types)
    ]
    theirs = transformers.BertTokenizerFast(vocab={w: i for i, w in enumerate(words)})
    for hard in HARD:
        assert ours.encode(hard, True, parse_special=True) == theirs(hard)["input_ids"], hard


def test_unigram_is_the_librarys(tmp_path: Path) -> None:
    from tokenizers import Tokenizer as Library

    text = piece_tokenizer(500)
    library = Library.from_str(text)
    library.encode_special_tokens = True
    ours, _ = from_json(text, tmp_path / "pieces", library.get_vocab_size())
    for hard in HARD:
        want = library.encode(hard, add_special_tokens=False).ids
        assert ours.encode(hard) == want, hard
        assert ours.encode(hard, add_special=True) == [0, *want, 2], hard


@pytest.mark.parametrize("rule", ["nmt_nfkc", "nmt_nfkc_cf", "identity"])
def test_unigram_with_its_charsmap_is_sentencepieces(rule: str, tmp_path: Path) -> None:
    """The tokenizer has the form of XLM-RoBERTa's files: SentencePiece's pieces, one id further,
    and its precompiled charsmap.
    """
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    pytest.importorskip("google.protobuf", reason="protobuf is not installed")
    from sentencepiece import sentencepiece_model_pb2

    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*TEXT, *HARD] * 4), model_writer=made, vocab_size=700, model_type="unigram",
        character_coverage=0.98, normalization_rule_name=rule, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    model = sentencepiece_model_pb2.ModelProto.FromString(made.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())
    pieces = [(p.piece, p.score) for p in model.pieces]
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *(p for p, _ in pieces[3:])]
    tokenizer = Tokenizer(
        {
            "tokenizer.ggml.model": "t5",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 4 + [s for _, s in pieces[3:]],
            "tokenizer.ggml.token_type": [3, 3, 3, 2] + [1] * (len(tokens) - 4),
            "tokenizer.ggml.precompiled_charsmap": list(model.normalizer_spec.precompiled_charsmap),
            "tokenizer.ggml.add_space_prefix": True,
            "tokenizer.ggml.remove_extra_whitespaces": True,
            "tokenizer.ggml.unknown_token_id": 3,
            "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.add_bos_token": True,
        },
        "sentencepiece",
    )
    for hard in HARD:
        if (
            "<s>" in hard
        ):  # the library's Unigram takes marks for pieces, as it does in transformers
            continue
        want = [3 if i == 0 else i + 1 for i in processor.encode(hard)]
        got = tokenizer.encode(hard)
        if (
            got != want and hard == "a" * 250
        ):  # pieces of equal sums; which of them is a matter of rounding
            scores = [0.0] * 4 + [s for _, s in pieces[3:]]
            assert sum(scores[i] for i in got) == pytest.approx(sum(scores[i] for i in want))
            continue
        assert got == want, hard
        assert tokenizer.encode(hard, add_special=True) == [0, *want, 2], hard
        pair, second = tokenizer.encode_pair(hard, "it was")
        assert pair[: len(want) + 4] == [0, *want, 2, 2] + pair[second : second + 1]


def test_damaged_unigram_vocabularies_are_named(tmp_path: Path) -> None:
    from hrun import ModelFileError

    values = json.loads(piece_tokenizer(300))
    for change, message in (
        (lambda v: v.update(vocab=[["a", 1.0], ["a", 2.0]]), "twice"),
        (lambda v: v.update(vocab=[["a"]]), "no piece with its score"),
        (lambda v: v.update(vocab=7), "must be an array"),
    ):
        damaged = json.loads(json.dumps(values))
        change(damaged["model"])
        folder = tmp_path / message
        with pytest.raises(ModelFileError, match=message):
            from_json(json.dumps(damaged), folder, 300)
