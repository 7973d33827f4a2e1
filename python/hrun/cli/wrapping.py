"""Lines that break between words, while text streams to a terminal."""

from __future__ import annotations

import shutil
import unicodedata
from collections.abc import Callable


class Wrapping:
    """Breaks lines at the terminal's edge between words.

    A word is shown as it comes; where it reaches the edge it is erased and begins the next line.  Code between ``` and rows of
    tables are left alone, as are words longer than a line.
    """

    def __init__(self, width: Callable[[], int] | None = None) -> None:
        self._width = width or (lambda: shutil.get_terminal_size().columns)
        self._column = 0
        self._word = ""
        self._taken = 0  # columns of the word
        self._line = ""  # its first characters, which tell what it is
        self._in_code = False

    def feed(self, text: str) -> str:
        """Returns the text to write for the next piece of text."""
        width = self._width()
        out = []
        for c in text:
            if c == "\n":
                if self._line.lstrip().startswith("```"):
                    self._in_code = not self._in_code
                self._column, self._word, self._taken, self._line = 0, "", 0, ""
                out.append(c)
                continue
            if len(self._line) < 8:
                self._line += c
            if c in " \t":
                self._word, self._taken = "", 0
                if self._column >= width - 1 and not self._untouched():
                    continue  # the space at which the line breaks: the next word begins another
                self._column += 1 if c == " " else 8 - self._column % 8
                out.append(c)
                continue
            columns = width_of(c)
            taken = self._taken
            if (
                self._column + columns > width - 1
                and taken < self._column
                and taken + columns < width
                and not self._untouched()
            ):
                out.append((f"\x1b[{taken}D" if taken else "") + "\x1b[K\n" + self._word)
                self._column = taken
            self._word += c
            self._taken += columns
            self._column += columns
            out.append(c)
        return "".join(out)

    def _untouched(self) -> bool:
        start = self._line.lstrip()
        return self._in_code or start.startswith(("```", "|"))


def wrapped(text: str, width: int | None = None) -> str:
    """The text with its lines broken between words."""
    room = (width or shutil.get_terminal_size().columns) - 1
    out = []
    for line in text.split("\n"):
        while width_of(line) > room:
            fits = next(i for i in range(len(line), 0, -1) if width_of(line[:i]) <= room)
            at = line.rfind(" ", 1, fits + 1)
            if not line[:at].strip() or at < 0:
                break  # one long word: the terminal's business
            out.append(line[:at])
            line = line[at + 1 :]
        out.append(line)
    return "\n".join(out)


def width_of(text: str) -> int:
    """Columns that it takes."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )
