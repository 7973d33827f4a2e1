"""Changes to a finished GGUF file: its metadata, and how many files it lies in.  Weights are copied byte for byte."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hrun import _core
from hrun.chat_template import ChatTemplate
from hrun.errors import ArgumentError, Error, printable
from hrun.outputs import PartialFile, checked_output

from .data_file import DataFile
from .read_gguf import other_parts
from .source import Entry

TEMPLATE_KEY = "tokenizer.chat_template"
MAX_PARTS = 9999
# The file's layout or the decoders depend on these keys.
_FIXED = re.compile(r"general\.alignment|split\..*|hrun\.format\..*")
_INTEGERS = {f"{sign}{bits}": (sign, bits) for sign in "iu" for bits in (8, 16, 32, 64)}
_FLOATS = ("f32", "f64")


@dataclass
class Changes:
    """``set``: key -> text of its value.  ``remove``: keys.  ``template``: the chat template."""

    set: dict[str, str] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    template: str | None = None


@dataclass
class _Tensor:
    name: str
    shape: tuple[int, ...]
    format: str
    n_bytes: int
    offset: int
    data: DataFile


class Opened:
    """A file, or all files of a split model.  Raises ModelFileError."""

    def __init__(self, path: Path) -> None:
        self.path = path
        first = _core.GGUFFile(str(path))
        first.require_first_part()
        first.check_readable()
        self.metadata, self.types = first.metadata, first.metadata_types
        self.paths = [path, *other_parts(path, self.metadata)]
        self.tensors: list[_Tensor] = []
        for part in self.paths:
            file = first if part is path else _core.GGUFFile(str(part))
            data = DataFile(part, str(part))
            for t in file.tensors:
                row = (str(t.name), tuple(t.shape), t.format, t.n_bytes, t.offset)
                self.tensors.append(_Tensor(*row, data))
        self.runs = _runs(path)

    def entries(self, changes: Changes) -> list[Entry]:
        """The metadata after the changes, without that of a split.  Raises ArgumentError, ChatTemplateError."""
        wanted = dict(changes.set)
        if changes.template is not None:
            ChatTemplate(changes.template).render([{"role": "user", "content": "Hi"}])
            wanted[TEMPLATE_KEY] = json.dumps(changes.template)
        for key in [*wanted, *changes.remove]:
            if _FIXED.fullmatch(key):
                raise ArgumentError(f"{key} says how the file lies on disk; it cannot be changed")
        for key in changes.remove:
            if key not in self.metadata:
                raise ArgumentError(f"{self.path}: has no key '{printable(key)}'")
        out = []
        for key, old in self.metadata.items():
            if key in changes.remove or key.startswith("split.") or key == "general.alignment":
                continue
            if key in wanted:
                out.append(_entry(key, wanted.pop(key), self.types[key]))
            else:
                out.append(Entry(key, self.types[key], old))
        return out + [_entry(key, text, None) for key, text in wanted.items()]


def write_edited(source: Opened, output: Path, changes: Changes, in_place: bool = False) -> None:
    """One file with everything; an existing one is replaced in one step at the end.

    Raises ArgumentError, ModelFileError (the result would not load, where the source does), OSError.
    """
    entries = source.entries(changes)
    with PartialFile(output, () if in_place else source.paths) as partial:
        _write(partial.path, entries, source.tensors)
        if source.runs:
            try:
                _core.read_spec(str(partial.path))
            except Error as error:
                why = str(error).replace(str(partial.path), output.name)
                raise ArgumentError(f"not written, as it would not load: {why}") from None
        partial.finish()


def write_parts(source: Opened, prefix: Path, changes: Changes, part_bytes: int) -> list[Path]:
    """PREFIX-00001-of-0000N.gguf and so on, of at most ``part_bytes`` of weights each where no tensor alone is larger.

    The first has the metadata; names and keys are llama.cpp's.  Raises ArgumentError, OSError.
    """
    entries = source.entries(changes)
    groups = list(_grouped(source.tensors, part_bytes))
    if len(groups) > MAX_PARTS:
        raise ArgumentError(f"{len(groups)} parts; at most {MAX_PARTS}")
    n = len(groups)
    paths = [prefix.with_name(f"{prefix.name}-{i:05d}-of-{n:05d}.gguf") for i in range(1, n + 1)]
    for path in paths:
        checked_output(path, source.paths)
    with ExitStack() as stack:
        partials = [stack.enter_context(PartialFile(path, source.paths)) for path in paths]
        for i, (partial, tensors) in enumerate(zip(partials, groups)):
            split = [
                Entry("split.no", "u16", i),
                Entry("split.count", "u16", n),
                Entry("split.tensors.count", "i32", len(source.tensors)),
            ]
            _write(partial.path, [*(entries if i == 0 else []), *split], tensors)
        for partial in partials:
            partial.finish()
    return paths


def _grouped(tensors: Sequence[_Tensor], part_bytes: int) -> Iterator[list[_Tensor]]:
    group: list[_Tensor] = []
    size = 0
    for tensor in tensors:
        if group and size + tensor.n_bytes > part_bytes:
            yield group
            group, size = [], 0
        group.append(tensor)
        size += tensor.n_bytes
    yield group


def _write(path: Path, entries: Sequence[Entry], tensors: Sequence[_Tensor]) -> None:
    writer = _core.GGUFWriter(str(path))
    try:
        for entry in entries:
            writer.add(entry.key, entry.type, entry.value)
        for t in tensors:
            writer.add_tensor(t.name, list(t.shape), t.format)
        for t in tensors:
            writer.write_tensor(t.name, t.data.read(t.offset, (t.n_bytes,), np.uint8))
        writer.finish()
    except BaseException:
        writer.abort()
        raise


def _runs(path: Path) -> bool:
    try:
        _core.read_spec(str(path))
    except Error:
        return False
    return True


def _entry(key: str, text: str, kind: str | None) -> Entry:
    """A value from its text: of the type that the key has, else of one that fits."""
    if not re.fullmatch(r"[\x21-\x7e]{1,65535}", key):
        raise ArgumentError(f"'{printable(key)}' is no key: printable characters without spaces")
    if kind is not None and kind.startswith("array<"):
        inner = kind[6:-1]
        values = _json(key, text)
        if not isinstance(values, list):
            raise ArgumentError(
                f"{key}: expected a JSON list of {inner}, found '{printable(text)}'"
            )
        return Entry(key, kind, [_scalar(key, v, inner) for v in values])
    if kind is None:
        kind, value = _guessed(text)
        return Entry(key, kind, value)
    if kind == "string":
        quoted = key == TEMPLATE_KEY and text.startswith('"')
        return Entry(key, kind, str(_json(key, text)) if quoted else text)
    return Entry(key, kind, _scalar(key, _json(key, text), kind))


def _json(key: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ArgumentError(
            f"{key}: '{printable(text)}' is not of the type that the key has"
        ) from None


def _scalar(key: str, value: Any, kind: str) -> Any:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in _INTEGERS:
        sign, bits = kind[0], int(kind[1:])
        low, high = (0, 2**bits) if sign == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1))
        fits = number and isinstance(value, int) and low <= value < high
    elif kind in _FLOATS:
        fits = number and math.isfinite(value)
    else:
        fits = isinstance(value, bool if kind == "bool" else str)
    if not fits:
        raise ArgumentError(f"{key}: expected {kind}, found '{printable(str(value))}'")
    return float(value) if kind in _FLOATS else value


def _guessed(text: str) -> tuple[str, Any]:
    """Guesses the type and value of a new key: a JSON number, boolean or string, else the text
    itself.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return "string", text
    if isinstance(value, bool):
        return "bool", value
    if isinstance(value, int) and 0 <= value < 2**32:
        return "u32", value
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return "i64", value
    if isinstance(value, float) and math.isfinite(value):
        return "f32", value
    return ("string", value) if isinstance(value, str) else ("string", text)


def template_of(path: Path) -> str:
    """A chat template from a file.  Raises ArgumentError, OSError."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise ArgumentError(f"{path}: is not UTF-8") from None


__all__ = ["Changes", "Opened", "template_of", "write_edited", "write_parts"]
