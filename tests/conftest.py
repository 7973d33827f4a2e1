"""Fixtures for all tests: tiny models made on the spot, and the reference data beside the checkout."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tools"))

from make_tiny_models import TinyConfig, write_tiny_model  # noqa: E402

# A test run started in the background of a shell inherits "ignore SIGINT" and would hand it on to the commands that the
# tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """tiny_model(**fields of TinyConfig) -> path of a random Llama model; equal arguments give the same file."""
    folder = tmp_path_factory.mktemp("tiny-models")
    made: dict[str, Path] = {}

    def make(**fields: object) -> Path:
        config = TinyConfig(**fields)  # type: ignore[arg-type]
        key = repr(config)
        if key not in made:
            made[key] = write_tiny_model(folder / f"tiny-{len(made)}.gguf", config)
        return made[key]

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data beside the checkout; skips where it is absent."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"needs the reference data in {folder}")
    return folder
