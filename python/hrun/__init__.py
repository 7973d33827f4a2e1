"""hrun: language models in rotated low-bit formats, on one's own machine.

    from hrun import Runtime
    with Runtime("model.gguf") as rt:
        print(rt.generate("Once upon a time", max_tokens=64, seed=1).text)

Importing the package loads the C++ core only; numpy, the tokenizer and the rest come with their first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hrun._core import __version__
from hrun.demo import demo_model_path
from hrun.errors import (
    ArgumentError,
    Cancelled,
    ChatTemplateError,
    ContextOverflowError,
    ConversionError,
    DeviceError,
    Error,
    GenerationError,
    GrammarError,
    ModelFileError,
    OutOfMemoryError,
    QueueFullError,
    UnsupportedModelError,
)

if TYPE_CHECKING:
    from hrun.generation import Generation, Piece, Timings, TokenLogprob
    from hrun.runtime import Runtime
    from hrun.tokenizer import Tokenizer

_LAZY = {
    "Generation": "hrun.generation",
    "Piece": "hrun.generation",
    "Runtime": "hrun.runtime",
    "Timings": "hrun.generation",
    "TokenLogprob": "hrun.generation",
    "Tokenizer": "hrun.tokenizer",
}

__all__ = [
    "ArgumentError",
    "Cancelled",
    "ChatTemplateError",
    "ContextOverflowError",
    "ConversionError",
    "DeviceError",
    "Error",
    "Generation",
    "GenerationError",
    "GrammarError",
    "ModelFileError",
    "OutOfMemoryError",
    "Piece",
    "QueueFullError",
    "Runtime",
    "Timings",
    "TokenLogprob",
    "Tokenizer",
    "UnsupportedModelError",
    "__version__",
    "demo_model_path",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'hrun' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
