"""Markdown that is shown in a terminal while it streams.

Text is shown word by word and broken between words; code is shown line by line, coloured by Pygments where it knows the
language; a table is shown when it is complete.  Text that is no markdown after all is shown as it came: nothing of a text is
lost but the marks.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from importlib import import_module
from typing import Any

from hrun.cli.wrapping import width_of

_RESET = "\x1b[0m"
_BOLD, _DIM, _ITALIC, _STRIKE, _CODE, _HEADING = "1", "2", "3", "9", "36", "1;36"
_COLOURED_LINES = (
    400  # lines of one block of code; more are plain, as each is read with those before it
)

_HEAD = re.compile(r" {0,3}(#{1,6})[ \t]")
_BULLET = re.compile(r"(\s*)[-*+][ \t]")
_NUMBER = re.compile(r"(\s*)(\d{1,3}[.)])[ \t]")
_QUOTE = re.compile(r" {0,3}>")
_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)")
_RULE = re.compile(r" {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}")
_TABLE = re.compile(r"\s*\|")
_UNDECIDED = re.compile(
    r"\s*| {0,3}>|\s*#{1,6}|\s*\d{1,3}[.)]?|\s*[-*+]| {0,3}([-*_])[ \t]*(?:\1[ \t]*)*|\s*(?:`{1,2}|~{1,2})"
)
_DIVIDER = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")
_MARKS = "*_`~"


class Markdown:
    """``feed`` takes what comes and returns what to write; ``finish`` what was still held back."""

    def __init__(self, width: Callable[[], int] | None = None) -> None:
        self._width = width or (lambda: shutil.get_terminal_size().columns)
        self._start: str | None = ""  # of a line whose kind is not known yet; None within a line
        self._fence = ""  # that opened a block of code
        self._lexer: Any = None
        self._code: list[str] = []
        self._table: list[str] = []
        self._column = 0
        self._indent = ""  # of the lines after the first of a list's item
        self._base = ""  # style of the whole line
        self._styles: list[str] = []
        self._word, self._word_width, self._word_style = "", 0, ""
        self._marks = ""  # a run of the same mark that is not yet understood
        self._ticks = 0  # that opened a span of code
        self._before = " "  # the character before the run
        self._escaped = False

    def feed(self, text: str) -> str:
        return "".join(map(self._take, text))

    def finish(self) -> str:
        """The rest, at the end of the text; styles are off after it."""
        out = ""
        if self._fence:
            if self._start and not self._closes(self._start):
                out = self._code_line(self._start)
        elif self._table and self._start is not None and _TABLE.match(self._start):
            self._table.append(self._start)
            out = self._flush_table()
        else:
            out = self._flush_table()
            if self._start:
                out += self._open(self._start)
            out += self._resolve(" ") + self._flush_word()
        styled = _RESET if self._base or self._styles or self._ticks else ""
        self.__init__(self._width)  # type: ignore[misc]
        return out + styled

    # ---- lines

    def _take(self, c: str) -> str:
        if self._start is None:
            return self._end_line() if c == "\n" else self._inline(c)
        if c != "\n":
            self._start += c
            if self._fence or self._held(self._start):
                return ""
            line, self._start = self._start, None
            return self._flush_table() + self._open(line)
        line, self._start = self._start, ""
        if self._fence:
            if self._closes(line):
                self._fence = ""
                return ""
            return self._code_line(line) + "\n"
        if fence := _FENCE.fullmatch(line):
            self._fence, self._code = fence[1], []
            self._lexer = _lexer(fence[2].strip().split(" ")[0])
            return self._flush_table()
        if _TABLE.match(line):
            self._table.append(line)
            return ""
        out = self._flush_table()
        if _RULE.fullmatch(line):
            return out + f"\x1b[{_DIM}m{'─' * min(40, self._width() - 1)}{_RESET}\n"
        if not line.strip():
            return out + "\n"
        self._start = None
        return out + self._open(line) + self._end_line()

    def _closes(self, line: str) -> bool:
        """Does the line end the block of code?"""
        return line.strip().startswith(self._fence) and not line.strip().strip(self._fence[0])

    def _held(self, line: str) -> bool:
        """May it still become something else than text?"""
        return bool(_UNDECIDED.fullmatch(line) or _TABLE.match(line) or _FENCE.fullmatch(line))

    def _open(self, line: str) -> str:
        """The beginning of a line of text: its mark, and what stands behind it."""
        self._indent, self._base = "", ""
        if head := _HEAD.match(line):
            self._base = _HEADING
            return self._inlines(line[head.end() :])
        if bullet := _BULLET.match(line):
            self._indent = bullet[1] + "  "
            return self._plain(bullet[1] + "• ") + self._inlines(line[bullet.end() :])
        if number := _NUMBER.match(line):
            self._indent = " " * (number.end())
            return self._plain(f"{number[1]}{number[2]} ") + self._inlines(line[number.end() :])
        if quote := _QUOTE.match(line):
            self._indent, self._base = "│ ", _DIM
            return self._plain("│ ") + self._inlines(line[quote.end() :].lstrip())
        lead = line[: len(line) - len(line.lstrip())]
        self._indent = lead
        return self._plain(lead) + self._inlines(line[len(lead) :])

    def _plain(self, text: str) -> str:
        self._column += width_of(text)
        return text

    def _end_line(self) -> str:
        out = self._resolve(" ") + self._flush_word()
        styled = self._base or self._styles or self._ticks
        self._styles, self._ticks, self._base = [], 0, ""
        self._column, self._start, self._before = 0, "", " "
        return out + (_RESET if styled else "") + "\n"

    # ---- text within a line

    def _inlines(self, text: str) -> str:
        return "".join(map(self._inline, text))

    def _inline(self, c: str) -> str:
        if self._escaped:
            self._escaped = False
            if c not in "\\`*_{}[]()#+-.!|~<>":
                return self._put("\\") + self._put(c)
            return self._put(c)
        if (
            c in _MARKS
            and (not self._marks or self._marks[0] == c)
            and (c == "`" or not self._ticks)
        ):
            self._marks += c
            return ""
        out = self._resolve(c)
        if c in _MARKS and (c == "`" or not self._ticks):
            self._marks = c
            return out
        if c == "\\" and not self._ticks:
            self._escaped = True
            return out
        return out + self._put(c)

    def _resolve(self, after: str) -> str:
        """Resolves the meaning of a run of marks, now that the character after it is known."""
        marks, self._marks = self._marks, ""
        if not marks:
            return ""
        mark, n = marks[0], len(marks)
        opens = not after.isspace()
        closes = not self._before.isspace()
        if mark == "`":
            if self._ticks == n:
                self._ticks = 0
                return ""
            if not self._ticks and opens:
                self._ticks = n
                return ""
            return self._literal(marks)
        opens = opens and not self._before.isalnum()
        if mark == "_":
            closes = closes and not after.isalnum()
        if mark == "~":
            return "" if n == 2 and self._toggle(_STRIKE, opens, closes) else self._literal(marks)
        left = n
        for size, style in ((2, _BOLD), (1, _ITALIC)) if n != 1 else ((1, _ITALIC),):
            if left >= size and self._toggle(style, opens, closes):
                left -= size
        return self._literal(mark * left) if left else ""

    def _toggle(self, style: str, opens: bool, closes: bool) -> bool:
        if style in self._styles and closes:
            self._styles.remove(style)
            return True
        if style not in self._styles and opens:
            self._styles.append(style)
            return True
        return False

    def _literal(self, marks: str) -> str:
        return "".join(map(self._put, marks))

    def _style(self) -> str:
        parts = [self._base, *self._styles, _CODE if self._ticks else ""]
        return ";".join(part for part in parts if part)

    def _put(self, c: str) -> str:
        """One visible character: into the word, or out where a word ends."""
        self._before = c
        if c in " \t" and not self._ticks:
            out = self._flush_word()
            if self._column >= self._width() - 1:
                return out  # the line breaks here
            self._column += 1
            return out + " "
        style = self._style()
        if style != self._word_style:
            self._word += (_RESET if self._word_style else "") + (f"\x1b[{style}m" if style else "")
            self._word_style = style
        self._word += c
        columns = width_of(c)
        self._word_width += columns
        wide = columns == 2  # such scripts break anywhere
        return self._flush_word() if wide or self._word_width >= self._width() - 1 else ""

    def _flush_word(self) -> str:
        word, columns, styled = self._word, self._word_width, bool(self._word_style)
        self._word, self._word_width, self._word_style = "", 0, ""
        if not word:
            return ""
        out = ""
        if self._column + columns > self._width() - 1 and self._column > width_of(self._indent):
            out = "\n" + self._indent
            self._column = width_of(self._indent)
        self._column += columns
        return out + word + (_RESET if styled else "")

    # ---- code and tables

    def _code_line(self, line: str) -> str:
        self._code.append(line)
        if self._lexer is None or len(self._code) > _COLOURED_LINES:
            return f"  \x1b[{_CODE}m{line}{_RESET}" if line else ""
        shown = import_module("pygments.formatters").TerminalFormatter()
        code = "\n".join(self._code) + "\n"
        text: str = import_module("pygments").highlight(code, self._lexer, shown)
        lines = text.rstrip("\n").split("\n")
        return "  " + lines[-1] if len(lines) >= len(self._code) else "  " + line

    def _flush_table(self) -> str:
        rows, self._table = self._table, []
        if not rows:
            return ""
        if len(rows) < 2 or not _DIVIDER.fullmatch(rows[1]):
            return "".join(f"{row}\n" for row in rows)
        cells = [[c.strip() for c in _cells(row)] for i, row in enumerate(rows) if i != 1]
        n = max(map(len, cells))
        cells = [row + [""] * (n - len(row)) for row in cells]
        rendered = [[_spans(c) for c in row] for row in cells]
        wide = [max(width_of(row[i][0]) for row in rendered) for i in range(n)]
        if sum(wide) + 3 * n > self._width() - 1:
            return "".join(f"{row}\n" for row in rows)  # too wide: as it came
        aligned = [c.strip() for c in _cells(rows[1])] + [""] * n
        out = []
        for number, row in enumerate(rendered):
            parts = []
            for i, (plain, styled) in enumerate(row):
                space = " " * (wide[i] - width_of(plain))
                parts.append(
                    space + styled
                    if aligned[i].endswith(":") and not aligned[i].startswith(":")
                    else styled + space
                )
            line = " │ ".join(parts).rstrip()
            out.append(f"\x1b[{_BOLD}m{line}{_RESET}" if number == 0 else line)
            if number == 0:
                out.append("─┼─".join("─" * w for w in wide))
        return "\n".join(out) + "\n"


def _cells(row: str) -> list[str]:
    text = row.strip().removeprefix("|")
    if text.endswith("|") and not text.endswith("\\|"):
        text = text[:-1]
    return [cell.replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", text)]


def _spans(cell: str) -> tuple[str, str]:
    """A cell without its marks, and with them as styles."""
    inner = Markdown(lambda: 1 << 20)
    inner._start = None
    styled = inner._inlines(cell) + inner._resolve(" ") + inner._flush_word()
    return re.sub(r"\x1b\[[0-9;]*m", "", styled), styled


def _lexer(language: str) -> Any:
    """Pygments' reader of a language; None where it knows none."""
    if not language:
        return None
    try:
        return import_module("pygments.lexers").get_lexer_by_name(language, stripnl=False)
    except ValueError:  # ClassNotFound
        return None
