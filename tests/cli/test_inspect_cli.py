"""hrun-inspect: what it shows, and what it says of files that hrun cannot run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hrun import _core
from hrun.cli.inspect import main


@pytest.fixture
def inspect(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    def run(*flags: object) -> tuple[int, str, str]:
        code = main([*map(str, flags)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_text(tiny_model: Callable[..., Path], inspect: Any) -> None:
    code, out, err = inspect(tiny_model(n_embd=256, format="rtq3"))
    assert code == 0 and err == ""
    assert "blk.1.ffn_down.weight" in out and "rtq3" in out and "3.0625" in out
    assert "general.architecture" in out and "(300)" in out  # the token list is shortened
    assert "hrun can run this file." in out
    assert max(map(len, out.splitlines())) < 250
    assert "blk.1" not in inspect(tiny_model(n_embd=256, format="rtq3"), "--no-tensors")[1]


def test_json(tiny_model: Callable[..., Path], inspect: Any) -> None:
    path = tiny_model(format="q8_0")
    code, out, _ = inspect(path, "--json")
    shown = json.loads(out)
    file = _core.GGUFFile(str(path))
    assert code == 0 and shown["errors"] == []
    assert shown["file_bytes"] == path.stat().st_size
    assert {t["name"]: t["format"] for t in shown["tensors"]} == {
        t.name: t.format for t in file.tensors
    }
    assert sum(row["bytes"] for row in shown["formats"].values()) == sum(
        t.n_bytes for t in file.tensors
    )
    assert shown["metadata"]["tokenizer.ggml.tokens"]["value"]["count"] == 300
    assert shown["bits_per_weight"] == pytest.approx(
        8 * sum(t.n_bytes for t in file.tensors) / shown["weights"]
    )


def test_files_that_cannot_run(
    inspect: Any, tmp_path: Path, tiny_model: Callable[..., Path]
) -> None:
    for path, message in ((tmp_path / "absent.gguf", "absent.gguf"), (Path(__file__), "GGUF")):
        code, out, err = inspect(path)
        assert code == 1 and message in err and err.count("\n") == 1 and out == ""
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(tiny_model().read_bytes()[:-100])
    assert inspect(cut)[0] == 1


def test_a_vocabulary_alone(vocabulary: Callable[[str], Path], inspect: Any) -> None:
    code, out, _ = inspect(vocabulary("llama-spm"))
    assert code == 1 and "error: " in out and "tokenizer.ggml.scores" in out


def test_hostile_names_are_escaped(inspect: Any, tmp_path: Path) -> None:
    path = tmp_path / "evil.gguf"
    writer = _core.GGUFWriter(str(path))
    writer.add("general.architecture", "string", "\x1b[2J\x07" * 50)
    writer.finish()
    code, out, _ = inspect(path)
    assert code == 1 and "\x1b" not in out and "\x07" not in out
