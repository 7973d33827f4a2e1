"""Partial files and scratch folders: whole or not there, and nothing of a killed process stays."""

from __future__ import annotations

import os
import re
import resource
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from hrun import ArgumentError
from hrun.outputs import PartialFile, scratch_folder, work_folder, write_text
from tiny_hf import TinyLlama

pytestmark = pytest.mark.slow

PACKAGE = Path(sys.modules["hrun"].__file__).resolve().parents[1]

HOLDER = """
import sys, time
from pathlib import Path
from hrun.outputs import PartialFile, scratch_folder, write_text
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
        # Files of living processes are kept.
        with PartialFile(tmp_path / "out"), scratch_folder(tmp_path):
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


def start(*arguments: object) -> subprocess.Popen[bytes]:
    def signals_as_usual() -> (
        None
    ):  # under nohup this process, and so its child, would ignore SIGHUP
        signal.signal(signal.SIGHUP, signal.SIG_DFL)

    return subprocess.Popen(
        [sys.executable, "-m", *map(str, arguments)],
        preexec_fn=signals_as_usual,
        env={**os.environ, "PYTHONPATH": str(PACKAGE)},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_for(condition: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_base_file_that_is_not_finished_is_removed(
    number: signal.Signals, tmp_path: Path
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("It was the best of times, it was the worst of times. " * 20000)
    process = start(
        "hrun.cli.perplexity", "-f", text, "-c", 128, "-t", 1,
        "--kl-divergence-base", tmp_path / "base.bin",
    )  # fmt: skip
    try:
        partial = tmp_path / f"base.bin.partial-{process.pid}"
        wait_for(lambda: partial.exists() and partial.stat().st_size > 1 << 20, process)
        process.send_signal(number)
        assert process.wait(30) == 128 + number
        assert os.listdir(tmp_path) == ["text.txt"]
    finally:
        end(process)


@pytest.mark.parametrize(
    "arguments",
    [
        ("hrun", "-p", "Once", "-n", "100000", "-c", "100000", "--ignore-eos", "-t", "1"),
        ("hrun.cli.bench", "-r", "100000", "-t", "1", "--no-peaks"),
    ],
)
def test_other_commands_end_by_unwinding(arguments: tuple[str, ...]) -> None:
    """143 is returned; a process that the signal itself ends has -15."""
    process = start(*arguments)
    try:
        status = Path(f"/proc/{process.pid}/status")
        caught = 1 << (signal.SIGTERM - 1)

        def handles() -> bool:
            found = re.search(r"^SigCgt:\s*(\w+)", status.read_text(), re.MULTILINE)
            return found is not None and bool(int(found[1], 16) & caught)

        wait_for(handles, process)
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 143
        assert process.stderr is not None and b"Traceback" not in process.stderr.read()
    finally:
        end(process)


def test_a_calibrated_conversion_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    source = TinyLlama(tmp_path / "tiny", embd=64, heads=2, kv_heads=1, head_dim=32, ff=96).path
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 3000)
    (tmp_path / "out").mkdir()
    command = ["hrun.cli.convert", source, "-o", tmp_path / "out" / "a.gguf", "--type", "rtq3",
               "--calibrate", text, "--calibrate-tokens", "0", "-t", 1, "--save-moments", tmp_path / "out" / "m.npz"]  # fmt: skip
    process = start(*command)
    try:
        wait_for(lambda: any((tmp_path / "out").glob("a.gguf.work-*/states-1.f32")), process)
    finally:
        end(process)
    left = os.listdir(tmp_path / "out")
    assert len(left) >= 2 and not {"a.gguf", "m.npz"} & set(left), left
    process = start(*command)
    assert process.wait(120) == 0
    end(process)
    assert sorted(os.listdir(tmp_path / "out")) == ["a.gguf", "m.npz"]


def test_work_of_a_killed_process_is_found_by_the_same_job(tmp_path: Path) -> None:
    out, script = (
        tmp_path / "a.gguf",
        "import sys, os; from pathlib import Path\nfrom hrun.outputs import work_folder\n",
    )
    script += "with work_folder(Path(sys.argv[1]), 'job 1') as f: (f / 'done').write_text('x'); os._exit(9)"
    for job, is_found in (("job 1", True), ("job 2", False)):
        subprocess.run(
            [sys.executable, "-c", script, str(out)], env={**os.environ, "PYTHONPATH": str(PACKAGE)}
        )
        assert len(os.listdir(tmp_path)) == 1
        with work_folder(out, job) as folder:
            assert (folder / "done").exists() == is_found
            assert os.listdir(tmp_path) == [folder.name]
        assert not os.listdir(tmp_path)


def test_what_was_there_survives_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    write_text(path, "old")
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # behaves like a full disk
        with pytest.raises(OSError):
            write_text(path, "x" * 4000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["chat.json"]
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "\ud800")
    assert path.read_text() == "old"


def test_permissions_and_links_are_kept(tmp_path: Path) -> None:
    path, link = tmp_path / "private", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o600)
    link.symlink_to(path)
    write_text(link, "new")
    assert link.is_symlink() and path.read_text() == "new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_pipe_is_written_to(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    write_text(pipe, "words")
    assert os.read(reader, 10) == b"words"
    os.close(reader)
