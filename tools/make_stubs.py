"""Write python/hrun/_core.pyi, the types of the C++ extension, from the extension as it is built.

Usage: python tools/make_stubs.py, with the tree's python/ on PYTHONPATH.
"""

from __future__ import annotations

from pathlib import Path

STUB = Path(__file__).resolve().parents[1] / "python" / "hrun" / "_core.pyi"


def made() -> str:
    """The text that the file should have."""
    from nanobind.stubgen import StubGen

    from hrun import _core

    generator = StubGen(_core, include_docstrings=False, quiet=True)
    generator.put(_core)
    text = generator.get()
    text = text.replace("from hrun._core import testing as testing\n", "")
    head = "# Made by tools/make_stubs.py.\nfrom types import ModuleType\n"
    return head + text.replace("\n\n\n", "\n\ntesting: ModuleType\n__version__: str\n\n", 1)


if __name__ == "__main__":
    STUB.write_text(made(), encoding="utf-8")
