"""SentencePiece BPE: the vocabulary's scores say which neighbours merge first, bytes stand in for unknown characters."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Sequence
from heapq import heapify, heappop, heappush

from hrun.errors import ModelFileError
from hrun.tokenizer import BYTE, CONTROL, UNKNOWN, USER_DEFINED

_CACHED_WORDS = 20000


class SentencePieceRules:
    """Merges by score.

    No merge crosses a boundary between two characters that stand side by side in no token, so the text is cut there
    first: this keeps the work linear in the text and makes a cache of the cut words exact.
    """

    def __init__(
        self,
        tokens: Sequence[str],
        types: Sequence[int],
        scores: Sequence[float],
        adds_space: bool,
        unknown: int | None,
        path: str,
    ) -> None:
        self._ids = {t: i for i, (t, k) in enumerate(zip(tokens, types)) if k not in (CONTROL, UNKNOWN, BYTE)}
        self._scores = scores
        self._adds_space = adds_space
        self._control = {t: i for i, (t, k) in enumerate(zip(tokens, types)) if k == CONTROL and t}
        self._user = {t: i for i, (t, k) in enumerate(zip(tokens, types)) if k == USER_DEFINED and t}
        self._pairs = {t[i : i + 2] for t in self._ids for i in range(len(t) - 1)}
        self._cache: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        bytes_by_name = {t: i for i, (t, k) in enumerate(zip(tokens, types)) if k == BYTE}
        fallback = [bytes_by_name.get(f"<0x{b:02X}>", unknown) for b in range(256)]
        if any(i is None for i in fallback):
            b = fallback.index(None)
            raise ModelFileError(f"{path}: tokenizer.ggml.tokens has neither <0x{b:02X}> nor an unknown token")
        self._bytes: list[int] = fallback  # type: ignore[assignment]

    def encode(self, text: str, special: bool) -> list[int]:
        whole = self._user | self._control if special else self._user
        if not whole:
            return self._fragment(text, True)
        ids: list[int] = []
        at, after_control = 0, True
        for found in re.finditer("|".join(re.escape(t) for t in sorted(whole, key=len, reverse=True)), text):
            ids += self._fragment(text[at : found.start()], after_control)
            ids.append(whole[found.group()])
            at, after_control = found.end(), found.group() in self._control
        return ids + self._fragment(text[at:], after_control)

    def _fragment(self, text: str, prefix: bool) -> list[int]:
        if not text:
            return []
        if prefix and self._adds_space:
            text = " " + text
        text = text.replace(" ", "▁")
        ids: list[int] = []
        start = 0
        for i in range(1, len(text) + 1):
            if i == len(text) or text[i - 1 : i + 1] not in self._pairs:
                ids += self._word(text[start:i])
                start = i
        return ids

    def _word(self, word: str) -> tuple[int, ...]:
        cached = self._cache.get(word)
        if cached is None:
            cached = tuple(self._merge(word))
            if len(word) <= 64:
                self._cache[word] = cached
                if len(self._cache) > _CACHED_WORDS:
                    try:
                        self._cache.popitem(last=False)
                    except KeyError:  # another thread emptied it
                        pass
        return cached

    def _merge(self, word: str) -> list[int]:
        """Repeatedly merges the neighbours whose join scores best, the leftmost of equals."""
        pieces: list[str | None] = list(word)
        after = [*range(1, len(word)), -1]
        before = [*range(-1, len(word) - 1)]
        candidates: list[tuple[float, int, str]] = []

        def candidate(left: int) -> tuple[float, int, str] | None:
            joined = f"{pieces[left]}{pieces[after[left]]}"
            number = self._ids.get(joined)
            return None if number is None else (-self._scores[number], left, joined)

        candidates = [c for i in range(len(word) - 1) if (c := candidate(i))]
        heapify(candidates)
        while candidates:
            _, left, joined = heappop(candidates)
            right = after[left] if pieces[left] is not None else -1
            # A candidate is stale if either side has been merged since; then the join is a different string.
            if right < 0 or f"{pieces[left]}{pieces[right]}" != joined:
                continue
            pieces[left], pieces[right] = joined, None
            after[left] = after[right]
            if after[left] >= 0:
                before[after[left]] = left
                if c := candidate(left):
                    heappush(candidates, c)
            if before[left] >= 0 and (c := candidate(before[left])):
                heappush(candidates, c)
        ids: list[int] = []
        for piece in pieces:
            if piece is None:
                continue
            number = self._ids.get(piece)
            ids += [number] if number is not None else [self._bytes[b] for b in piece.encode()]
        return ids
