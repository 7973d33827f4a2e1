"""One server with a tiny model for all tests that do not need their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hrun import Runtime
from live import Live, ScriptedEngine

N_CTX = 512


@pytest.fixture(scope="session")
def serve_path(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tied=False, n_ctx=N_CTX, n_vocab=400)


@pytest.fixture(scope="session")
def live(serve_path: Path) -> Iterator[Live]:
    runtime = Runtime(serve_path, n_ctx=N_CTX, kv_tokens=4 * N_CTX, n_threads=1)
    with Live(runtime, aliases=("tiny",), embeddings_pooling="last") as server:
        yield server


@pytest.fixture
def scripted(serve_path: Path) -> Iterator[tuple[Live, ScriptedEngine]]:
    """A server whose model says what the test sets as ``engine.script``."""
    runtime = Runtime(serve_path, n_ctx=N_CTX, n_threads=1)
    engine = ScriptedEngine(runtime, lambda prompt: "Hello, world.")
    with Live(runtime, ping_seconds=0.05) as server:
        yield server, engine
