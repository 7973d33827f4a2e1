"""Reads the name and arguments of a tool call from its text.  Text that cannot be read gives None,
never an exception.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hrun.serve.tools.formats import ToolFormat

_MAX_PYTHON = 64 << 10
_CONSTANTS = {"true": True, "false": False, "null": None, "none": None}
_MARKS = re.compile(r'["\\{}\[\]]')


@dataclass(frozen=True)
class Call:
    """A call that a model made; ``arguments`` is JSON text."""

    name: str
    arguments: str
    id: str | None = None  # where the model writes one


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


def read_calls(row: ToolFormat, text: str, schemas: Mapping[str, Any]) -> list[Call] | None:
    """The calls that the text between the tags of a call holds."""
    try:
        if row.payload == "json":
            return _json_calls(row, text)
        if row.payload == "named":
            return _named(row, text)
        if row.payload == "tagged":
            return _tagged(row, text, schemas)
        if row.payload == "nested":
            return _nested(row, text, schemas)
        if row.payload == "quoted":
            return _quoted(text)
        return _pythonic(text)
    except (ValueError, RecursionError, MemoryError, OverflowError):
        return None


def loads(text: str) -> Any:
    """JSON without what JSON does not have.  Raises ValueError, RecursionError."""

    def refuse(name: str) -> Any:
        raise ValueError(name)

    def number(digits: str) -> float:
        value = float(digits)
        if not math.isfinite(value):
            raise ValueError(digits)
        return value

    return json.loads(text, parse_constant=refuse, parse_float=number)


def dumps(value: Any) -> str:
    """JSON as arguments are written."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)


