"""Arguments whose texts stand between marks, ``{city:<|"|>Paris<|"|>,n:2}``, while the model writes them."""

from __future__ import annotations

import re
from collections.abc import Callable

from hrun.serve.tools.states import StateWriting
from hrun.serve.tools.tags import past_blanks
from hrun.serve.tools.values import dumps, value_of

QUOTE = '<|"|>'
_SCALAR_END = re.compile(r"[,\[\]{}]")
_KEY_END = re.compile(r"[:,\[\]{}]")


class QuotedWriting(StateWriting):
    """Values whose texts stand between marks; a list's or an object's brackets are JSON's."""

    def __init__(self, tag: Callable[[str], str]) -> None:
        super().__init__(self._value)
        self._mark = tag(QUOTE)
        self._open: list[str] = []  # closing brackets of what is open
        self._n = [0]  # members of what is open, and of the whole

    @property
    def in_string(self) -> bool:
        """Does the text end inside a text of the arguments?"""
        return self._state == self._in_text

    def end(self, text: str, tagged: bool) -> tuple[str, bool]:
        """Returns the rest.  The brackets are closed where a tag says that nothing is missing."""
        out, _ = self.step(text)
        if self._ended:
            return out, True
        rest = text[self._at :]
        if self.in_string:
            return out + dumps(rest)[1:-1], False
        if not tagged:
            return out, False
        if self._state == self._value and (rest.strip() or not self._in_list):
            out += self._lead() + dumps(value_of(rest.strip(), None))
        return out + self._give_up(len(text)), True

    # ---- states

    def _value(self, text: str) -> str | None:
        at = past_blanks(text, self._at)
        if self._mark.startswith(text[at:]) and not text.startswith(self._mark, at):
            return None
        if text.startswith(self._mark, at):
            self._at, self._state = at + len(self._mark), self._in_text
            return self._lead() + '"'
        first = text[at]
        if first in "{[":
            out = self._lead() + first
            self._at, self._state = at + 1, self._key if first == "{" else self._value
            self._open.append("}" if first == "{" else "]")
            self._n.append(0)
            return out
        if first == "]" and self._in_list:
            return self._close(at)
        found = _SCALAR_END.search(text, at)
        if found is None:
            return None
        self._at, self._state = found.start(), self._next
        return self._lead() + dumps(value_of(text[at : found.start()].strip(), None))

    def _key(self, text: str) -> str | None:
        at = past_blanks(text, self._at)
        mark = self._mark
        if mark.startswith(text[at:]) and not text.startswith(mark, at):
            return None
        if text[at] == "}":
            return self._close(at)
        start = end = at
        if text.startswith(mark, at):
            start = at + len(mark)
            end = text.find(mark, start)
            if end < 0:
                return None
        found = _KEY_END.search(text, end)
        if found is None:
            return None
        if found[0] != ":":
            return self._give_up(at)
        key = text[start : end if end > at else found.start()].strip()
        comma = ", " if self._n[-1] else ""
        self._n[-1] += 1
        self._at, self._state = found.end(), self._value
        return f"{comma}{dumps(key)}: "

    def _in_text(self, text: str) -> str | None:
        return self._text_until(self._mark, text, self._next)

    def _next(self, text: str) -> str | None:
        """The state behind a value."""
        at = past_blanks(text, self._at)
        if at == len(text):
            return None
        if text[at] == self._open[-1]:
            return self._close(at)
        if text[at] != ",":
            return self._give_up(at)
        self._at, self._state = at + 1, self._value if self._in_list else self._key
        return ""

    # ---- parts

    @property
    def _in_list(self) -> bool:
        return bool(self._open) and self._open[-1] == "]"

    def _lead(self) -> str:
        """Returns the text before a value."""
        if not self._in_list:
            return ""
        self._n[-1] += 1
        return ", " if self._n[-1] > 1 else ""

    def _close(self, at: int) -> str:
        self._at, self._state = at + 1, self._next
        self._n.pop()
        bracket = self._open.pop()
        self._ended = not self._open
        return bracket

    def _give_up(self, at: int) -> str:
        """Closes all that is open: what follows is no part of the arguments."""
        self._at, self._ended = at, True
        return "".join(reversed(self._open))
