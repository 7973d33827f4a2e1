"""hrun-perplexity against the definitions, written out plainly."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hrun
from hrun.cli.perplexity import main

N_CTX = 32
TEXT = "It is the worst of times, and the best; " * 12


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT)
    return path


@pytest.fixture
def measure(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*flags: object) -> tuple[int, str, str]:
        code = main(["-t", "1", *map(str, flags)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def log_probabilities(model: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns, for every scored position, all tokens' log-probabilities [n, n_vocab] and the token
    that came [n].

    They are computed by the definition, token by token.
    """
    with hrun.Runtime(model, n_ctx=N_CTX, n_threads=1) as rt:
        tokens = rt.tokenize(TEXT, add_special=True)
        rows, came = [], []
        for start in range(0, len(tokens) - N_CTX + 1, N_CTX):
            chunk = tokens[start : start + N_CTX]
            seen = [rt.tokenizer.bos_id, *chunk[1:]] if rt.tokenizer.adds_bos else chunk
            logits = rt.logits(seen).astype(np.float64)
            for i in range(N_CTX // 2, N_CTX - 1):
                rows.append(logits[i] - math.log(sum(math.exp(x) for x in logits[i])))
                came.append(chunk[i + 1])
        return np.array(rows), np.array(came)


def number(name: str, out: str) -> float:
    found = re.search(rf"^{re.escape(name)}\s*:\s*(-?[\d.]+)", out, re.MULTILINE)
    assert found, out
    return float(found[1])


def test_perplexity_is_the_definition(
    tiny_model: Callable[..., Path], text: Path, measure: Any
) -> None:
    model = tiny_model(tied=False)
    rows, came = log_probabilities(model)
    nll = -rows[np.arange(len(came)), came]
    ppl = math.exp(nll.mean())
    error = math.sqrt((np.mean(nll**2) - nll.mean() ** 2) / (len(nll) - 1)) * ppl
    code, out, err = measure("-m", model, "-f", text, "-c", N_CTX)
    assert code == 0 and err == ""
    assert out.endswith(f"Final estimate: PPL = {ppl:.4f} +/- {error:.5f}\n")
    assert out.count("],") == 0 and out.count(",\n") == 1 and out.startswith("[1]")
    n_chunks = len(came) // (N_CTX - 1 - N_CTX // 2)
    assert f"[{n_chunks}]{ppl:.4f}," in out


def test_batch_and_threads_change_nothing(
    tiny_model: Callable[..., Path], text: Path, measure: Any
) -> None:
    model = tiny_model(tied=False)
    want = measure("-m", model, "-f", text, "-c", N_CTX)
    assert measure("-m", model, "-f", text, "-c", N_CTX, "-b", 5, "-t", 2) == want
    short = measure("-m", model, "-f", text, "-c", N_CTX, "--chunks", 2)[1]
    assert "[2]" in short and "[3]" not in short and short.splitlines()[0] in want[1]


def test_divergence_is_the_definition(
    tiny_model: Callable[..., Path], text: Path, measure: Any, tmp_path: Path
) -> None:
    base, other = tiny_model(tied=False), tiny_model(tied=False, format="q8_0")
    assert (
        measure("-m", base, "-f", text, "-c", N_CTX, "--kl-divergence-base", tmp_path / "base.bin")[
            0
        ]
        == 0
    )
    assert [p.name for p in tmp_path.iterdir()] == ["base.bin"]
    code, out, err = measure(
        "-m", other, "--kl-divergence-base", tmp_path / "base.bin", "--kl-divergence"
    )
    assert code == 0 and err == ""

    p, came = log_probabilities(base)
    q, _ = log_probabilities(other)
    divergence = (np.exp(p) * (p - q)).sum(axis=1)
    at = np.arange(len(came))
    change = np.exp(q[at, came]) - np.exp(p[at, came])
    assert divergence.mean() > 1e-6
    assert number("Mean    KLD", out) == pytest.approx(divergence.mean(), abs=2e-6)
    assert number("Maximum KLD", out) == pytest.approx(divergence.max(), abs=2e-6)
    assert number("Median  KLD", out) == pytest.approx(np.median(divergence), abs=2e-6)
    assert number("Mean PPL(Q)", out) == pytest.approx(math.exp(-q[at, came].mean()), rel=1e-6)
    assert number("Mean PPL(base)", out) == pytest.approx(math.exp(-p[at, came].mean()), rel=1e-4)
    assert number("RMS Δp", out) == pytest.approx(100 * math.sqrt((change**2).mean()), abs=2e-3)
    same = 100 * (p.argmax(axis=1) == q.argmax(axis=1)).mean()
    assert number("Same top p", out) == pytest.approx(same, abs=100 / len(came) + 1e-3)


def test_a_model_is_no_distance_from_itself(
    tiny_model: Callable[..., Path], text: Path, measure: Any, tmp_path: Path
) -> None:
    model = tiny_model(tied=False)
    measure(
        "-m", model, "-f", text, "-c", N_CTX, "--kl-divergence-base", tmp_path / "b", "--chunks", 3
    )
    out = measure("-m", model, "--kl-divergence-base", tmp_path / "b", "--kl-divergence")[1]
    assert abs(number("Mean    KLD", out)) < 1e-6 and number("Same top p", out) == 100


def test_errors(tiny_model: Callable[..., Path], text: Path, measure: Any, tmp_path: Path) -> None:
    model = tiny_model(tied=False)
    base = tmp_path / "base.bin"
    measure("-m", model, "-f", text, "-c", N_CTX, "--kl-divergence-base", base, "--chunks", 2)
    whole = base.read_bytes()
    cases: list[tuple[list[object], str]] = [
        (["-m", model], "give -f"),
        (["-m", model, "--kl-divergence"], "needs --kl-divergence-base"),
        (["-m", model, "-f", tmp_path / "absent"], "absent"),
        (["-m", model, "-f", text, "-c", 250], "at least 500"),
        (["-m", model, "--kl-divergence", "--kl-divergence-base", text], "is no file of"),
        (["-m", tiny_model(tied=False, n_vocab=320), "--kl-divergence", "--kl-divergence-base", base], "300 tokens, the model has 320"),
    ]  # fmt: skip
    for flags, message in cases:
        code, out, err = measure(*flags)
        assert code == 1 and message in err and err.count("\n") == 1 and out == ""
    for length in (0, 10, 100, len(whole) - 1):
        base.write_bytes(whole[:length])
        code, _, err = measure("-m", model, "--kl-divergence", "--kl-divergence-base", base)
        assert code == 1 and "base.bin" in err
    base.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    code, _, err = measure("-m", model, "--kl-divergence", "--kl-divergence-base", base)
    assert code == 1 and "no distribution" in err and err.count("\n") == 1
    for target in (model, text):
        kept = target.read_bytes()
        code, _, err = measure("-m", model, "-f", text, "-c", N_CTX, "--kl-divergence-base", target)
        assert code == 1 and "also read as input" in err and target.read_bytes() == kept


def test_a_failure_leaves_no_file(
    tiny_model: Callable[..., Path], text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        hrun.Runtime, "logits", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt())
    )
    model = tiny_model(tied=False)
    code = main(
        [
            "-m",
            str(model),
            "-f",
            str(text),
            "-c",
            str(N_CTX),
            "--kl-divergence-base",
            str(tmp_path / "base.bin"),
        ]
    )
    assert code == 130 and list(tmp_path.iterdir()) == []
