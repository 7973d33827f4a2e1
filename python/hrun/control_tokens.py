"""Finds the control tokens in a text: the longest at each position, from left to right, none inside
another.

Linear in the text whatever the vocabulary: a candidate is looked up by its first characters, and only the lengths that tokens
with these have are tried.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping


class ControlTokens:
    """The names of control tokens and their ids; no name is empty."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = dict(ids)
        self._key = min(map(len, self._ids), default=1)
        lengths: dict[str, set[int]] = {}
        for name in self._ids:
            lengths.setdefault(name[: self._key], set()).add(len(name))
        self._lengths = {key: sorted(found, reverse=True) for key, found in lengths.items()}
        firsts = "".join(map(re.escape, sorted({name[0] for name in self._ids})))
        self._first = re.compile(f"[{firsts}]" if firsts else "(?!)")

    def find(self, text: str, guard: str = "") -> Iterator[tuple[int, int, int]]:
        """Yields (start, end, id) of each control token, but of none that follows the character
        `guard`.
        """
        ids, lengths, key, at = self._ids, self._lengths, self._key, 0
        while found := self._first.search(text, at):
            start = found.start()
            at = start + 1
            candidates = lengths.get(text[start : start + key], ())
            if not candidates or (guard and text[start - 1 : start] == guard):
                continue
            for length in candidates:
                name = text[start : start + length]
                token = ids.get(name)
                if token is not None:
                    at = start + len(name)
                    yield start, at, token
                    break

    def guarded(self, text: str, guard: str) -> str:
        """``text`` with the character ``guard`` before every character of every control token written in it."""
        parts, done = [], 0
        for start, end, _ in self.find(text):
            parts.append(text[done:start])
            parts += [guard + c for c in text[start:end]]
            done = end
        return "".join(parts) + text[done:] if parts else text
