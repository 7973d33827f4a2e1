"""Encoders on the emulated CUDA backend: the CPU's vectors up to rounding, and the same bits in any company."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hrun import Runtime, _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_encoders import ENCODERS, N_VOCAB, TEXT, write_encoder, write_plain_bert

pytestmark = pytest.mark.usefixtures("emulated_cuda")


def converted(folder: Path) -> Path:
    out = folder.parent / "model.gguf"
    write_plan(make_plan(open_source(folder), PlanOptions("f32")), out)
    return out


def texts_of(lengths: tuple[int, ...]) -> list[list[int]]:
    rng = np.random.default_rng(5)
    return [rng.integers(5, N_VOCAB, n).tolist() for n in lengths]


def check_as_cpu(path: Path, texts: list[list[int]]) -> list[np.ndarray]:
    """Compares the states of all tokens; returns those of the device."""
    cpu = _core.Encoder(_core.Model.load(str(path), device="cpu"))
    device = _core.Encoder(_core.Model.load(str(path), device="cuda"))
    got = device.encode(texts, "none")
    for a, b in zip(got, cpu.encode(texts, "none")):
        assert np.abs(a - b).max() < 1e-5 * np.abs(b).max()
    return got


def test_a_text_has_the_cpus_vectors_and_its_own_bits(tmp_path: Path) -> None:
    path = converted(write_plain_bert(tmp_path / "hf"))
    texts = texts_of((1, 7, 16, 17, 128, 40))
    together = check_as_cpu(path, texts)
    encoder = _core.Encoder(_core.Model.load(str(path), device="cuda"), n_batch=20)
    for text, states in zip(texts, together):
        assert np.array_equal(encoder.encode([text], "none")[0], states)
    for text, states in zip(texts[::-1], encoder.encode(texts[::-1], "cls")):
        assert np.array_equal(states[0], together[texts.index(text)][0])


def test_scores_of_a_reranker(tmp_path: Path) -> None:
    path = converted(write_plain_bert(tmp_path / "hf", classes=1))
    with Runtime(path, device="cuda") as device, Runtime(path, device="cpu") as cpu:
        assert "CUDA0" in device.description
        np.testing.assert_allclose(
            device.rerank(TEXT[0], TEXT), cpu.rerank(TEXT[0], TEXT), atol=1e-5
        )


@pytest.mark.slow
@pytest.mark.parametrize("name", ENCODERS)
def test_every_encoder(name: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    write_encoder(name, tmp_path / "hf")
    check_as_cpu(converted(tmp_path / "hf"), texts_of((1, 7, 64, 65, 130)))
