"""WordPiece and Unigram vocabularies of tokenizer.json as the tokenizer.ggml.* keys for other readers of GGUF files."""

from __future__ import annotations

import base64
import binascii
from typing import Any

from hrun.errors import ModelFileError, UnsupportedModelError

from .folder import json_type, shown
from .source import Entry, Scalar

_WHOLE = (2, 3, 4)  # token types: unknown, control, user-defined
_WORD_PREFIX = "##"
_UNKNOWN_SCORE = -10000.0  # of tokens without one


def plain_model(kind: str, model: dict[str, Any], path: str) -> dict[str, Any]:
    """The model with a `vocab` and an `unk_token` as BPE has them.  Raises ModelFileError, UnsupportedModelError."""
    if kind == "WordPiece":
        prefix = model.get("continuing_subword_prefix", _WORD_PREFIX)
        if prefix != _WORD_PREFIX:
            raise UnsupportedModelError(
                f"{path}: 'model.continuing_subword_prefix' is '{shown(prefix)}'; '{_WORD_PREFIX}' is supported"
            )
        return {k: v for k, v in model.items() if k != "continuing_subword_prefix"}
    pieces = model.get("vocab")
    if not isinstance(pieces, list):
        raise ModelFileError(f"{path}: 'model.vocab' must be an array, found {json_type(pieces)}")
    vocab: dict[str, int] = {}
    for i, piece in enumerate(pieces):
        if (
            not isinstance(piece, list)
            or len(piece) != 2
            or not isinstance(piece[0], str)
            or isinstance(piece[1], bool)
            or not isinstance(piece[1], (int, float))
        ):
            raise ModelFileError(
                f"{path}: 'model.vocab', entry {i} is no piece with its score: {shown(repr(piece))}"
            )
        if piece[0] in vocab:
            raise ModelFileError(f"{path}: 'model.vocab' has the piece '{shown(piece[0])}' twice")
        vocab[piece[0]] = i
    unknown = model.get("unk_id")
    if type(unknown) is int and 0 <= unknown < len(pieces):
        return {**model, "vocab": vocab, "unk_token": pieces[unknown][0]}
    return {**model, "vocab": vocab}


def word_entries(
    kind: str, tokenizer: dict[str, Any], tokens: list[str], types: list[int]
) -> list[Entry]:
    """tokenizer.ggml.*: of WordPiece as "bert", of Unigram as "t5"."""
    common = [
        Entry("tokenizer.ggml.pre", "string", "default"),
        Entry("tokenizer.ggml.token_type", "array<i32>", list(types)),
    ]
    if kind == "WordPiece":
        return [
            Entry("tokenizer.ggml.model", "string", "bert"),
            Entry("tokenizer.ggml.tokens", "array<string>", _spelled(tokens, types)),
            *common,
            *_case_entries(tokenizer),
        ]
    scores = {piece: float(score) for piece, score in tokenizer["model"]["vocab"]}
    charsmap, squeezes = _normalizer(tokenizer.get("normalizer"))
    out = [
        Entry("tokenizer.ggml.model", "string", "t5"),
        Entry("tokenizer.ggml.tokens", "array<string>", list(tokens)),
        Entry(
            "tokenizer.ggml.scores",
            "array<f32>",
            [scores.get(token, _UNKNOWN_SCORE) for token in tokens],
        ),
        *common,
        Entry("tokenizer.ggml.add_space_prefix", "bool", _adds_space(tokenizer)),
        Entry("tokenizer.ggml.remove_extra_whitespaces", "bool", squeezes),
    ]
    if charsmap:
        out.append(Entry("tokenizer.ggml.precompiled_charsmap", "array<u8>", list(charsmap)))
    return out


def _spelled(tokens: list[str], types: list[int]) -> list[Scalar]:
    """A piece that begins a word has U+2581 before it, one that goes on has none."""
    return [
        token
        if kind in _WHOLE
        else token.removeprefix(_WORD_PREFIX)
        if token.startswith(_WORD_PREFIX)
        else f"\u2581{token}"
        for token, kind in zip(tokens, types)
    ]


def _steps(value: Any, key: str) -> list[dict[str, Any]]:
    """A step, or those of a sequence."""
    if not isinstance(value, dict):
        return []
    steps = value.get(key) if value.get("type") == "Sequence" else [value]
    return [step for step in steps or [] if isinstance(step, dict)]


def _case_entries(tokenizer: dict[str, Any]) -> list[Entry]:
    for step in _steps(tokenizer.get("normalizer"), "normalizers"):
        if step.get("type") != "BertNormalizer":
            continue
        lowercase = step.get("lowercase", True) is True
        strips = step.get("strip_accents")
        return [
            Entry("tokenizer.ggml.normalizer.lowercase", "bool", lowercase),
            Entry(
                "tokenizer.ggml.normalizer.strip_accents",
                "bool",
                lowercase if strips is None else strips is True,
            ),
        ]
    return []


def _normalizer(normalizer: Any) -> tuple[bytes, bool]:
    """The charsmap, and whether runs of spaces become one."""
    charsmap, squeezes = b"", False
    for step in _steps(normalizer, "normalizers"):
        if step.get("type") == "Precompiled" and isinstance(step.get("precompiled_charsmap"), str):
            try:
                charsmap = base64.b64decode(step["precompiled_charsmap"], validate=True)
            except (binascii.Error, ValueError):  # the library has refused it before
                charsmap = b""
        if step.get("type") == "Replace" and step.get("pattern") == {"Regex": " {2,}"}:
            squeezes = True
    return charsmap, squeezes


def _adds_space(tokenizer: dict[str, Any]) -> bool:
    for step in _steps(tokenizer.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") == "Metaspace":
            scheme = step.get(
                "prepend_scheme", "always" if step.get("add_prefix_space", True) else "never"
            )
            return bool(scheme != "never")
    return False
