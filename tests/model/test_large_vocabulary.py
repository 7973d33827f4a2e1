"""Models of 262144 tokens: numbers that stay right, and memory and time that stay bounded."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import hrun
from hrun.control_tokens import ControlTokens

pytestmark = pytest.mark.slow

N_VOCAB = 262144
PACKAGE = Path(hrun.__file__).resolve().parents[1]
TEXT = "It was the best of times, it was the worst of times; and then the sea rose. "

# Not getrusage(): its maximum outlives exec(), so that a child would report the test runner's.
PEAK = """
import sys
from pathlib import Path
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
"""
MEASURED = (
    PEAK
    + """
from importlib import import_module
code = import_module(sys.argv[1]).main(sys.argv[2:])
print("peak", peak())
sys.exit(code)
"""
)


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
    """The model is tied and of unit variance: its logits spread over more than 30 nats, as real
    ones do.
    """
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
    """The bound is four times 64 MiB of logits, in the core and out of it, and some arrays of 16
    MiB.
    """
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


def run_script(script: str, *arguments: object) -> list[int]:
    """The numbers that a script prints, run in a process of its own; it has `peak()`, the memory so far in bytes."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK + script, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [int(word) for word in done.stdout.split()]


def test_memory_of_the_allocation_does_not_grow_with_its_text(model: Path, tmp_path: Path) -> None:
    """Two chunks of 512 tokens are 1 GiB of logits."""
    script = """
from hrun import _core
from hrun.convert import PlanOptions, open_source
from hrun.convert.loss_meter import LossMeter
from hrun.convert.parts import PartFile
path, folder = map(Path, sys.argv[1:])
name = "blk.0.attn_q.weight"
tensor = next(t for t in _core.GGUFFile(str(path)).tensors if t.name == name)
values = _core.decode(tensor.format, tensor.data, tensor.shape[1], tensor.shape[0])
_core.Session(_core.Model.load(str(path)), 512).forward([1] * 64, "all")
before = peak()
for change in ([values[:8], values[8:]], [0 * values], [values]):
    file = PartFile(open_source(path), folder / "measured.gguf", PlanOptions("f32", pure=True))
    texts = [[(i * 7919 + j) % 262144 for i in range(512)] for j in (1, 2)]
    print(round(1e9 * LossMeter(file, texts, folder).losses([name], lambda _: ("", change))[name].loss))
    for left in [*folder.glob("whole-*"), *folder.glob("variants-*"), *folder.glob("changed-*")]:
        left.unlink()
print(before, peak())
"""
    same, other, again, before, after = run_script(script, model, tmp_path)
    assert same == again == 0 and other > 1e6
    assert after - before < 300 << 20, (before, after)


def test_memory_of_a_reports_comparison(model: Path, text: Path, tmp_path: Path) -> None:
    script = """
from hrun.convert import open_source
from hrun.convert.report import compare
path, text, folder = map(Path, sys.argv[1:])
found = compare(open_source(path), path, text, folder, max_chunks=1)
print(found.n_tokens, round(1e9 * found.divergence.max()), round(found.same_top), peak())
"""
    n_tokens, largest, same_top, peak = run_script(script, model, text, tmp_path)
    assert n_tokens == 255 and abs(largest) < 1000 and same_top == 1
    assert peak < 1 << 30, peak


def test_memory_of_calibration_text(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    """If the text were encoded whole, 8 MiB of it would take more than a gigabyte."""
    path = tmp_path / "long.txt"
    path.write_text(TEXT * (8 * 1024 * 1024 // len(TEXT)))
    script = """
from hrun.convert.calibrate import Calibration, calibration_tokens
given = Calibration(Path(sys.argv[2]))
for wanted in (65536, 1 << 18, 0):
    tokens, _ = calibration_tokens(given, Path(sys.argv[1]), wanted)
    print(len(tokens), peak())
"""
    few, small, more, larger, every, largest = run_script(script, tiny_model(), path)
    assert few == 65536 and more == 1 << 18 and every > 3 << 20
    assert small < 300 << 20 and larger < 400 << 20 and largest < 500 << 20


def test_many_messages_and_many_control_tokens() -> None:
    """Gemma 3 has 6249 control tokens, most of which begin alike; 201 messages took two seconds."""
    names = {f"<unused{i}>": i for i in range(6242)} | {"<start_of_turn>": 7000, "<eos>": 7001}
    control = ControlTokens(names)
    pattern = re.compile("|".join(map(re.escape, sorted(names, key=len, reverse=True))))
    random = Random(5)
    parts = [*random.sample(list(names), 40), "<", "un", ">", " ", "used", "\ufdd0", "1", "<div>"]
    for _ in range(300):
        text = "".join(random.choices(parts, k=30))
        want = [(m.start(), m.end(), names[m.group()]) for m in pattern.finditer(text)]
        assert list(control.find(text)) == want
        guarded = re.compile(f"(?<!\ufdd0)(?:{pattern.pattern})")
        want = [(m.start(), m.end(), names[m.group()]) for m in guarded.finditer(text)]
        assert list(control.find(text, "\ufdd0")) == want
        assert (
            list(control.find(control.guarded(text.replace("\ufdd0", ""), "\ufdd0"), "\ufdd0"))
            == []
        )
    assert list(ControlTokens({}).find("<eos>")) == []
    seconds = []
    for _ in range(3):
        start = time.process_time()
        for _ in range(400):
            control.guarded("hello there", "\ufdd0")
        control.guarded("<div><p>x</p></div>\n" * 10000, "\ufdd0")
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2, seconds
