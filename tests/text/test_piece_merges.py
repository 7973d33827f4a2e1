"""SentencePiece's pieces with a list of merges (Gemma 4): what the converter writes encodes as the tokenizer.json does."""

from __future__ import annotations

import json
from pathlib import Path

from hrun.convert.folder import ModelFolder
from hrun.convert.hf_tokenizer import read_tokenizer
from hrun.tokenizer import Tokenizer

MERGES = [("t", "h"), ("th", "e"), ("▁", "the"), ("a", "b"), ("▁", "▁"), ("\n", "\n")]
TEXTS = ["the the  the", "abba", " a\n\n\nb", "é the\tx", "", "▁the"]


def write_folder(path: Path) -> int:
    pieces = ["<pad>", "<eos>", "<bos>", "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "\n", *"abehtx", *("".join(pair) for pair in MERGES)]
    vocab = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {
                "id": number,
                "content": pieces[number],
                "special": True,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
            }
            for number in range(4)
        ],
        "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
        "pre_tokenizer": None,
        "model": {
            "type": "BPE",
            "unk_token": "<unk>",
            "fuse_unk": True,
            "byte_fallback": True,
            "vocab": vocab,
            "merges": [list(pair) for pair in MERGES],
        },
    }
    (path / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")
    return len(vocab)


def test_the_keys_encode_as_the_json(tmp_path: Path) -> None:
    n_vocab = write_folder(tmp_path)
    config = {"bos_token_id": 2, "eos_token_id": 1}
    entries = read_tokenizer(ModelFolder(tmp_path), n_vocab, config, keeps_merges=True).entries
    metadata = {entry.key: entry.value for entry in entries}
    assert metadata["tokenizer.ggml.model"] == "gemma4"
    whole = Tokenizer(metadata, "a file")
    del metadata["tokenizer.huggingface.json"]
    keys = Tokenizer(metadata, "a file")
    for text in TEXTS:
        assert keys.encode(text) == whole.encode(text), text
        assert keys.decode_bytes(keys.encode(text)).decode() == text.replace("▁", " ")
    assert keys.encode("the") == [metadata["tokenizer.ggml.tokens"].index("the")]  # type: ignore[union-attr, operator]
    scored = read_tokenizer(ModelFolder(tmp_path), n_vocab, config).entries
    assert {e.key: e.value for e in scored}["tokenizer.ggml.model"] == "llama"
