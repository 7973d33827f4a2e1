"""Partial files and scratch folders: whole or not there, and nothing of a killed process stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hrun import ArgumentError
from hrun.outputs import PartialFile, scratch_folder

PACKAGE = Path(sys.modules["hrun"].__file__).resolve().parents[1]

HOLDER = """
import sys, time
from pathlib import Path
from hrun.outputs import PartialFile, scratch_folder
with PartialFile(Path(sys.argv[1]) / "out") as partial, scratch_folder(Path(sys.argv[1])) as folder:
    partial.path.write_bytes(b"half")
    (folder / "float.gguf").write_bytes(b"half")
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> subprocess.Popen[str]:
    """A process that has a partial file and a scratch folder open in `folder`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def test_a_file_appears_whole(tmp_path: Path) -> None:
    output = tmp_path / "out"
    with PartialFile(output) as partial:
        partial.path.write_bytes(b"new")
        assert not output.exists()
        with pytest.raises(ArgumentError, match="already being written"):
            PartialFile(output)
        partial.finish()
    assert output.read_bytes() == b"new" and os.listdir(tmp_path) == ["out"]
    with pytest.raises(KeyboardInterrupt), PartialFile(output) as partial:
        partial.path.write_bytes(b"half")
        raise KeyboardInterrupt
    assert output.read_bytes() == b"new" and os.listdir(tmp_path) == ["out"]


def test_what_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"in")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "in")
    for output, message in (
        (tmp_path / "in", "also read as input"),
        (tmp_path / "link", "also read as input"),
        (tmp_path / "pipe", "not a regular file"),
        (Path("/dev/null"), "not a regular file"),
        (tmp_path / "absent" / "out", "does not exist"),
    ):
        with pytest.raises(ArgumentError, match=message):
            PartialFile(output, [tmp_path / "in"])
    assert sorted(os.listdir(tmp_path)) == ["in", "link", "pipe"]


def test_the_next_run_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    (tmp_path / "out.partial-mine").write_bytes(b"no name of ours")
    (tmp_path / ".hrun-scratch-999999999").mkdir()
    process = hold(tmp_path)
    try:
        mine = {"out.partial-mine", ".hrun-scratch-999999999"}
        theirs = set(os.listdir(tmp_path)) - mine
        assert len(theirs) == 2
        with PartialFile(tmp_path / "out"), scratch_folder(tmp_path):  # of the living: kept
            assert theirs < set(os.listdir(tmp_path))
        assert set(os.listdir(tmp_path)) == mine | theirs
        process.kill()
        process.wait()
        assert set(os.listdir(tmp_path)) == mine | theirs
        with PartialFile(tmp_path / "other"):
            pass
        assert set(os.listdir(tmp_path)) == mine | theirs  # neither its name nor a scratch folder
        with PartialFile(tmp_path / "out"), scratch_folder(tmp_path):
            assert not theirs & set(os.listdir(tmp_path))
        assert set(os.listdir(tmp_path)) == mine
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_every_command_unwinds_on_termination(number: signal.Signals, tmp_path: Path) -> None:
    """hrun-perplexity in the middle of a base file, and what `run` of every command shares."""
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 20000)
    process = subprocess.Popen(
        [sys.executable, "-m", "hrun.cli.perplexity", "-f", str(text), "-c", "128", "-t", "1",
         "--kl-divergence-base", str(tmp_path / "base.bin")],
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not (partial := list(tmp_path.glob("base.bin.partial-*"))) or (
            partial[0].stat().st_size < 1 << 20
        ):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert os.listdir(tmp_path) == ["text.txt"]
    finally:
        process.kill()
        process.communicate()
