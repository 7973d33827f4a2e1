"""Arguments that are JSON already, while the model writes them."""

from __future__ import annotations

import re

_MARKS = re.compile(r'["\\{}\[\]]')


class JsonScan:
    """Finds the end of the JSON value that begins a text, while the text grows."""

    def __init__(self, depth: int = 0) -> None:
        """``depth``: the number of brackets that are open where the text begins."""
        self.end: int | None = None
        self.in_string = False
        self._at = 0
        self._depth = depth

    def scan(self, text: str) -> int | None:
        """The end of the value in the text so far, if it has been reached."""
        while self.end is None and (found := _MARKS.search(text, self._at)):
            mark = found[0]
            self._at = found.end()
            if mark == "\\":
                if self._at >= len(text):  # the escaped character has not come yet
                    self._at -= 1
                    break
                self._at += 1 if self.in_string else 0
            elif mark == '"':
                self.in_string = not self.in_string
            elif not self.in_string:
                self._depth += 1 if mark in "{[" else -1
                if self._depth <= 0:
                    self.end = self._at
        return self.end


class JsonWriting:
    """Arguments that are JSON already: passed on as they are."""

    def __init__(self, inside: bool = False) -> None:
        """``inside``: the arguments are inside an object whose end is the call's end."""
        self._scan = JsonScan()
        self._around = JsonScan(depth=1) if inside else None
        self._given = 0

    @property
    def in_string(self) -> bool:
        """Does the text end inside a string of the arguments, or of the object around them?"""
        scan = self._scan if self._scan.end is None else self._around
        return scan is not None and scan.in_string

    def step(self, text: str) -> tuple[str, int | None]:
        """Passes on all text that there is, up to the end of the value."""
        end = self._scan.scan(text)
        new = text[self._given : end]
        self._given += len(new)
        if end is None or self._around is None:
            return new, end
        closed = self._around.scan(text[end:])
        return new, None if closed is None else end + closed

    def end(self, text: str, tagged: bool) -> tuple[str, bool]:
        """Returns the rest of the arguments."""
        return self.step(text)[0], self._scan.end is not None
