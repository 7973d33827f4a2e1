"""Turns token bytes into text that can be shown at once: whole characters only, and never a part of
a stop string.
"""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from hrun.errors import ArgumentError

MAX_STOPS = 256
MAX_STOP_CHARACTERS = 16384


class Utf8Decoder:
    """Incremental UTF-8: ``feed`` returns the characters that are complete, ``flush`` the rest.

    At most three bytes are held back.  Each maximal ill-formed part becomes one U+FFFD, so the concatenation of all
    returned pieces equals ``all_bytes.decode("utf-8", "replace")`` however the bytes were cut.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, data: bytes) -> str:
        return self._decoder.decode(data)

    def flush(self) -> str:
        return self._decoder.decode(b"", final=True)

    @property
    def pending(self) -> bool:
        """Is a character incomplete?"""
        return bool(self._decoder.getstate()[0])


@dataclass
class _Node:
    """A state of the automaton: the longest suffix of the text that begins some stop string."""

    depth: int
    next: dict[str, _Node] = field(default_factory=dict)
    fail: _Node | None = None
    matched: int = 0  # length of the longest stop string that ends here, 0 if none does


class StopStrings:
    """Cuts a stream of text at the first stop string that becomes complete.

    ``feed`` returns what may be shown: everything except the longest suffix that could still begin a stop string.  The
    stop string that ends earliest wins; of those that end at the same character, the longest.  Nothing of it is ever
    returned.  Aho-Corasick, so the work per character does not grow with the number of stop strings.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._root = _build(validate_stops(stops))
        self._state = self._root
        self._held = ""
        self._hidden: list[tuple[int, int]] = []  # ranges of what is held that are never shown
        self.stopped = False
        self.found: str | None = None  # the stop string, once it is complete
        self.unshown = (
            0  # characters that were fed and not returned, those of the stop string included
        )

    def feed(self, text: str, hidden: bool = False) -> str:
        """``hidden``: the name of a control token, which may complete a stop string but is not shown."""
        if self.stopped or not text:
            return ""
        if not self._root.next:
            return "" if hidden else text
        buffer = self._held + text
        if hidden:
            self._hidden.append((len(self._held), len(buffer)))
        self.unshown += len(text)
        state = self._state
        for i, character in enumerate(text, len(self._held)):
            while character not in state.next and state.fail is not None:
                state = state.fail
            state = state.next.get(character, self._root)
            if state.matched:
                self.stopped = True
                self.found = buffer[i + 1 - state.matched : i + 1]
                self._held = ""
                return self._shown(buffer, i + 1 - state.matched)
        self._state = state
        cut = len(buffer) - state.depth
        self._held = buffer[cut:]
        return self._shown(buffer, cut)

    def flush(self) -> str:
        """The end of the text: what was held back is shown after all."""
        held, self._held, self._state = self._held, "", self._root
        return self._shown(held, len(held))

    def _shown(self, buffer: str, cut: int) -> str:
        """Returns the visible text of the buffer up to the cut; the hidden ranges that remain count
        from there.
        """
        self.unshown -= cut
        if not self._hidden:
            return buffer[:cut]
        parts, at = [], 0
        for start, end in self._hidden:
            parts.append(buffer[at : min(start, cut)])
            at = min(end, cut)
        parts.append(buffer[at:cut])
        self._hidden = [(max(s - cut, 0), e - cut) for s, e in self._hidden if e > cut]
        return "".join(parts)


def validate_stops(stops: Sequence[str] | str | None) -> list[str]:
    """The stop strings as a list; ArgumentError for what is no string, empty, or beyond the limits."""
    if stops is None:
        return []
    if isinstance(stops, str):
        stops = [stops]
    if not isinstance(stops, (list, tuple, set, frozenset)):
        raise ArgumentError(
            f"stop must be a string or a list of strings, got {type(stops).__name__}"
        )
    for i, stop in enumerate(stops):
        if not isinstance(stop, str):
            raise ArgumentError(f"stop[{i}] must be a string, got {type(stop).__name__}")
        if not stop:
            raise ArgumentError(f"stop[{i}] is empty")
    total = sum(map(len, stops))
    if len(stops) > MAX_STOPS or total > MAX_STOP_CHARACTERS:
        raise ArgumentError(
            f"stop holds {len(stops)} strings of {total} characters; allowed: {MAX_STOPS} and {MAX_STOP_CHARACTERS}"
        )
    return list(stops)


def _build(stops: Sequence[str]) -> _Node:
    root = _Node(depth=0)
    for stop in stops:
        node = root
        for depth, character in enumerate(stop, 1):
            node = node.next.setdefault(character, _Node(depth))
        node.matched = len(stop)
    queue = deque((root, character, child) for character, child in root.next.items())
    while queue:  # breadth first: the failure links of shorter prefixes are complete
        parent, character, node = queue.popleft()
        fail = parent.fail
        while fail is not None and character not in fail.next:
            fail = fail.fail
        node.fail = root if fail is None else fail.next[character]
        node.matched = node.matched or node.fail.matched
        queue.extend((node, c, child) for c, child in node.next.items())
    return root
