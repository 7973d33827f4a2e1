"""Arguments that are elements, objects and lists in one another, while the model writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hrun.serve.tools.formats import ToolFormat
from hrun.serve.tools.states import StateWriting
from hrun.serve.tools.tags import past_blanks
from hrun.serve.tools.values import dumps, kind_of, properties_of, value_of


@dataclass
class _Frame:
    """An element that is open and holds others."""

    name: str
    schema: Any
    is_list: bool
    n: int = 0  # elements in it

    @property
    def bracket(self) -> str:
        return "]" if self.is_list else "}"


class NestedWriting(StateWriting):
    """An element whose first element is an item is a list, unless its schema says otherwise."""

    in_string = False  # the namespace before each tag stands in no text

    def __init__(self, row: ToolFormat, tag: Callable[[str], str], schema: Any) -> None:
        super().__init__(self._begins)
        self._opens = tag(row.namespace) + "<"
        self._frames = [_Frame("", schema, False)]
        self._name, self._schema = "", schema  # of the element that was opened last

    def end(self, text: str, tagged: bool) -> tuple[str, bool]:
        """Returns the rest.  All is closed where a tag ends the call, complete or not."""
        out, _ = self.step(text)
        if self._ended:
            return out, True
        rest = text[self._at :]
        if self._state == self._in_text:
            out += dumps(rest)[1:-1] + ('"' if tagged else "")
        elif tagged and self._state in (self._opened, self._leaf):
            out += self._lead() + dumps(_value(rest, self._schema))
        complete = tagged and self._state == self._between and len(self._frames) == 1
        return (out + self._give_up(len(text)) if tagged else out), complete

    # ---- states

    def _begins(self, text: str) -> str | None:
        self._state = self._between
        return "{"

    def _between(self, text: str) -> str | None:
        """The state before an element, or the end of the one around it."""
        at = past_blanks(text, self._at)
        if self._opens.startswith(text[at:]):
            return None
        frame = self._frames[-1]
        first = at + len(self._opens)
        if not text.startswith(self._opens, at):
            return self._give_up(at)
        if text[first] == "/":
            close = self._closing(frame.name)
            if len(self._frames) > 1 and text.startswith(close, at):
                self._at = at + len(close)
                self._frames.pop()
                return frame.bracket
            return None if close.startswith(text[at:]) else self._give_up(at)
        end = text.find(">", first)
        if end < 0:
            return None
        self._name, self._at = text[first:end], end + 1
        if frame.is_list:
            self._schema = frame.schema.get("items") if isinstance(frame.schema, Mapping) else None
        else:
            self._schema = properties_of(frame.schema).get(self._name)
        self._state = self._opened
        return ""

    def _opened(self, text: str) -> str | None:
        """The state behind an element's tag: it holds a value, or other elements."""
        schema = self._schema
        kind = kind_of(schema)
        if not _may_be_text(schema):
            at = past_blanks(text, self._at)
            first = at + len(self._opens)
            if self._opens.startswith(text[at:]):
                return None
            if text.startswith(self._opens, at) and text[first] != "/":
                end = text.find(">", first)
                if end < 0:
                    return None
                is_item = text[first:end] == "item" and "item" not in properties_of(schema)
                is_list = kind == "array" or (is_item and kind != "object")
                out = self._lead() + ("[" if is_list else "{")
                self._frames.append(_Frame(self._name, schema, is_list))
                self._state = self._between
                return out
        if kind == "string":
            self._state = self._in_text
            return self._lead() + '"'
        self._state = self._leaf
        return ""

    def _in_text(self, text: str) -> str | None:
        return self._text_until(self._closing(self._name), text, self._between)

    def _leaf(self, text: str) -> str | None:
        close = self._closing(self._name)
        end = text.find(close, self._at)
        if end < 0:
            return None
        out = self._lead() + dumps(_value(text[self._at : end], self._schema))
        self._at, self._state = end + len(close), self._between
        return out

    # ---- parts

    def _closing(self, name: str) -> str:
        return f"{self._opens}/{name}>"

    def _lead(self) -> str:
        """Returns the text before a value."""
        frame = self._frames[-1]
        frame.n += 1
        comma = ", " if frame.n > 1 else ""
        return comma if frame.is_list else f"{comma}{dumps(self._name)}: "

    def _give_up(self, at: int) -> str:
        """Closes all that is open: what follows is no part of the arguments."""
        self._at, self._ended = at, True
        return "".join(frame.bracket for frame in reversed(self._frames))


def _may_be_text(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    kind = schema.get("type")
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return True
    among = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    return any(map(_may_be_text, among))


def _value(text: str, schema: Any) -> Any:
    kind = kind_of(schema)
    if not text.strip() and kind in ("array", "object"):
        return [] if kind == "array" else {}
    return value_of(text, schema)
