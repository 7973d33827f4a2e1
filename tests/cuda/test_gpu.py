"""The CUDA backend on a real device: `python -m pytest -m gpu`.  Without one, every test skips and says so."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import EMULATED

from hrun import Runtime, _core
from hrun.errors import OutOfMemoryError

pytestmark = pytest.mark.gpu
WIDE = {"n_embd": 512, "n_ff": 1024, "n_ctx": 1024, "n_heads": 8, "n_kv_heads": 2}
IDS = np.random.default_rng(3).integers(0, 96, 300).tolist()
FORMATS = [f.name for f in _core.formats() if f.encodable]
PROMPTS = (
    "Once upon a time", "The sea was", "It was a dark night", "My dear sir,", "In the year 1812", "He opened the door and",
    "She looked at him", "The old man", "Whoever wants to travel", "There are three reasons", "A letter came from", "On the table lay",
    "The captain said", "Winter had come", "I do not believe", "Nobody knew why", "The first thing that", "At the end of the street",
    "When the war was over", "The question is",
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def gpu() -> None:
    """Skips where the CUDA backend finds no device, or only its emulation."""
    if Path(os.environ.get("HRUN_CUDA_LIBRARY", "")) == EMULATED:
        pytest.skip("needs a GPU, and a run of its own: python -m pytest -m gpu")
    devices, reason = _core.devices()
    if not devices[0].name.startswith("CUDA"):
        pytest.skip(f"no GPU: {reason}")


def logits(path: Path, ids: list[int], chunk: int = 512, **options: object) -> np.ndarray:
    return _core.Session(_core.Model.load(str(path), **options), 1024, n_batch=chunk).forward(
        ids, "all"
    )


@pytest.mark.parametrize("name", FORMATS)
def test_logits_are_those_of_the_cpu(name: str, tiny_model) -> None:
    """They agree to 1e-3 of the largest, but for the few tokens in which an activation fell to the
    other side of a rounding.
    """
    path = tiny_model(format=name, **WIDE)
    expected = logits(path, IDS, device="cpu")
    for chunk in (1, 7, 64, 300):
        error = np.abs(
            logits(path, IDS[:64] if chunk < 64 else IDS, chunk, device="cuda")
            - expected[: 64 if chunk < 64 else 300]
        ).max(axis=1)
        error /= np.abs(expected).max()
        assert np.median(error) < 1e-3 and error.max() < 1e-2, (
            chunk,
            np.median(error),
            error.max(),
        )


@pytest.mark.parametrize("rotation", ["weight", "activation-float"])
@pytest.mark.parametrize("name", ["itq3_s", "rtq2", "rtq3", "rtq4", "rtq5", "rtq6"])
def test_other_ways_with_rotated_formats(name: str, rotation: str, tiny_model) -> None:
    path = tiny_model(format=name, **WIDE)
    got, expected = (logits(path, IDS, device=d, rotated_matmul=rotation) for d in ("cuda", "cpu"))
    assert np.abs(got - expected).max() / np.abs(expected).max() < 3e-3


def test_the_demo_model() -> None:
    """Logits within 1e-3, and the same greedy text for twenty prompts."""
    with Runtime(device="cpu") as cpu, Runtime(device="cuda") as cuda:
        ids = cpu.tokenize(" ".join(PROMPTS))
        expected = cpu.logits(ids)
        assert np.abs(cuda.logits(ids) - expected).max() / np.abs(expected).max() < 1e-3
        for prompt in PROMPTS:
            texts = [r.generate(prompt, max_tokens=64, temperature=0).text for r in (cpu, cuda)]
            assert texts[0] == texts[1], prompt


def test_run_to_run_the_same_bits(tiny_model) -> None:
    path = tiny_model(format="rtq3", **WIDE)
    first = logits(path, IDS, device="cuda")
    for _ in range(3):
        assert np.array_equal(logits(path, IDS, device="cuda"), first)


def test_graphs_change_nothing(tiny_model, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tiny_model(format="rtq3", **WIDE)
    recorded = logits(path, IDS, 1, device="cuda")
    monkeypatch.setenv("HRUN_CUDA_GRAPHS", "0")
    assert np.array_equal(logits(path, IDS, 1, device="cuda"), recorded)


def test_layers_on_both(tiny_model) -> None:
    path = tiny_model(format="rtq3", n_layers=3, **WIDE)
    expected = logits(path, IDS, device="cpu")
    for n in range(5):
        error = (
            np.abs(logits(path, IDS, device="cuda", n_gpu_layers=n) - expected).max(axis=1)
            / np.abs(expected).max()
        )
        assert np.median(error) < 1e-3, n


def test_out_of_memory_leaves_the_process_alive(tiny_model) -> None:
    model = _core.Model.load(str(tiny_model(**WIDE)), device="cuda")
    with pytest.raises(OutOfMemoryError, match="MiB free"):
        _core.Session(model, 1 << 30, type_k="f32", type_v="f32")
    assert np.isfinite(_core.Session(model, 64).forward(IDS[:9], "last")).all()


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_compute_sanitizer_is_clean(tool: str, tiny_model) -> None:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        pytest.skip("compute-sanitizer is not installed")
    code = (
        "import json, sys; from hrun import _core\n"
        "for path in json.loads(sys.argv[1]):\n"
        "  s = _core.Session(_core.Model.load(path, device='cuda'), 512)\n"
        "  s.forward(list(range(90)), 'all'); [s.forward([i], 'last') for i in range(5)]\n"
        "  sampler = _core.Sampler(seed=1); [s.next([i], sampler) for i in range(3)]\n"
    )
    paths = [
        str(tiny_model(format=name, **WIDE))
        for name in ("rtq3", "rtq2", "itq3_s", "q4_k", "q6_k", "q8_0", "f16")
    ]
    done = subprocess.run(
        [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-c", code, json.dumps(paths)],
        env={**os.environ, "HRUN_CUDA_GRAPHS": "0"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
