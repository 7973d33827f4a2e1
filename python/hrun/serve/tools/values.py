"""Values of arguments, between the ways in which families write them and JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


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


def kind_of(schema: Any) -> Any:
    """Returns a schema's type, None where it has none."""
    return schema.get("type") if isinstance(schema, Mapping) else None


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
    if kind_of(schema) == "string" and is_text is None:
        return text
    try:
        return loads(text.strip())
    except (ValueError, RecursionError):
        return text
