"""Tags in a model's answer: those that are control tokens of its vocabulary count as such tokens only."""

from __future__ import annotations

from collections.abc import Collection

BLANKS = " \t\r\n"

# Control tokens stand in the text between these, which no decoder makes of bytes.
_OPEN, _CLOSE = "\ud800", "\udfff"


def control(name: str) -> str:
    """A control token inside the parser's text."""
    return _OPEN + name + _CLOSE


def shown(text: str) -> str:
    """Returns the text without control tokens."""
    parts = text.split(_OPEN)
    return parts[0] + "".join(part.partition(_CLOSE)[2] for part in parts[1:])


def unmarked(text: str) -> str:
    """Returns the text with control tokens as text."""
    return text.replace(_OPEN, "").replace(_CLOSE, "")


def header_words(text: str) -> list[str]:
    """Returns the words of a message's header; a control token is a word."""
    return text.replace(_OPEN, " ").replace(_CLOSE, " ").split()


class Tags:
    """Writes tags as the parser sees them: what is a control token of the vocabulary counts as such a token only."""

    def __init__(self, control_names: Collection[str]) -> None:
        self._names = sorted(filter(None, control_names), key=len, reverse=True)
        self._known: dict[str, str] = {}

    def __call__(self, tag: str) -> str:
        """The tag with its control tokens marked."""
        found = self._known.get(tag)
        if found is None:
            parts = (control(text) if is_token else text for is_token, text in self.pieces(tag))
            found = self._known[tag] = "".join(parts)
        return found

    def pieces(self, tag: str) -> list[tuple[bool, str]]:
        """Returns (is it a control token, name or text) of each part of the tag; where tokens
        overlap, the longer one counts.
        """
        parts = [(False, tag)]
        for name in self._names:
            if name in tag:
                parts = [p for part in parts for p in _split(*part, name)]
        return [part for part in parts if part[1]]


def _split(is_token: bool, part: str, name: str) -> list[tuple[bool, str]]:
    if is_token:
        return [(True, part)]
    return [p for piece in part.split(name) for p in ((False, piece), (True, name))][:-1]


def overlap(text: str, tags: Collection[str]) -> int:
    """The longest end of the text that begins one of the tags."""
    longest = min(max(map(len, tags), default=0) - 1, len(text))
    for n in range(longest, 0, -1):
        end = text[len(text) - n :]
        if any(tag.startswith(end) for tag in tags):
            return n
    return 0


def past_blanks(text: str, at: int) -> int:
    """Returns the first place from there on that is no blank."""
    while at < len(text) and text[at] in BLANKS:
        at += 1
    return at
