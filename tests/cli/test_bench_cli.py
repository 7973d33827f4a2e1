"""hrun-bench: llama-bench's table, its JSON field names, and its errors."""

from __future__ import annotations

import json
import os
import re

import pytest

import hrun.cli.bench as bench_module
from hrun import _core
from hrun.cli.bench import main

pytestmark = pytest.mark.slow

# Fields that scripts written for llama-bench read.
LLAMA_BENCH = {
    "cpu_info",
    "backends",
    "model_filename",
    "model_type",
    "model_size",
    "model_n_params",
    "n_batch",
    "n_threads",
    "type_k",
    "type_v",
    "n_prompt",
    "n_gen",
    "n_depth",
    "test_time",
    "avg_ns",
    "stddev_ns",
    "avg_ts",
    "stddev_ts",
    "samples_ns",
    "samples_ts",
}


def bench(tiny_model, capsys, *options: str) -> str:
    assert (
        main(
            [
                "-m",
                str(tiny_model(n_embd=256, n_ff=512, format="rtq3")),
                "-r",
                "2",
                "--no-peaks",
                *options,
            ]
        )
        == 0
    )
    return capsys.readouterr().out


def test_table(tiny_model, capsys):
    lines = bench(tiny_model, capsys, "-p", "8,16", "-n", "4", "-d", "0,8").splitlines()
    assert [line.split("|")[6].strip() for line in lines[2:]] == [
        "pp8",
        "pp16",
        "tg4",
        "pp8 @ d8",
        "pp16 @ d8",
        "tg4 @ d8",
    ]
    assert all(float(line.split("|")[7].split("±")[0]) > 0 for line in lines[2:])


def test_json(tiny_model, capsys):
    rows = json.loads(bench(tiny_model, capsys, "-p", "8", "-n", "4", "-o", "json"))
    assert len(rows) == 2 and all(LLAMA_BENCH <= row.keys() for row in rows)
    assert (
        rows[0]["n_prompt"] == 8
        and len(rows[0]["samples_ts"]) == 2
        and rows[0]["model_type"].endswith("rtq3")
    )
    assert rows[1]["avg_ts"] == pytest.approx(sum(rows[1]["samples_ts"]) / 2)


def test_shares_of_operations(tiny_model, capsys):
    (row,) = json.loads(bench(tiny_model, capsys, "-p", "32", "-n", "0", "--ops", "-o", "json"))
    assert {"quantize", "matmul", "attention"} <= row["operations"].keys()
    assert sum(row["operations"].values()) == pytest.approx(1) and all(
        0 <= share < 1 for share in row["operations"].values()
    )
    assert "| pp32 |" in bench(tiny_model, capsys, "-p", "32", "-n", "0", "--ops").splitlines()[-1]
    assert (
        json.loads(bench(tiny_model, capsys, "-p", "8", "-n", "0", "-o", "json"))[0]["operations"]
        is None
    )


def test_csv(tiny_model, capsys):
    head, *rows = bench(tiny_model, capsys, "-p", "0", "-n", "2", "-o", "csv").splitlines()
    assert "avg_ts" in head.split(",") and len(rows) == 1


def test_limits_of_the_machine_are_measured_beside(tiny_model, capsys):
    path = str(tiny_model(n_embd=256, n_ff=512, format="rtq3"))
    assert main(["-m", path, "-r", "1", "-p", "16", "-n", "2", "-t", "1", "-o", "json"]) == 0
    prompt, generation = json.loads(capsys.readouterr().out)
    assert prompt["int8_peak_tops"] > prompt["int8_tops"] > 0
    assert generation["read_peak_gbs"] > 0.1 and generation["read_gbs"] > 0


def test_the_head_counts_once_for_a_prompt(tiny_model):
    config = {"n_embd": 64, "n_ff": 96, "n_vocab": 2048}
    model = _core.Model.load(str(tiny_model(**config)))
    head = 2048 * 64
    layers = 2 * (64 * 64 * 2 + 32 * 64 * 2 + 3 * 64 * 96)
    for n in (1, 2, 512):
        assert model.weights_multiplied(n) == n * layers + head


def test_no_share_is_above_all(tiny_model, capsys, monkeypatch):
    """Peaks that were measured too low are measured again; what is still above them is said, not divided."""
    path = str(tiny_model(n_embd=256, n_ff=512, format="rtq3"))
    flags = ["-m", path, "-r", "1", "-p", "16", "-n", "2", "-t", "1"]
    measured = [(1e-6, 1e-6), (1e6, 1e6), (1e-6, 1e-6), (1e-6, 1e-6)]
    monkeypatch.setattr(bench_module, "measured_peaks", lambda model: measured.pop(0))
    assert main(flags) == 0
    prompt, generation = capsys.readouterr().out.splitlines()[2:]
    assert "of 1000000.00 TOPS = 0 %" in prompt and "of 1000000.0 GB/s = 0 %" in generation
    assert main(flags) == 0 and measured == []
    prompt, generation = capsys.readouterr().out.splitlines()[2:]
    assert "TOPS, above the 0.00 measured as the limit" in prompt and "%" not in prompt
    assert "GB/s, above the 0.0 measured as the limit" in generation and "%" not in generation


def test_errors(tmp_path, capsys):
    assert main(["-m", str(tmp_path / "absent.gguf")]) == 1
    assert "absent.gguf" in capsys.readouterr().err
    assert main(["-p", "many"]) == 2 and main(["-r", "0"]) == 2
    assert main(["-p", "0", "-n", "0,0"]) == 2


def test_involuntary_switches_and_pinned_threads(tiny_model, capsys, monkeypatch):
    """Threads that another program pushes off their cores are counted; --pin keeps each on a CPU of its own."""
    masks = []
    measured = bench_module.time_once

    def watched(*arguments):
        tasks = bench_module.threads_of_this_process()
        masks.append({t: os.sched_getaffinity(t) for t in tasks})
        return measured(*arguments)

    monkeypatch.setattr(bench_module, "time_once", watched)
    allowed = os.sched_getaffinity(0)
    options = ["-p", "8", "-n", "0", "-r", "1", "--no-peaks", "--pin", "-o", "json"]
    (row,) = json.loads(bench(tiny_model, capsys, *options, "-t", str(min(2, len(allowed)))))
    alone = [next(iter(m)) for m in masks[0].values() if len(m) == 1]
    assert len(alone) >= min(2, len(allowed)) and len(set(alone)) == len(alone)
    assert os.sched_getaffinity(0) == allowed
    assert row["pinned"] is True and row["involuntary_switches"] >= 0
    monkeypatch.undo()
    assert main(["-p", "8", "-n", "0", "-r", "1", "--no-peaks", "-t", "1"]) == 0
    assert re.search(r"Involuntary context switches: \d+ \(pp8, -t 1\)\n", capsys.readouterr().err)
    error = bench_module.main(["-t", str(len(allowed) + 1), *options])
    assert error == 1
    assert f"--pin: {len(allowed) + 1} threads on {len(allowed)} CPUs" in capsys.readouterr().err
