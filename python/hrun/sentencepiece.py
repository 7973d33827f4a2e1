"""SentencePiece BPE, merged in the core: see cpp/tokenizer/sentencepiece.h."""

from __future__ import annotations

from collections.abc import Sequence

from hrun import _core
from hrun.errors import ModelFileError
from hrun.token_types import BYTE, CONTROL, UNKNOWN, USER_DEFINED

_KINDS = {CONTROL: _core.PieceKind.control, UNKNOWN: _core.PieceKind.ignored, BYTE: _core.PieceKind.ignored,
          USER_DEFINED: _core.PieceKind.whole}  # fmt: skip


class SentencePieceRules:
    """Merges by score; ``unknown`` stands for the bytes that the vocabulary lacks."""

    def __init__(
        self,
        tokens: Sequence[str],
        types: Sequence[int],
        scores: Sequence[float],
        adds_space: bool,
        unknown: int | None,
        path: str,
    ) -> None:
        bytes_by_name = {t: i for i, (t, kind) in enumerate(zip(tokens, types)) if kind == BYTE}
        fallback = []
        for b in range(256):
            token = bytes_by_name.get(f"<0x{b:02X}>", unknown)
            if token is None:
                raise ModelFileError(
                    f"{path}: tokenizer.ggml.tokens has neither <0x{b:02X}> nor an unknown token"
                )
            fallback.append(token)
        kinds = [_KINDS.get(kind, _core.PieceKind.merged) for kind in types]
        self._core = _core.SentencePiece(tokens, scores, kinds, fallback, adds_space)

    def encode(self, text: str, special: bool) -> list[int]:
        return self._core.encode(text, special)
