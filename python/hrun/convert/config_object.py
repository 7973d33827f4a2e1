"""Typed access to the JSON objects of a model folder."""

from __future__ import annotations

import math
from typing import Any

from hrun.errors import ModelFileError

from .folder import json_type, shown

_MAX_INT = 2**31 - 1


class ConfigObject:
    """Typed access to one JSON object; every error names the file and the key.  null counts as absent."""

    def __init__(self, path: str, values: dict[str, Any], prefix: str = "") -> None:
        self.path = path
        self.values = values
        self._prefix = prefix

    def error(self, key: str, wanted: str) -> ModelFileError:
        value = self.values.get(key)
        found = (
            json_type(value)
            if isinstance(value, (dict, list)) or value is None
            else f"{json_type(value)}: {shown(repr(value), 60)}"
        )
        return ModelFileError(f"{self.path}: '{self._prefix}{key}' must be {wanted}, found {found}")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def first_of(self, keys: str) -> str:
        """The first of the keys in `a|b|c` that is there, or the first."""
        names = keys.split("|")
        return next((name for name in names if self.has(name)), names[0])

    def integer(
        self, key: str, default: int | None = None, low: int = 1, high: int = _MAX_INT
    ) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise ModelFileError(f"{self.path}: '{self._prefix}{key}' is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"an integer from {low} to {high}")
        return value

    def number(
        self,
        key: str,
        default: float | None = None,
        low: float = 0.0,
        exclusive: bool = True,
        high: float = 1e6,
    ) -> float:
        """A finite number above `low` (or equal to it unless `exclusive`), at most `high`."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise ModelFileError(f"{self.path}: '{self._prefix}{key}' is missing")
        wanted = f"a finite number {'above' if exclusive else 'of at least'} {low:g} and at most {high:g}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, wanted)
        try:
            number = float(value)
        except OverflowError:
            raise self.error(key, wanted) from None
        if (
            not math.isfinite(number)
            or number > high
            or number < low
            or (exclusive and number == low)
        ):
            raise self.error(key, wanted)
        return number

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise ModelFileError(f"{self.path}: '{self._prefix}{key}' is missing")
        if not isinstance(value, str):
            raise self.error(key, "a string")
        return value

    def child(self, key: str) -> ConfigObject | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, "an object")
        return ConfigObject(self.path, value, f"{self._prefix}{key}.")
