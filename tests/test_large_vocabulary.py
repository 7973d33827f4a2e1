"""Models of 262144 tokens: numbers that stay right, and memory and time that stay bounded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hrun

N_VOCAB = 262144
PACKAGE = Path(hrun.__file__).resolve().parents[1]
TEXT = "It was the best of times, it was the worst of times; and then the sea rose. "

MEASURED = """
import resource, sys
from importlib import import_module
code = import_module(sys.argv[1]).main(sys.argv[2:])
print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10)
sys.exit(code)
"""


def run_measured(module: str, *arguments: object) -> tuple[str, int]:
    """stdout of a command in a process of its own, and its peak memory in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, module, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, int(re.findall(r"peak (\d+)", done.stdout)[-1])


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    """Tied and of unit variance: its logits spread over more than 30 nats, as real ones do."""
    return tiny_model(n_layers=1, n_embd=32, n_vocab=N_VOCAB, n_ctx=2048, format="f32")


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT * 200)
    return path


def number(name: str, out: str) -> float:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(-?[\d.]+)", out, re.MULTILINE)
    assert found, out
    return float(found[1])


def test_a_model_is_no_distance_from_itself(model: Path, text: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.bin"
    flags = ["-m", model, "-t", 1, "--kl-divergence-base", base]
    out, _ = run_measured("hrun.cli.perplexity", *flags, "-f", text, "-c", 64, "--chunks", 2)
    written = re.search(r"PPL = ([\d.]+)", out)
    out, _ = run_measured("hrun.cli.perplexity", *flags, "--kl-divergence")
    for name in ("Mean    KLD", "Maximum KLD", "Minimum KLD", "Mean    Δp", "RMS Δp"):
        assert abs(number(name, out)) < 2e-6, name
    assert number("Same top p", out) == 100
    own, base_ppl = number("Mean PPL(Q)", out), number("Mean PPL(base)", out)
    assert own == pytest.approx(base_ppl, rel=1e-6)
    assert written and own == pytest.approx(float(written[1]), rel=1e-5)


def test_memory_of_perplexity_does_not_grow_with_the_context(
    model: Path, text: Path, tmp_path: Path
) -> None:
    """Four times 64 MiB of logits, in the core and out of it, and some arrays of 16 MiB."""
    peaks = {}
    for n_ctx in (8, 256, 1024):
        flags = ["-m", model, "-t", 1, "--kl-divergence-base", tmp_path / "base.bin"]
        _, written = run_measured(
            "hrun.cli.perplexity", *flags, "-f", text, "-c", n_ctx, "--chunks", 1
        )
        _, compared = run_measured("hrun.cli.perplexity", *flags, "--kl-divergence")
        peaks[n_ctx] = max(written, compared)
    assert peaks[256] - peaks[8] < 400 << 20, peaks
    assert peaks[1024] - peaks[256] < 64 << 20, peaks
