"""A tool call while the model writes it: its name, then its arguments as far as no continuation could change them.

A call is taken up here once its text begins as the family's row has it, with the name of a tool that was offered; from then
on it is one, however it ends.  Other text is for :func:`hrun.serve.tools.calls.read_calls`, which needs it whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from functools import lru_cache
from typing import Any, Protocol

from hrun.serve.tools.calls import (
    JsonScan,
    dumps,
    key_and_kind,
    name_and_id,
    properties_of,
    value_of,
)
from hrun.serve.tools.formats import ToolFormat

_BLANKS = " \t\r\n"
_AFTER = "}];,`" + _BLANKS  # characters that may stand between arguments and the end of a call


class Writing(Protocol):
    """Arguments under way.  The ``text`` of its methods begins with them, and only grows."""

    def step(self, text: str) -> tuple[str, int | None]:
        """Returns (the arguments that have become certain since the last step, the place in the
        text where they have ended).
        """

    def end(self, text: str, tagged: bool) -> tuple[str, bool]:
        """Returns (the rest of the arguments, are they complete?).  The text ends here; ``tagged``:
        a tag that ends a call has ended it.
        """

    @property
    def in_string(self) -> bool:
        """Can an end tag that comes now be a part of an argument?"""


class JsonWriting:
    """Arguments that are JSON already: passed on as they are."""

    def __init__(self, inside: bool) -> None:
        """``inside``: the arguments are inside an object whose end is the call's end."""
        self._scan = JsonScan()
        self._around = JsonScan(depth=1) if inside else None
        self._given = 0

    @property
    def in_string(self) -> bool:
        """Does the text end inside a string of the arguments?"""
        return self._scan.end is None and self._scan.in_string

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
            return out + self._close(), True
        return out, False

    def _close(self) -> str:
        self._ended = True
        return "}" if self._keys else "{}"

    def _between(self, text: str) -> str:
        """Reads the text before a parameter, or the text that follows the last one."""
        row = self._row
        begin, key_end, value_begin = map(self._tag, (row.key_begin, row.key_end, row.value_begin))
        start = _past_blanks(text, self._at)
        if not text.startswith(begin, start):
            if begin.startswith(text[start:]):
                return ""
            self._at = start  # the function's end, or what no parameter begins with
            return self._close()
        at = text.find(key_end, start + len(begin))
        if at < 0:
            return ""
        key, is_text = key_and_kind(row, text[start + len(begin) : at])
        at += len(key_end)
        if value_begin:
            at = _past_blanks(text, at)
            if not text.startswith(value_begin, at):
                if value_begin.startswith(text[at:]):
                    return ""
                self._at = start
                return self._close()
        self._key, self._is_text, self._at = key, is_text, at + len(value_begin)
        return ""

    def _value(self, text: str) -> str:
        assert self._key is not None
        row, rest = self._row, text[self._at :]
        schema = self._properties.get(self._key)
        out = ""
        if not self._in_text and self._key not in self._keys:
            said = self._is_text
            is_text = isinstance(schema, Mapping) and schema.get("type") == "string"
            is_text = is_text if said is None else said
            if is_text and not rest:
                return ""
            # One that begins with a line's end may lose it, if it ends with one as well.
            if is_text and (row.padded or said or rest[0] != "\n"):
                n = 1 if rest[0] == "\n" and not said else 0
                self._at, rest, self._in_text = self._at + n, rest[n:], True
                out = self._head() + '"'
        close = self._tag(row.value_end)
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
        self._key, self._in_text = None, False
        return out

    def _head(self) -> str:
        assert self._key is not None
        self._keys.append(self._key)
        return ("{" if len(self._keys) == 1 else ", ") + dumps(self._key) + ": "


def begun(
    row: ToolFormat, tag: Callable[[str], str], text: str, schemas: Mapping[str, Any]
) -> tuple[str, str | None, int, Writing] | None:
    """Returns (name, id, where the arguments begin, their reader) of the call that the text begins.

    None: the call has not begun yet, or not in this way.
    """
    if row.listed:
        return None
    if row.payload == "json":
        found = _json_head(row).match(text)
        if found is None or found[2] not in schemas:
            return None
        return found[2], found[1], found.end(), JsonWriting(inside=True)
    if row.payload == "named":
        name_end = tag(row.name_end)
        at = text.find(name_end)
        start = _past_blanks(text, at + len(name_end))
        if at < 0 or text[start : start + 1] != "{":
            return None
        name, given = name_and_id(row, text[:at], tag(row.id_begin))
        return (name, given, start, JsonWriting(inside=False)) if name in schemas else None
    if row.payload == "tagged":
        return _tagged_head(row, tag, text, schemas)
    return None


def _tagged_head(
    row: ToolFormat, tag: Callable[[str], str], text: str, schemas: Mapping[str, Any]
) -> tuple[str, str | None, int, Writing] | None:
    head = text.lstrip()
    prefix = tag(row.name_prefix)
    if not head.startswith(prefix):
        return None
    first = len(text) - len(head) + len(prefix)
    end = tag(
        row.name_end or row.key_begin
    )  # without an end of its own a name ends where parameters begin
    at = text.find(end, first)
    name = text[first:at].strip()
    if row.name_attribute:
        name = name.partition('"')[0]
    if at < 0 or name not in schemas:
        return None
    start = at + len(end) if row.name_end else at
    return name, None, start, TaggedWriting(row, tag, schemas[name])


@lru_cache
def _json_head(row: ToolFormat) -> re.Pattern[str]:
    def one_of(keys: tuple[str, ...]) -> str:
        return f'"(?:{"|".join(map(re.escape, keys))})"\\s*:\\s*'

    text = r'"([^"\\]*)"\s*,\s*'
    return re.compile(
        rf"\s*\{{\s*(?:{one_of(row.id_keys)}{text})?{one_of(row.name_keys)}{text}{one_of(row.args_keys)}(?=\{{)"
    )


def _past_blanks(text: str, at: int) -> int:
    while at < len(text) and text[at] in _BLANKS:
        at += 1
    return at


def is_rest(row: ToolFormat, text: str) -> bool:
    """May this text stand between the arguments and the end of a call?"""
    return not text.strip(_AFTER).removeprefix(row.function_end or " ").strip(_AFTER)


def overlap(text: str, tags: Collection[str]) -> int:
    """The longest end of the text that begins one of the tags."""
    longest = min(max(map(len, tags), default=0) - 1, len(text))
    for n in range(longest, 0, -1):
        end = text[len(text) - n :]
        if any(tag.startswith(end) for tag in tags):
            return n
    return 0
