"""hrun-embed: texts from everywhere, every output format, errors of one line."""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import hrun
from hrun.cli.embed import main
from hrun.cli.main import main as hrun_main
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from tiny_encoders import TEXT, write_plain_bert


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = {}
    for name, classes in (("bert", 0), ("reranker", 1)):
        folder = write_plain_bert(tmp_path_factory.mktemp(name) / "hf", classes=classes)
        out = folder.parent / f"{name}.gguf"
        write_plan(make_plan(open_source(folder), PlanOptions("f32")), out)
        found[name] = str(out)
    return found


def test_formats(
    models: dict[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXT[1:3]) + "\n", encoding="utf-8")
    with hrun.Runtime(models["bert"]) as rt:
        want = rt.embed(TEXT[:3])
    flags = ["-m", models["bert"], "-p", TEXT[0], "-f", str(file), "--embd-output-format"]
    for form in ("array", "json", "json+", "raw"):
        assert main([*flags, form]) == 0
        out = capsys.readouterr().out
        if form == "raw":
            rows = [[float(v) for v in line.split()] for line in out.splitlines()]
        elif form == "array":
            rows = json.loads(out)
        else:
            answer = json.loads(out)
            rows = [d["embedding"] for d in answer["data"]]
            assert answer["usage"]["prompt_tokens"] > 0
            if form == "json+":
                # The command computes the similarities from the vectors as it prints them; their
                # length is 1 already.
                printed = np.array(rows, np.float64)
                assert answer["cosineSimilarity"] == (printed @ printed.T).tolist()
                np.testing.assert_allclose(answer["cosineSimilarity"], want @ want.T, atol=1e-5)
        np.testing.assert_allclose(rows, want, atol=1e-6)
    assert main([*flags, ""]) == 0
    assert capsys.readouterr().out.startswith("embedding 0: ")


def test_sources_poolings_and_norms(
    models: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with hrun.Runtime(models["bert"]) as rt:
        cls = rt.embed(["one", "two"], pooling="cls", normalize=False)
        states = rt.embed("one", pooling="none", normalize=False)
    stdin = io.TextIOWrapper(io.BytesIO(b"one\ntwo\n"), encoding="utf-8")
    monkeypatch.setattr(sys, "stdin", stdin)
    flags = ["-m", models["bert"], "--embd-output-format", "array", "--embd-normalize", "-1"]
    assert main([*flags, "--pooling", "cls"]) == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out), cls, atol=1e-6)
    assert main([*flags, "--pooling", "cls", "-p", "one|two", "--embd-separator", "|"]) == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out), cls, atol=1e-6)
    assert main([*flags, "--pooling", "none", "-p", "one"]) == 0
    np.testing.assert_allclose(json.loads(capsys.readouterr().out), states, atol=1e-6)
    assert hrun_main(["embed", models["bert"], "-p", "one", "--embd-output-format", "array"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_scores(models: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    with hrun.Runtime(models["reranker"]) as rt:
        want = rt.rerank(TEXT[0], TEXT[1:3])
    flags = ["-m", models["reranker"], "--embd-output-format", "raw", "-p"]
    assert main([*flags, "\n".join(TEXT[1:3]), "--query", TEXT[0]]) == 0
    by_query = [float(line) for line in capsys.readouterr().out.split()]
    assert main([*flags, "\n".join(f"{TEXT[0]}\t{text}" for text in TEXT[1:3])]) == 0
    by_pairs = [float(line) for line in capsys.readouterr().out.split()]
    np.testing.assert_allclose(by_query, want, rtol=1e-6)
    assert by_pairs == by_query


def test_errors_are_one_line(
    models: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:  # fmt: skip
    monkeypatch.setattr(sys, "stdin", None)
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    for flags, message in (
        ([], "no text"),
        (["-f", str(tmp_path / "bytes")], "not UTF-8 at byte 0"),
        (["-f", str(tmp_path / "none")], "No such file"),
        (["-p", "a " * 200], "202 tokens, .* 128"),
        (["-p", "a", "--query", "b"], "no reranker"),
        (["-p", "a", "--pooling", "rank"], "no reranker"),
    ):
        assert main(["-m", models["bert"], *flags]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert re.search(message, error), error
