"""Tables that are only looked up: large ones stay on the host, and a pass brings the rows that it needs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from hrun import _core

pytestmark = pytest.mark.usefixtures("emulated_cuda")
IDS = [5, 9, 3, 7, 11, 2, 60, 31, 5, 80]


def check(path: Path, monkeypatch: pytest.MonkeyPatch, log: Path) -> None:
    """Compares tokens from graphs, and prompts of few and many tokens, with passes that are not recorded."""

    def logits(graphs: str) -> np.ndarray:
        monkeypatch.setenv("HRUN_CUDA_GRAPHS", graphs)
        session = _core.Session(_core.Model.load(str(path), device="cuda"), 128)
        rows = [session.forward(IDS * 2, "all"), session.forward(IDS[:3], "all")]
        return np.concatenate(rows + [session.forward([i], "last") for i in IDS])

    eager = logits("0")
    monkeypatch.setenv("HRUN_EMULATED_LOG", str(log))
    recorded = logits("1")
    assert " graph\n" in log.read_text()
    assert recorded.tobytes() == eager.tobytes()
    session = _core.Session(_core.Model.load(str(path), device="cpu"), 128)
    on_cpu = session.forward(IDS * 2, "all")
    assert np.abs(recorded[: len(IDS) * 2] - on_cpu).max() < 5e-3 * np.abs(on_cpu).max()


def test_an_embedding_beside_its_head(
    tiny_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tiny_model(tied=False, n_vocab=2400, n_embd=512, n_ff=256, n_layers=1, format="q8_0")
    check(path, monkeypatch, tmp_path / "log")


@pytest.mark.slow
def test_vectors_of_each_layer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    from hrun.convert import PlanOptions, make_plan, open_source, write_plan
    from tiny_transformers import write_checkpoint

    write_checkpoint("gemma4, small", tmp_path / "hf", hidden_size_per_layer_input=1600)
    plan = make_plan(open_source(tmp_path / "hf"), PlanOptions("f16"))
    write_plan(plan, tmp_path / "out.gguf")
    check(tmp_path / "out.gguf", monkeypatch, tmp_path / "log")
