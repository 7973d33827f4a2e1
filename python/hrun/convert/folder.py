"""Reading the files of an untrusted model folder: plain names only, bounded sizes, JSON only, nothing executed."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

from hrun.errors import ModelFileError, UnsupportedModelError

PICKLE_SENTENCE = (
    "pickle files can run any code when they are read, so hrun does not open them; use safetensors"
)
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def shown(text: object, limit: int = 120) -> str:
    """Text from a file as it may be shown on a terminal: control characters escaped, cut at `limit` characters."""
    out = "".join(
        c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode()
        for c in str(text)
    )
    return out if len(out) <= limit else out[: limit - 1] + "…"


class ModelFolder:
    """A Hugging Face folder.  Every file is named by a plain file name and must lie inside it.

    Links inside the folder are followed if they end in the folder, or in the `blobs` folder beside `snapshots` when the
    folder is a snapshot of the Hugging Face cache (there, every file is such a link).
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        root = path.resolve()
        self._roots = [root]
        if root.parent.name == "snapshots":
            self._roots.append(root.parent.parent / "blobs")

    def has(self, name: str) -> bool:
        return os.path.lexists(self.path / name)

    def names(self) -> list[str]:
        return sorted(entry.name for entry in os.scandir(self.path))

    def file(self, name: object, named_by: str = "") -> Path:
        """The path of a regular file of the folder.

        `named_by` says which file gave the name, for messages.  Raises ModelFileError for names that are not plain, that
        leave the folder, or that are missing or not regular files.
        """
        where = f"{self.path}: " + (f"{named_by}: " if named_by else "")
        if not isinstance(name, str):
            raise ModelFileError(f"{where}a file name must be a string, found {shown(repr(name))}")
        if (
            not name
            or name in (".", "..")
            or any(c in name for c in "/\\\0:")
            or len(os.fsencode(name)) > 255
            or not name.isprintable()
        ):
            raise ModelFileError(
                f"{where}file name '{shown(name)}' is not a plain file name inside the model folder"
            )
        path = self.path / name
        try:
            resolved = path.resolve(strict=True)
            status = resolved.stat()
        except (OSError, RuntimeError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise ModelFileError(f"{where}file '{shown(name)}' cannot be read: {reason}") from None
        if not any(resolved.is_relative_to(root) for root in self._roots):
            raise ModelFileError(
                f"{where}file '{shown(name)}' is a link that leaves the model folder"
            )
        if not stat.S_ISREG(status.st_mode):
            raise ModelFileError(f"{where}'{shown(name)}' is not a regular file")
        return resolved

    def pickles(self) -> list[str]:
        return [name for name in self.names() if name.lower().endswith(_PICKLE_SUFFIXES)]

    def read_text(self, name: str, limit_bytes: int) -> str:
        """The UTF-8 text of a file of at most `limit_bytes` bytes."""
        path = self.file(name)
        with open(path, "rb") as handle:
            data = handle.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise ModelFileError(
                f"{self.path / name}: larger than the limit of {limit_bytes} bytes"
            )
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError as error:
            if looks_like_pickle(data):
                raise UnsupportedModelError(
                    f"{self.path / name}: not text but a pickle; {PICKLE_SENTENCE}"
                ) from None
            raise ModelFileError(f"{self.path / name}: not UTF-8 at byte {error.start}") from None

    def read_json(self, name: str, limit_bytes: int) -> dict[str, Any]:
        """A JSON object; duplicate keys, other top-level types and nesting beyond Python's limit are errors."""
        return parse_json_object(self.read_text(name, limit_bytes), str(self.path / name))

    def read_json_if_present(self, name: str, limit_bytes: int) -> dict[str, Any]:
        return self.read_json(name, limit_bytes) if self.has(name) else {}


def parse_json_object(text: str, path: str) -> dict[str, Any]:
    """The JSON object in `text`; errors name `path` and, where known, the line.  Raises ModelFileError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        out = dict(pairs)
        if len(out) != len(pairs):
            keys = [key for key, _ in pairs]
            twice = next(key for i, key in enumerate(keys) if key in keys[:i])
            raise ModelFileError(f"{path}: key '{shown(twice)}' appears twice in one object")
        return out

    try:
        value = json.loads(text, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise ModelFileError(
            f"{path}: not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise ModelFileError(f"{path}: JSON nested too deeply") from None
    except ValueError as error:  # integers of thousands of digits
        raise ModelFileError(f"{path}: not usable JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFileError(f"{path}: expected a JSON object, found {json_type(value)}")
    return value


def json_type(value: object) -> str:
    """The JSON name of a parsed value's type, for messages."""
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "an integer",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names.get(type(value), type(value).__name__)


def looks_like_pickle(head: bytes) -> bool:
    """A zip archive (PyTorch's container) or a bare pickle of protocol 2 to 5."""
    return head.startswith(b"PK\x03\x04") or (
        len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5
    )
