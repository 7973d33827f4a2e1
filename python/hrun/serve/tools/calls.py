"""Reads the name and arguments of a tool call from its text.  Text that cannot be read gives None,
never an exception.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from hrun.serve.tools.formats import ToolFormat
from hrun.serve.tools.nested import NestedWriting
from hrun.serve.tools.quoted import QuotedWriting
from hrun.serve.tools.tagged import TaggedWriting
from hrun.serve.tools.tags import past_blanks
from hrun.serve.tools.values import dumps, loads
from hrun.serve.tools.written_json import JsonScan, JsonWriting

_MAX_PYTHON = 64 << 10
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}


@dataclass(frozen=True)
class Call:
    """A call that a model made; ``arguments`` is JSON text."""

    name: str
    arguments: str
    id: str | None = None  # where the model writes one


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


def read_calls(row: ToolFormat, text: str, schemas: Mapping[str, Any]) -> list[Call] | None:
    """The calls that the text between the tags of a call holds."""
    try:
        if row.payload == "json":
            return _json_calls(row, text)
        if row.payload == "named":
            return _named(row, text)
        return _pythonic(row, text) if row.payload == "pythonic" else _written(row, text, schemas)
    except (ValueError, RecursionError, MemoryError, OverflowError):
        return None


def _json_calls(row: ToolFormat, text: str) -> list[Call] | None:
    calls: list[Call | None] = []
    text = text.strip()
    while text[:1] in ("{", "["):
        end = JsonScan().scan(text)
        if end is None:
            return None
        value = loads(text[:end])
        calls += [_json_call(row, item) for item in (value if isinstance(value, list) else [value])]
        text = text[end:].lstrip()
    if text.strip(" \t\r\n}];,") or None in calls:
        return None
    return [call for call in calls if call is not None] or None


def _json_call(row: ToolFormat, item: Any) -> Call | None:
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        item = item["function"] | {k: v for k, v in item.items() if k in row.id_keys}
    if not isinstance(item, dict):
        return None
    if not row.name_keys and len(item) == 1:
        item = {"name": next(iter(item)), "arguments": next(iter(item.values()))}
    name = next((item[key] for key in row.name_keys or ("name",) if key in item), None)
    if not isinstance(name, str) or not name:
        return None
    arguments: Any = next((item[key] for key in row.args_keys if key in item), {})
    given = next((item[key] for key in row.id_keys if isinstance(item.get(key), str)), None)
    if isinstance(arguments, str):
        return Call(name, arguments if isinstance(loads(arguments or "{}"), dict) else "", given)
    if arguments is not None and not isinstance(arguments, dict):
        return None
    return Call(name, dumps(arguments or {}), given)


def _named(row: ToolFormat, text: str) -> list[Call] | None:
    head = head_of(row, str, text)
    if head is None or not head.name:
        return None
    rest = text[head.end :].strip()
    if rest.endswith("```"):
        rest = rest[:-3].rstrip()
    value = loads(rest) if rest else {}
    return [Call(head.name, dumps(value), head.id)] if isinstance(value, dict) else None


def _written(row: ToolFormat, text: str, schemas: Mapping[str, Any]) -> list[Call] | None:
    """The call of a family whose arguments become JSON while they are written."""
    head = head_of(row, str, text)
    if head is None and row.payload == "tagged" and not row.name_end:
        head = Head(text.strip(), None, len(text))  # it has no parameter
    if head is None or not head.name or "<" in head.name or "\n" in head.name:
        return None
    text = text[head.end :].rstrip()
    writing = writing_of(row, str, schemas.get(head.name))
    arguments, end = writing.step(text)
    if end is None:
        rest, complete = writing.end(text, tagged=True)
        return [Call(head.name, arguments + rest, head.id)] if complete else None
    if text[end:].removeprefix(row.function_end).strip():
        return None
    return [Call(head.name, arguments, head.id)]


@dataclass(frozen=True)
class Head:
    """The text before a call's arguments."""

    name: str
    id: str | None  # where the model has written one
    end: int


def head_of(row: ToolFormat, tag: Callable[[str], str], text: str) -> Head | None:
    """Returns the head of the call that the text begins, once it is complete; not for families
    whose calls are JSON objects.
    """
    if row.payload == "quoted":
        at = text.find("{")
        return None if at < 0 else Head(text[:at].strip(), None, at)
    prefix = tag(row.name_prefix) if row.payload == "tagged" else ""
    first = past_blanks(text, 0)
    if not text.startswith(prefix, first):
        return None
    first += len(prefix)
    # Without an end of its own a name ends where parameters begin.
    end = tag(row.name_end or row.key_begin)
    at = text.find(end, first)
    if at < 0:
        return None
    past = at + len(end) if row.name_end else at
    if row.payload != "named":
        name = text[first:at].strip()
        return Head(name.partition('"')[0] if row.name_attribute else name, None, past)
    name, given = text[first:at].strip(), None
    if row.id_begin and (id_begin := tag(row.id_begin)) in name:
        name, _, given = (part.strip() for part in name.partition(id_begin))
    elif row.id_end and (id_end := tag(row.id_end)) in name:
        given, _, name = (part.strip() for part in name.partition(id_end))
    elif row.index_after_name and ":" in name:
        given, name = name, name.rpartition(":")[0]
    return Head(name.removeprefix(row.name_prefix), given or None, past_blanks(text, past))


def writing_of(row: ToolFormat, tag: Callable[[str], str], schema: Any) -> Writing:
    """Returns the reader of the arguments behind a head; not for families whose calls are objects."""
    if row.payload == "quoted":
        return QuotedWriting(tag)
    if row.payload == "nested":
        return NestedWriting(row, tag, schema)
    return TaggedWriting(row, tag, schema) if row.payload == "tagged" else JsonWriting()


def _pythonic(row: ToolFormat, text: str) -> list[Call] | None:
    text = text.strip()
    if len(text) > _MAX_PYTHON:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python's own, of odd literals in a program
            lines = ast.parse(text).body
    except SyntaxError:
        return None
    if len(lines) != 1 and not row.lines:
        return None
    items: list[ast.expr] = []
    for line in lines:
        if not isinstance(line, ast.Expr):
            return None
        value = line.value
        items += value.elts if isinstance(value, (ast.List, ast.Tuple)) else [value]
    calls = []
    for item in items:
        if not isinstance(item, ast.Call) or item.args:
            return None
        name = ast.unparse(item.func)
        if not re.fullmatch(r"[A-Za-z_][\w.]*", name):
            return None
        arguments: dict[str, Any] = {}
        for keyword in item.keywords:
            if keyword.arg is None:
                return None
            arguments[keyword.arg] = _literal(keyword.value)
        calls.append(Call(name, dumps(arguments)))
    return calls or None


def _literal(node: ast.expr) -> Any:
    """A constant, list or dict; JSON's constants are known too.  Raises ValueError."""
    if isinstance(node, ast.Constant):
        if isinstance(node.value, (bytes, complex)) or node.value is Ellipsis:
            raise ValueError("no JSON")
        return node.value
    if isinstance(node, ast.Name) and node.id.lower() in _CONSTANTS:
        return _CONSTANTS[node.id.lower()]
    if isinstance(node, (ast.List, ast.Tuple)):
        return [_literal(item) for item in node.elts]
    if isinstance(node, ast.Dict):
        keys = [_literal(key) for key in node.keys if key is not None]
        if len(keys) != len(node.keys) or not all(isinstance(key, str) for key in keys):
            raise ValueError("no JSON")
        return dict(zip(keys, map(_literal, node.values)))
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.UAdd)):
        value = _literal(node.operand)
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    raise ValueError("no constant")
