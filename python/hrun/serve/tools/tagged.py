"""Arguments that are parameters between tags, while the model writes them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from hrun.serve.tools.formats import ToolFormat
from hrun.serve.tools.tags import overlap, past_blanks
from hrun.serve.tools.values import dumps, kind_of, properties_of, value_of

_CDATA = "<![CDATA["
_KIND = re.compile(r'\b(?:string|type)="([^"]*)"')


def key_and_kind(row: ToolFormat, head: str) -> tuple[str, bool | None]:
    """Splits the text before a value into the key and, where an attribute says so, whether the
    value is a text.
    """
    if not row.attributes:
        return head.strip(), None
    key, _, attributes = head.partition('"')
    kind = _KIND.search(attributes)
    return key, None if kind is None else kind[1] in ("true", "string")


class TaggedWriting:
    """Parameters between tags: each becomes a part of a JSON object, a text while it is written."""

    def __init__(self, row: ToolFormat, tag: Callable[[str], str], schema: Any) -> None:
        self._row = row
        self._tag = tag
        self._properties = properties_of(schema)
        self._at = 0  # the end of the text that is done with
        self._keys: list[str] = []
        self._key: str | None = None  # of the parameter that is read
        self._is_text: bool | None = None  # whether its attributes call its value a text
        self._in_text = False  # its value is given out as it comes
        self._close = ""  # stands before the tag that ends its value
        self._ended = False

    @property
    def in_string(self) -> bool:
        """Does the text end inside a parameter?"""
        return self._key is not None

    def step(self, text: str) -> tuple[str, int | None]:
        """The parameters that are complete, and what is certain of a text."""
        out = ""
        while not self._ended:
            before = self._at, self._key
            out += self._between(text) if self._key is None else self._value(text)
            if before == (self._at, self._key):
                return out, None
        return out, self._at

    def end(self, text: str, tagged: bool) -> tuple[str, bool]:
        """Returns the part of an unclosed text that is there.  The object is closed where a tag
        says that nothing is missing.
        """
        out, _ = self.step(text)
        if self._ended:
            return out, True
        if self._in_text:
            return out + dumps(text[self._at :])[1:-1], False
        if tagged and self._key is None:
            return out + self._closed(), True
        return out, False

    def _closed(self) -> str:
        self._ended = True
        return "}" if self._keys else "{}"

    def _between(self, text: str) -> str:
        """Reads the text before a parameter, or the text that follows the last one."""
        row = self._row
        begin, key_end, value_begin = map(self._tag, (row.key_begin, row.key_end, row.value_begin))
        start = past_blanks(text, self._at)
        if not text.startswith(begin, start):
            if begin.startswith(text[start:]):
                return ""
            self._at = start  # the function's end, or what no parameter begins with
            return self._closed()
        at = text.find(key_end, start + len(begin))
        if at < 0:
            return ""
        key, is_text = key_and_kind(row, text[start + len(begin) : at])
        at += len(key_end)
        if value_begin:
            at = past_blanks(text, at)
            if not text.startswith(value_begin, at):
                if value_begin.startswith(text[at:]):
                    return ""
                self._at = start
                return self._closed()
        self._key, self._is_text, self._at = key, is_text, at + len(value_begin)
        return ""

    def _value(self, text: str) -> str:
        assert self._key is not None
        row, rest = self._row, text[self._at :]
        schema = self._properties.get(self._key)
        out = ""
        if row.cdata and not self._in_text and not self._close:
            if _CDATA.startswith(rest) and rest != _CDATA:
                return ""
            if rest.startswith(_CDATA):
                self._at, rest = self._at + len(_CDATA), rest[len(_CDATA) :]
                self._is_text, self._close = True, "]]>"
        if not self._in_text and self._key not in self._keys:
            said = self._is_text
            is_text = kind_of(schema) == "string" if said is None else said
            if is_text and not rest:
                return ""
            # One that begins with a line's end may lose it, if it ends with one as well.
            if is_text and (row.padded or said or rest[0] != "\n"):
                n = 1 if rest[0] == "\n" and not said else 0
                self._at, rest, self._in_text = self._at + n, rest[n:], True
                out = self._head() + '"'
        close = self._close + self._tag(row.value_end)
        end = rest.find(close)
        if self._in_text:
            ready = rest[: len(rest) - overlap(rest, (close,))] if end < 0 else rest[:end]
            if row.padded:
                ready = ready.removesuffix("\n")
            out += dumps(ready)[1:-1]
            if end < 0:
                self._at += len(ready)
                return out
            out += '"'
        elif end < 0:
            return ""
        elif self._key not in self._keys:  # if a key comes twice, its first value counts
            out = self._head() + dumps(value_of(rest[:end], schema, self._is_text))
        self._at += end + len(close)
        self._key, self._in_text, self._close = None, False, ""
        return out

    def _head(self) -> str:
        assert self._key is not None
        self._keys.append(self._key)
        return ("{" if len(self._keys) == 1 else ", ") + dumps(self._key) + ": "
