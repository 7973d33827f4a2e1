"""Every architecture against transformers: a tiny random checkpoint, converted to F32, gives the same logits.

64 tokens in one pass, in pieces, and step by step; the pieces of the numeric contract bit for bit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_encoders import ENCODERS
from tiny_transformers import N_VOCAB, TINY, write_checkpoint

pytestmark = pytest.mark.slow

TIERS = [t.name for t in _core.cpu_tiers() if t.available]


def test_every_architecture_has_a_model() -> None:
    """The tests of encoders are in test_oracle_encoders.py."""
    made = {tiny.architecture for tiny in [*TINY.values(), *ENCODERS.values()]}
    assert made == {a.name for a in _core.architectures()}


def logits(model: _core.Model, ids: list[int], chunk: int) -> np.ndarray:
    return _core.Session(model, len(ids), type_k="f32", type_v="f32", n_batch=chunk).forward(
        ids, "all"
    )


@pytest.mark.parametrize("name", TINY)
def test_logits_equal_transformers(name: str, tmp_path: Path, emulated_cuda: None) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    model = write_checkpoint(name, tmp_path / "hf")
    ids = np.random.default_rng(5).integers(0, N_VOCAB, 64).tolist()
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].float().numpy()
    write_plan(make_plan(open_source(tmp_path / "hf"), PlanOptions("f32")), tmp_path / "out.gguf")
    assert _core.read_spec(str(tmp_path / "out.gguf")).architecture == TINY[name].architecture
    loaded = _core.Model.load(str(tmp_path / "out.gguf"))
    got = logits(loaded, ids, 64)
    assert expected.std() > 0.1
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-4)
    for chunk in (1, 7):
        assert np.array_equal(logits(loaded, ids, chunk), got), chunk
    # The same on the CUDA backend, its kernels run on the CPU: every operation that an architecture needs.
    on_cuda = logits(_core.Model.load(str(tmp_path / "out.gguf"), device="cuda"), ids, 39)
    assert np.abs(on_cuda - got).max() < 1e-4 * np.abs(got).max()
    for tier in TIERS[:-1]:
        assert np.array_equal(
            logits(
                _core.Model.load(str(tmp_path / "out.gguf"), cpu_tier=tier, n_threads=2), ids, 64
            ),
            got,
        ), tier


def test_readme_lists_the_architectures() -> None:
    from architecture_table import table

    readme = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    assert table() in readme, "python tests/oracles/architecture_table.py makes the table"
