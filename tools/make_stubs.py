"""Write python/hrun/_core.pyi, the types of the C++ extension, from the extension as it is built.

Usage: python tools/make_stubs.py, with the tree's python/ on PYTHONPATH.
"""

from __future__ import annotations

import re
from pathlib import Path

# A signature as the binding writes it -> the signature that is true.
TYPES = [
    (r"(def metadata\(self\)) -> object", r"\1 -> dict[str, Any]"),
    (r"(def metadata_types\(self\)) -> dict", r"\1 -> dict[str, str]"),
    (r"(def tensors\(self\)) -> list:", r"\1 -> list[TensorInfo]:"),
    (r"(def name\(self\)) -> object", r"\1 -> str | bytes"),  # bytes: not UTF-8
    (r"(def path\(self\)) -> object", r"\1 -> str"),
    (r"-> dict:", "-> dict[str, Any]:"),
    (r"-> list:", "-> list[Any]:"),
    (r"-> tuple:", "-> tuple[Any, ...]:"),
    (r"\*\*(\w+)\)", r"**\1: Any)"),
]

STUB = Path(__file__).resolve().parents[1] / "python" / "hrun" / "_core.pyi"


def made() -> str:
    """The text that the file should have."""
    from nanobind.stubgen import StubGen

    from hrun import _core

    generator = StubGen(_core, include_docstrings=False, quiet=True)
    generator.put(_core)
    text = generator.get()
    text = text.replace("from hrun._core import testing as testing\n", "")
    for pattern, better in TYPES:
        text = re.sub(pattern, better, text, flags=re.M)
    head = "# Made by tools/make_stubs.py.\nfrom types import ModuleType\nfrom typing import Any\n"
    return head + text.replace("\n\n\n", "\n\ntesting: ModuleType\n__version__: str\n\n", 1)


if __name__ == "__main__":
    STUB.write_text(made(), encoding="utf-8")
