"""Messages of a chat: what they may be, and how control tokens inside them stay text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hrun.errors import ArgumentError


def check_messages(messages: Any) -> None:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise ArgumentError(
            f"messages must be a list of {{'role': ..., 'content': ...}}, got {type(messages).__name__}"
        )
    if not messages:
        raise ArgumentError("messages is empty")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise ArgumentError(
                f"messages[{i}] must be a mapping with 'role' and 'content', got {type(message).__name__}"
            )
        if not isinstance(message.get("role"), str):
            raise ArgumentError(
                f"messages[{i}]['role'] must be a string, got {type(message.get('role')).__name__}"
            )
        content = message.get("content")
        if content is not None and not isinstance(content, (str, list, tuple)):
            raise ArgumentError(
                f"messages[{i}]['content'] must be a string or a list of parts, got {type(content).__name__}"
            )

        for j, part in enumerate(content if isinstance(content, (list, tuple)) else ()):
            kind = part.get("type") if isinstance(part, Mapping) else None
            if isinstance(kind, str) and _NO_TEXT.fullmatch(kind):
                raise ArgumentError(
                    f"messages[{i}]['content'][{j}] is of type '{kind}'; hrun reads text only"
                )


# Parts of the chat interfaces of OpenAI and transformers that are no text.
_NO_TEXT = re.compile(r"(input_)?(image|audio|video|file)(_url|_file)?|document")


def mapped(value: Any, change: Any, depth: int = 0) -> Any:
    """The JSON value with every string changed, keys excepted."""
    if depth > 200:
        raise ArgumentError("messages are nested more than 200 levels deep, or contain themselves")
    if isinstance(value, str):
        return change(value)
    if isinstance(value, Mapping):
        return {k: mapped(v, change, depth + 1) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [mapped(v, change, depth + 1) for v in value]
    return value


def unused_character(messages: Any, template: str) -> str:
    """A character that occurs neither in the messages nor in the template; from those that Unicode assigns to nobody."""
    seen: set[str] = set(template)
    mapped(list(messages), lambda text: seen.update(text))
    candidates = [*map(chr, range(0xFDD0, 0xFDF0)), *map(chr, range(0xF0000, 0xFFFFE))]
    return next(c for c in candidates if c not in seen)
