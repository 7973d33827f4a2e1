"""The measuring scripts under tools/bench run and print what they promise."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest

from hrun import _core

pytestmark = pytest.mark.slow

BENCH = Path(__file__).resolve().parents[2] / "tools/bench"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, BENCH / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def test_kernels(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    tier = [t.name for t in _core.cpu_tiers() if t.available][-1]
    script("kernels").main(
        [
            "--formats",
            "rtq3",
            "q8_0",
            "--tiers",
            tier,
            "--shapes",
            "64x256",
            "--tokens",
            "1",
            "9",
            "-t",
            "1",
            "--megabytes",
            "1",
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert "µs" in lines[0] and len(lines) == 3 + 4
    for line in lines[3:]:
        cells = [c.strip() for c in line.strip("|").split("|")]
        assert (
            cells[:3] in (["rtq3", tier, "64x256"], ["q8_0", tier, "64x256"])
            and float(cells[5]) > 0
            and float(cells[7]) > 0
        )


def test_a_loop_over_all_threads_is_cheap() -> None:
    """The bar is 5 microseconds on idle cores; here anything that is no sleep and wake-up passes."""
    assert 0 < _core.testing.barrier_seconds(1) < 2e-4
    assert 0 < _core.testing.barrier_seconds(_core.default_thread_count()) < 5e-3


def test_gpu_kernels(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, emulated_cuda: None
) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    script("gpu_kernels").main(
        [
            "--formats",
            "rtq3",
            "q8_0",
            "--shapes",
            "64x256",
            "--tokens",
            "1",
            "17",
            "--rotations",
            "activation",
            "weight",
            "--megabytes",
            "0",
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert "GB/s copied" in lines[0] and len(lines) == 4 + 4 + 2
    for line in lines[4:]:
        cells = [c.strip() for c in line.strip("|").split("|")]
        assert cells[0] in ("rtq3", "q8_0") and cells[2] == "64x256" and float(cells[4]) > 0


def test_serve_batch(capsys: pytest.CaptureFixture[str]) -> None:
    model = str(BENCH.parents[1] / "models/demo.gguf")
    script("serve_batch").main(
        [model, "--streams", "1", "3", "-n", "6", "-r", "1", "--ctx", "512", "-t", "2"]
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["1", "3"]
    assert lines[4] == "tokens equal to those of each prompt alone: yes"
    assert lines[5].startswith("prompt of 511 tokens, 499 of them cached: first token after ")
    assert "idle" in lines[7] and len(lines) == 9


def test_serve(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One server under two names is asked by a fixed number of clients and by arrivals; a full
    queue is counted as 429.
    """
    pytest.importorskip("starlette")
    from hrun import Runtime
    from live import Live

    serve = script("serve")
    figures = tmp_path / "figures.json"
    with Live(Runtime(n_ctx=512, n_threads=1), max_queue=256) as live:
        url = f"http://127.0.0.1:{live.port}"
        common = [
            "--server",
            f"a={url}",
            "--server",
            f"b={url}/v1",
            "--lengths",
            "5:4:1,9:2",
            "--health",
        ]
        serve.main(
            [
                *common,
                "--clients",
                "3",
                "--requests",
                "9",
                "--json",
                str(figures),
                "--shared",
                "0.5:20",
            ]
        )
        serve.main([*common, "--rate", "200", "--requests", "6", "--chat", "--rounds", "2"])
        serve.main(
            [
                *common,
                "--clients",
                "2",
                "--requests",
                "4",
                "--token-ids",
                "10:200",
                "--api-key",
                "unused",
            ]
        )
    out = capsys.readouterr().out
    assert "a against b: " in out and "9 x 200" in out and "12 x 200" in out, out
    (first, _) = json.loads(figures.read_text())
    assert (
        first["tokens_per_second"] > 0
        and 0 < first["first_p50"] <= first["first_p99"] <= first["total_p99"]
    )
    assert 0 < first["fairness"] <= 1 and first["health_worst"] < 30
    assert serve.percentile([3, 1, 2], 50) == 2 and serve.percentile([1, 2], 99) == 2


def test_serve_counts_what_went_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    serve = script("serve")
    serve.main(
        ["--server", "http://127.0.0.1:1", "--model", "x", "--requests", "2", "--clients", "1"]
    )
    out = capsys.readouterr().out
    assert "2 x 0 broken" in out and "ConnectionRefusedError" in out
    answers = [
        serve.Answer(user, 0.0, 200, times=[0.1], total=1.0, n_tokens=n)
        for user, n in (("a", 10), ("b", 10), ("c", 10))
    ]
    assert serve.fairness(answers) == pytest.approx(1)
    answers[0].n_tokens = answers[1].n_tokens = 0
    assert serve.fairness(answers) == pytest.approx(1 / 3)
