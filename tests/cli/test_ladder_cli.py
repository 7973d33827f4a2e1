"""hrun-ladder: files, figures and a card that say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

from hrun.cli.ladder import main

WORDS = "It was the best of times, it was the worst of times, and the sea rose. "


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(WORDS * 60)
    return path


def test_a_ladder(
    tiny_model: Callable[..., Path], text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_model(format="f32", n_ctx=1024)
    out = tmp_path / "out"
    flags = ["-o", str(out), "--text", str(text), "--chunks", "2", "--preset", "fast"]
    assert main([str(model), "--types", "q4_0,f16,rtq3", *flags]) == 0
    rungs = json.loads((out / "ladder.json").read_text())
    assert [r["type"] for r in rungs] == [
        r["type"] for r in sorted(rungs, key=lambda r: r["bytes"])
    ]
    loss = {r["type"]: r["divergence"] for r in rungs}
    assert 0 <= loss["f16"] < 1e-4 < min(loss["q4_0"], loss["rtq3"])
    card = (out / "README.md").read_text()
    assert "RTQ3 files run in hrun only" in card and "1024 tokens" in card
    for rung in rungs:
        assert (out / rung["file"]).stat().st_size == rung["bytes"]
        assert re.search(rf"\[{re.escape(rung['file'])}\].*{rung['divergence']:.4f}", card)
    assert len(re.findall("^    hrun-convert ", card, re.M)) == 3
    assert len(ElementTree.parse(out / "ladder.svg").findall(".//{*}circle")) == 3
    assert sorted(p.name for p in out.iterdir() if p.name.startswith((".", "moments"))) == []
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in out.glob("*.gguf")}
    assert main([str(model), "--types", "q4_0,f16", *flags]) == 0
    assert capsys.readouterr().err.count("is there") == 2
    assert before == {p: p.stat().st_mtime_ns for p in out.glob("*.gguf")}


@pytest.mark.slow
def test_types_share_one_calibration(
    tiny_model: Callable[..., Path], text: Path, tmp_path: Path
) -> None:
    model = tiny_model(format="f32", n_ctx=1024)
    out = tmp_path / "out"
    flags = ["-o", str(out), "--calibrate", str(text), "--text", str(text), "--chunks", "1"]
    assert main([str(model), "--types", "rtq2,rtq3", *flags]) == 0
    card = (out / "README.md").read_text()
    assert card.count("--save-moments") == 1 and card.count("--moments") == 1


def test_what_is_refused(tiny_model: Callable[..., Path], tmp_path: Path) -> None:
    model = str(tiny_model())
    empty = tmp_path / "empty.txt"
    empty.write_text("few words")
    assert main([model, "--types", "q4_0,q4_0", "-o", str(tmp_path / "x")]) == 1
    assert main([model, "--types", "q9", "-o", str(tmp_path / "x")]) == 1
    assert main([model, "--types", "q4_0", "-o", str(tmp_path / "x"), "--text", str(empty)]) == 1
    assert not list(tmp_path.rglob("*.gguf"))
