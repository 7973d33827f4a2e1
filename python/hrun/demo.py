"""The model that comes with hrun."""

from __future__ import annotations

from pathlib import Path

from hrun.errors import ModelFileError


def demo_model_path() -> Path:
    """The GGUF file that comes with hrun: installed beside the package, or ``models/`` of a source tree.

    Raises ModelFileError if this installation has none.
    """
    package = Path(__file__).resolve().parent
    places = [package / "models" / "demo.gguf", package.parents[1] / "models" / "demo.gguf"]
    for place in places:
        if place.is_file():
            return place
    raise ModelFileError(
        f"this installation has no demo model (looked at {places[0]} and {places[1]}); name one with -m"
    )