def _json_calls(row: ToolFormat, text: str) -> list[Call] | None:
    text = text.strip()
    scan = JsonScan()
    end = scan.scan(text)
    if end is None or text[end:].strip(" \t\r\n}];,"):
        return None
    value = loads(text[:end])
    calls = [_json_call(row, item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call is not None] if calls and None not in calls else None


def _json_call(row: ToolFormat, item: Any) -> Call | None:
    if isinstance(item, dict) and isinstance(item.get("function"), dict):
        item = item["function"] | {k: v for k, v in item.items() if k in row.id_keys}
    if not isinstance(item, dict):
        return None
    name = next((item[key] for key in row.name_keys if key in item), None)
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
    name, found, rest = text.partition(row.name_end)
    rest = rest.strip()
    if rest.endswith("```"):
        rest = rest[:-3].rstrip()
    name, given = name_and_id(row, name, row.id_begin)
    if not found or not name:
        return None
    value = loads(rest) if rest else {}
    return [Call(name, dumps(value), given)] if isinstance(value, dict) else None


def name_and_id(row: ToolFormat, head: str, id_begin: str) -> tuple[str, str | None]:
    """Splits the text before a call's arguments into the name and, where the model has written one,
    the id.
    """
    name, given = head.strip(), None
    if id_begin and id_begin in name:
        name, _, given = (part.strip() for part in name.partition(id_begin))
    elif row.index_after_name and ":" in name:
        given, name = name, name.rpartition(":")[0]
    return name.removeprefix(row.name_prefix), given or None


def _tagged(row: ToolFormat, text: str, schemas: Mapping[str, Any]) -> list[Call] | None:
    text = text.strip()
    if row.name_prefix:
        if not text.startswith(row.name_prefix):
            return None
        text = text[len(row.name_prefix) :]
    if row.name_end:
        name, found, rest = text.partition(row.name_end)
        if not found:
            return None
    else:  # the name ends where the first parameter begins
        at = text.find(row.key_begin)
        name, rest = (text, "") if at < 0 else (text[:at], text[at:])
    name = name.partition('"')[0].strip() if row.name_attribute else name.strip()
    if not name or "<" in name or "\n" in name:
        return None
    properties = properties_of(schemas.get(name))
    arguments: dict[str, Any] = {}
    while (rest := rest.lstrip()).startswith(row.key_begin):
        key, found, rest = rest[len(row.key_begin) :].partition(row.key_end)
        if not found:
            return None
        if row.value_begin:
            rest = rest.lstrip()
            if not rest.startswith(row.value_begin):
                return None
            rest = rest[len(row.value_begin) :]
        value, found, rest = rest.partition(row.value_end)
        if not found:
            return None
        key, is_text = key_and_kind(row, key)
        arguments[key] = value_of(value, properties.get(key), is_text)
    if row.function_end:
        rest = rest.removeprefix(row.function_end)
    return None if rest.strip() else [Call(name, dumps(arguments))]


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


def _nested(row: ToolFormat, text: str, schemas: Mapping[str, Any]) -> list[Call] | None:
    name, found, rest = text.partition(row.name_end)
    name = name.strip()
    if not found or not name or "<" in name:
        return None
    members, rest = _members(row.namespace, rest, schemas.get(name))
    if rest.strip() or members is None or isinstance(members, list):
        return None
    return [Call(name, dumps(members))]


def _members(namespace: str, text: str, schema: Any) -> tuple[Any, str]:
    """Returns (the elements that begin a text as an object, or a list where all are items; the text
    that follows).  Raises ValueError.
    """
    names: list[str] = []
    values: list[Any] = []
    opens = namespace + "<"
    properties = properties_of(schema)
    items = schema.get("items") if isinstance(schema, Mapping) else None
    while (text := text.lstrip()).startswith(opens) and not text.startswith(opens + "/"):
        name, found, rest = text[len(opens) :].partition(">")
        if not found or not name:
            raise ValueError("no tag")
        own = items if name == "item" and items is not None else properties.get(name)
        close = f"{opens}/{name}>"
        inner = rest.lstrip()
        is_open = inner.startswith(opens) and not inner.startswith(opens + "/")
        if is_open and not _may_be_text(own):
            value, rest = _members(namespace, inner, own)
            rest = rest.lstrip()
            if not rest.startswith(close):
                raise ValueError("not closed")
            rest = rest[len(close) :]
        else:
            content, found, rest = rest.partition(close)
            if not found:
                raise ValueError("not closed")
            value = _leaf(content, own)
        names.append(name)
        values.append(value)
        text = rest
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if names and set(names) == {"item"} and kind != "object" and "item" not in properties:
        return values, text
    return dict(zip(names, values)), text


def _may_be_text(schema: Any) -> bool:
    if not isinstance(schema, Mapping):
        return False
    kind = schema.get("type")
    if kind == "string" or (isinstance(kind, list) and "string" in kind):
        return True
    among = [*(schema.get("anyOf") or ()), *(schema.get("oneOf") or ())]
    return any(map(_may_be_text, among))


def _leaf(text: str, schema: Any) -> Any:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if not text.strip() and kind in ("array", "object"):
        return [] if kind == "array" else {}
    return value_of(text, schema, True if kind == "string" else None)


_QUOTE = '<|"|>'
_SCALAR = re.compile(r"[^,\[\]{}]+")
_BLANK = re.compile(r"\s*")


def _quoted(text: str) -> list[Call] | None:
    name, found, _ = text.partition("{")
    name = name.strip()
    if not found or not name or "<" in name:
        return None
    value, at = _quoted_value(text, text.index("{"))
    return [Call(name, dumps(value))] if not text[at:].strip() else None


def _quoted_value(text: str, at: int) -> tuple[Any, int]:
    """Returns (the value at that place, its end).  Raises ValueError."""
    at = _past(text, at)
    if text.startswith(_QUOTE, at):
        end = text.index(_QUOTE, at + len(_QUOTE))
        return text[at + len(_QUOTE) : end], end + len(_QUOTE)
    if text[at : at + 1] in ("{", "["):
        is_object = text[at] == "{"
        close = "}" if is_object else "]"
        members: dict[str, Any] = {}
        items: list[Any] = []
        at = _past(text, at + 1)
        while not text.startswith(close, at):
            key = ""
            if is_object:
                if text.startswith(_QUOTE, at):
                    key, at = _quoted_value(text, at)
                    at = text.index(":", at)
                else:
                    end = text.index(":", at)
                    key, at = text[at:end].strip(), end
                at += 1
            value, at = _quoted_value(text, at)
            members[key] = value
            items.append(value)
            at = _past(text, at)
            if text.startswith(",", at):
                at = _past(text, at + 1)
            elif not text.startswith(close, at):
                raise ValueError("no comma")
        return (members if is_object else items), at + 1
    found = _SCALAR.match(text, at)
    if found is None:
        raise ValueError("no value")
    return loads(found[0].strip()), found.end()


def _past(text: str, at: int) -> int:
    """The next place that is no blank."""
    found = _BLANK.match(text, at)
    return found.end() if found else at


def properties_of(schema: Any) -> Mapping[str, Any]:
    """Returns the properties of an object's schema, empty where it has none."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    return properties if isinstance(properties, Mapping) else {}


def value_of(text: str, schema: Any, is_text: bool | None = None) -> Any:
    """A value between tags: text as it is where the schema wants a string, else JSON where it is some.

    ``is_text``: what the model itself says of it.
    """
    if is_text:
        return text
    if text.startswith("\n") and text.endswith("\n"):
        text = text[1:-1]
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if kind == "string" and is_text is None:
        return text
    try:
        return loads(text.strip())
    except (ValueError, RecursionError):
        return text


def _pythonic(text: str) -> list[Call] | None:
    text = text.strip()
    if len(text) > _MAX_PYTHON:
        return None
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return None
    items = tree.elts if isinstance(tree, (ast.List, ast.Tuple)) else [tree]
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
