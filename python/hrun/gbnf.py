"""llama.cpp's grammar notation (GBNF), translated to the Lark dialect of llguidance.

GBNF has characters and rules; the dialect has a lexer as well, which takes the longest match and would so change what a
grammar means (``[a-z]+ "b"`` could never end).  So every terminal of a translation is one character.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from hrun.errors import GrammarError, printable

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "[": "[", "]": "]", "-": "-"}
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}
_MAX_DEPTH = 200  # of parentheses


def gbnf_to_lark(text: str) -> str:
    """The translation; rule ``root`` becomes ``start``.  Raises GrammarError that names the line."""
    reader = _Reader(text)
    rules: dict[str, str] = {}
    reader.skip(newlines=True)
    while reader.peek():
        line = reader.line
        name = reader.name()
        reader.skip()
        if not reader.take("::="):
            raise reader.error("expected '::='")
        reader.skip(newlines=True)
        if name in rules:
            raise GrammarError(f"grammar, line {line}: rule '{printable(name)}' is defined twice")
        rules[name] = _alternatives(reader, 0)
        if reader.peek() not in ("", "\r", "\n"):
            raise reader.error("expected the end of the rule")
        reader.skip(newlines=True)
    for name, line in reader.used.items():
        if name not in rules:
            raise GrammarError(f"grammar, line {line}: no rule '{printable(name)}'")
    if "root" not in rules:
        raise GrammarError("grammar: no rule 'root'")
    lines = [f"{reader.names[name]}: {rule}" for name, rule in rules.items()]
    return "%llguidance {}\nstart: " + reader.names["root"] + "\n" + "\n".join(lines) + "\n"


@dataclass
class _Reader:
    text: str
    at: int = 0
    names: dict[str, str] = field(default_factory=dict)  # of rules, in the translation
    used: dict[str, int] = field(default_factory=dict)  # rules that are named, and the first line

    @property
    def line(self) -> int:
        return self.text.count("\n", 0, self.at) + 1

    def error(self, what: str) -> GrammarError:
        found = self.text[self.at : self.at + 20]
        shown = f"'{printable(found)}'" if found else "the end"
        return GrammarError(f"grammar, line {self.line}: {what}, found {shown}")

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def take(self, what: str) -> bool:
        if not self.text.startswith(what, self.at):
            return False
        self.at += len(what)
        return True

    def skip(self, newlines: bool = False) -> None:
        """Blanks and comments."""
        blanks = " \t\r\n" if newlines else " \t"
        while c := self.peek():
            if c == "#":
                end = self.text.find("\n", self.at)
                self.at = end if end >= 0 else len(self.text)
            elif c in blanks:
                self.at += 1
            else:
                return

    def continues(self) -> bool:
        """Does the next line go on with an alternative?"""
        at = self.at
        self.skip(newlines=True)
        if self.peek() == "|":
            return True
        self.at = at
        return False

    def name(self) -> str:
        start = self.at
        while (c := self.peek()) and ((c.isascii() and c.isalnum()) or c in "-_"):
            self.at += 1
        if self.at == start:
            raise self.error("expected a name")
        name = self.text[start : self.at]
        self.names.setdefault(name, f"r{len(self.names)}")
        return name

    def number(self) -> int:
        start = self.at
        while (c := self.peek()) and c in "0123456789":
            self.at += 1
        digits = self.text[start : self.at]
        if not digits or len(digits) > 9:
            raise self.error("expected a number of at most nine digits")
        return int(digits)

    def character(self) -> int:
        c = self.peek()
        if c == "" or c in "\r\n":
            raise self.error("expected a character")
        self.at += 1
        if c != "\\":
            return ord(c)
        c = self.peek()
        if c and c in _ESCAPES:
            self.at += 1
            return ord(_ESCAPES[c])
        n = _HEX_DIGITS.get(c, 0)
        digits = self.text[self.at + 1 : self.at + 1 + n]
        if n == 0 or len(digits) < n or any(d not in "0123456789abcdefABCDEF" for d in digits):
            raise self.error("expected an escape, such as \\n, \\\" or \\x41, behind '\\'")
        code = int(digits, 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise self.error("expected a character's number")
        self.at += 1 + n
        return code


def _alternatives(reader: _Reader, depth: int) -> str:
    if depth > _MAX_DEPTH:
        raise reader.error(f"expected at most {_MAX_DEPTH} parentheses")
    parts = [_sequence(reader, depth)]
    while reader.peek() == "|" or (depth == 0 and reader.continues()):
        reader.at += 1
        reader.skip(newlines=True)
        parts.append(_sequence(reader, depth))
    return " | ".join(parts)


def _sequence(reader: _Reader, depth: int) -> str:
    items: list[str] = []
    while True:
        reader.skip(newlines=depth > 0)
        c = reader.peek()
        if c == '"':
            item = _literal(reader)
        elif c == "[":
            item = _class(reader)
        elif c == "(":
            reader.at += 1
            reader.skip(newlines=True)
            item = f"({_alternatives(reader, depth + 1)})"
            if not reader.take(")"):
                raise reader.error("expected ')'")
        elif c == ".":
            reader.at += 1
            item = "/(?s:.)/"
        elif c == "<":
            item = _token(reader)
        elif c and ((c.isascii() and c.isalnum()) or c in "-_"):
            line = reader.line
            name = reader.name()
            reader.used.setdefault(name, line)
            item = reader.names[name]
        else:
            return " ".join(items) or '""'
        items.append(item + _repetition(reader, depth))


def _literal(reader: _Reader) -> str:
    """Its characters, one terminal each."""
    reader.at += 1
    codes = []
    while not reader.take('"'):
        codes.append(reader.character())
    return "(" + " ".join(f"/{_escaped(c)}/" for c in codes) + ")" if codes else '("")'


def _class(reader: _Reader) -> str:
    reader.at += 1
    parts = ["^"] if reader.take("^") else []
    while not reader.take("]"):
        first = reader.character()
        if reader.peek() == "-" and reader.text[reader.at + 1 : reader.at + 2] not in ("]", ""):
            reader.at += 1
            last = reader.character()
            if last < first:
                raise reader.error("expected a range that rises")
            parts.append(f"{_escaped(first)}-{_escaped(last)}")
        else:
            parts.append(_escaped(first))
    if not parts:
        raise reader.error("expected a character in '[]'")
    return "/(?s:.)/" if parts == ["^"] else f"/[{''.join(parts)}]/"


def _token(reader: _Reader) -> str:
    """A control token, by its name or as ``<[id]>``."""
    end = reader.text.find(">", reader.at)
    if end < 0 or "\n" in reader.text[reader.at : end]:
        raise reader.error("expected '>' at the end of a token")
    token = reader.text[reader.at : end + 1]
    reader.at = end + 1
    return token


def _repetition(reader: _Reader, depth: int) -> str:
    reader.skip(newlines=depth > 0)
    for mark in "*+?":
        if reader.take(mark):
            return mark
    if not reader.take("{"):
        return ""
    reader.skip()
    low = 0 if reader.peek() == "," else reader.number()
    reader.skip()
    high = str(low)
    if reader.take(","):
        reader.skip()
        high = "" if reader.peek() == "}" else str(reader.number())
        reader.skip()
    if not reader.take("}"):
        raise reader.error("expected '}'")
    if high and int(high) < low:
        raise reader.error(f"expected a repetition that rises, not {{{low},{high}}}")
    return f"{{{low},{high}}}"


def _escaped(code: int) -> str:
    return chr(code) if chr(code).isascii() and chr(code).isalnum() else f"\\u{{{code:x}}}"
