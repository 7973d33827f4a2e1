"""Every error that hrun raises on purpose; all derive from :class:`Error`."""

from __future__ import annotations

from hrun._core import (
    ArgumentError,
    Cancelled,
    ContextOverflowError,
    ConversionError,
    DeviceError,
    Error,
    GenerationError,
    ModelFileError,
    OutOfMemoryError,
    QueueFullError,
    UnsupportedModelError,
)

__all__ = [
    "ArgumentError",
    "Cancelled",
    "ChatTemplateError",
    "ContextOverflowError",
    "ConversionError",
    "DeviceError",
    "Error",
    "GenerationError",
    "GrammarError",
    "ModelFileError",
    "OutOfMemoryError",
    "QueueFullError",
    "UnsupportedModelError",
    "printable",
]


class ChatTemplateError(Error):
    """The model's chat template is missing, malformed, refuses the messages, or exceeds its limits.

    ``line`` is the line of the template, counted from 1, or None where none is to blame.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(
            f"chat template, line {line}: {message}" if line else f"chat template: {message}"
        )
        self.line = line


class GrammarError(Error):
    """A JSON schema, regular expression or grammar that is malformed, or asks for what cannot be kept exactly."""


def printable(text: str, limit: int = 128) -> str:
    """Foreign text as it may be shown on a terminal: control characters escaped, at most ``limit`` characters."""
    cut = text if len(text) <= limit else text[:limit] + "..."
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in cut
    )
