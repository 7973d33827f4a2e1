"""RWKV's tokens: at each byte of a text the longest token that continues it.

``tokenizer.ggml.tokens`` has them with the escapes of Python's byte strings.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from hrun.control_tokens import ControlTokens
from hrun.errors import ModelFileError
from hrun.token_types import CONTROL, UNKNOWN, UNUSED

_ESCAPE = re.compile(rb"\\(x[0-9A-Fa-f]{2}|.)", re.DOTALL)
_NAMED = {b"t": b"\t", b"n": b"\n", b"r": b"\r"}


def plain_bytes(token: str) -> bytes:
    """The bytes of a token that is written with escapes."""

    def unescaped(found: re.Match[bytes]) -> bytes:
        code = found[1]
        return bytes([int(code[1:], 16)]) if len(code) == 3 else _NAMED.get(code, code)

    return _ESCAPE.sub(unescaped, token.encode())


class WorldRules:
    """Looks tokens up by their first two bytes, and then tries only lengths that such tokens have."""

    def __init__(
        self,
        tokens: Sequence[bytes],
        types: Sequence[int],
        control: ControlTokens,
        unknown: int | None,
        path: str,
    ) -> None:
        self._control = control
        self._ids: dict[bytes, int] = {}
        lengths: dict[bytes, set[int]] = {}
        for number, (token, kind) in enumerate(zip(tokens, types)):
            if not token or kind in (CONTROL, UNKNOWN, UNUSED):
                continue
            self._ids.setdefault(token, number)
            lengths.setdefault(token[:2], set()).add(len(token))
        self._lengths = {start: sorted(found, reverse=True) for start, found in lengths.items()}
        self._of_byte = []
        for byte in range(256):
            number = self._ids.get(bytes([byte]), unknown)
            if number is None:
                raise ModelFileError(
                    f"{path}: tokenizer.ggml.tokens has neither the byte {byte} nor an unknown token"
                )
            self._of_byte.append(number)

    def encode(self, text: str, special: bool) -> list[int]:
        if not special:
            return self._plain(text.encode())
        ids: list[int] = []
        at = 0
        for start, end, token in self._control.find(text):
            ids += self._plain(text[at:start].encode())
            ids.append(token)
            at = end
        return ids + self._plain(text[at:].encode())

    def _plain(self, data: bytes) -> list[int]:
        known, lengths = self._ids, self._lengths
        ids: list[int] = []
        at, end = 0, len(data)
        while at < end:
            for length in lengths.get(data[at : at + 2], ()):
                token = known.get(data[at : at + length])
                # A text may end before the token does; what is left of it has another length.
                if token is not None and at + length <= end:
                    ids.append(token)
                    at += length
                    break
            else:
                ids.append(self._of_byte[data[at]])
                at += 1
        return ids
