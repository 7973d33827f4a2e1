"""Tokens of calibration text, encoded a piece at a time: tokenizers take hundreds of bytes of memory per token of a piece."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

from hrun.errors import ArgumentError
from hrun.tokenizer import Tokenizer

CHUNK_TOKENS = 512

_LIMIT = 256 << 20  # bytes of a text
_PIECE = 1 << 20  # bytes encoded at once; a text of this size is not cut
_BYTES_PER_TOKEN = 16  # a generous guess
_EDGE_TOKENS = 8  # before a cut, that a longer piece might encode otherwise


def begun(chunk: Sequence[int], first_token: int | None) -> list[int]:
    """The chunk with ``first_token`` in place of its first, where the model wants one."""
    return list(chunk) if first_token is None else [first_token, *chunk[1:]]


def chunks_of(tokens: Sequence[int], first_token: int | None) -> list[list[int]]:
    """Returns whole chunks; tokens left over at the end are not used."""
    ends = range(CHUNK_TOKENS, len(tokens) + 1, CHUNK_TOKENS)
    return [begun(tokens[end - CHUNK_TOKENS : end], first_token) for end in ends]


def read_text(path: Path) -> bytes:
    """Raises ArgumentError for more than 256 MiB, OSError."""
    with open(path, "rb") as file:
        data = file.read(_LIMIT + 1)
    if len(data) > _LIMIT:
        raise ArgumentError(
            f"{path}: larger than {_LIMIT >> 20} MiB; calibration needs a few megabytes at most"
        )
    return data


def first_tokens(tokenizer: Tokenizer, data: bytes, wanted: int) -> list[int]:
    """Returns at least `wanted` tokens from the beginning of the text, if it has as many."""
    size = max(_PIECE, _BYTES_PER_TOKEN * wanted)
    while True:
        tokens = _encoded(tokenizer, data[:size])
        if size >= len(data) or len(tokens) >= wanted + _EDGE_TOKENS:
            return tokens
        size *= 2


def spread_tokens(tokenizer: Tokenizer, data: bytes, wanted: int) -> Sequence[int]:
    """About `wanted` tokens in whole chunks spread evenly over the text; 0 for all of it."""
    n_chunks = max(1, wanted // CHUNK_TOKENS)
    size = _BYTES_PER_TOKEN * CHUNK_TOKENS
    if len(data) <= _PIECE or wanted <= 0 or len(data) < n_chunks * size:
        return spread_chunks(_all_tokens(tokenizer, data), wanted)
    out = array("i")
    for i in range(n_chunks):
        out.extend(_chunk_at(tokenizer, data, i * len(data) // n_chunks, size))
    return out


def spread_chunks(tokens: Sequence[int], wanted: int, chunk: int = CHUNK_TOKENS) -> Sequence[int]:
    """About `wanted` of the tokens, in whole chunks spread evenly over them; 0 for all."""
    n_chunks, n_wanted = len(tokens) // chunk, max(1, wanted // chunk)
    if wanted <= 0 or n_wanted >= n_chunks:
        return tokens
    out = array("i")
    for i in range(n_wanted):
        at = i * n_chunks // n_wanted * chunk
        out.extend(tokens[at : at + chunk])
    return out


def _chunk_at(tokenizer: Tokenizer, data: bytes, at: int, size: int) -> list[int]:
    """A chunk from the first break of a word behind `at` on, or nearer to the end where there is too little text left."""
    while True:
        start = _word_start(data, at) if at > 0 else 0
        tokens = _encoded(tokenizer, data[start : start + size])
        if len(tokens) >= CHUNK_TOKENS + _EDGE_TOKENS or (start == 0 and size >= len(data)):
            return tokens[:CHUNK_TOKENS]
        size *= 2
        at = max(0, min(at, len(data) - size))


def _all_tokens(tokenizer: Tokenizer, data: bytes) -> Sequence[int]:
    if len(data) <= _PIECE:
        return _encoded(tokenizer, data)
    out, at = array("i"), 0
    while at < len(data):
        end = len(data)
        if at + _PIECE < end:
            end = data.rfind(b"\n", at, at + _PIECE) + 1 or _character_start(data, at + _PIECE)
        out.extend(_encoded(tokenizer, data[at:end]))
        at = end
    return out


def _encoded(tokenizer: Tokenizer, data: bytes) -> list[int]:
    return tokenizer.encode(data.decode("utf-8", "replace"), add_special=False)


def _word_start(data: bytes, at: int) -> int:
    """The first byte behind a line break, else behind a space, else of a character, soon after `at`."""
    end = min(len(data), at + 256)
    for mark in (b"\n", b" "):
        if (found := data.find(mark, at, end)) >= 0:
            return found + 1
    return _character_start(data, at)


def _character_start(data: bytes, at: int) -> int:
    while at < len(data) and data[at] & 0xC0 == 0x80:
        at += 1
    return at
