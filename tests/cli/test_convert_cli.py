"""hrun-convert: its output, its exit codes, and that no interruption leaves a wrong file behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hrun import _core
from hrun.cli.convert import main
from hrun.convert.moments import MomentFile
from tiny_hf import TinyLlama

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return TinyLlama(
        tmp_path_factory.mktemp("cli") / "tiny",
        layers=2,
        embd=64,
        heads=2,
        kv_heads=1,
        head_dim=32,
        ff=64,
    ).path


def run_python(code: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    package = Path(_core.__file__).resolve().parents[1]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(package), os.environ.get("PYTHONPATH", "")]),
    }
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment,
        stdin=subprocess.DEVNULL,
        **options,
    )


def test_help_lists_the_formats_of_the_registry(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert ", ".join(info.name for info in _core.formats() if info.encodable) in text


def test_a_conversion_writes_to_stderr_only(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(folder), "--outtype", "Q8_0"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert os.listdir(tmp_path) == ["tiny-Q8_0.gguf"]
    size = (tmp_path / "tiny-Q8_0.gguf").stat().st_size
    line = next(line for line in err.splitlines() if line.startswith("blk.*.attn_q.weight"))
    assert line.split() == [
        "blk.*.attn_q.weight",
        "2",
        "64",
        "x",
        "64",
        "BF16",
        "Q8_0",
        "8.5",
        "8.70",
        "kB",
    ]
    assert "bits per weight" in err and "\x1b" not in err and "\r" not in err
    assert main(["tiny-Q8_0.gguf", "--type", "f16", "--outfile", "tiny-Q8_0.gguf"]) == 1
    assert (
        "also read as input" in capsys.readouterr().err
        and (tmp_path / "tiny-Q8_0.gguf").stat().st_size == size
    )
    assert main(["tiny-Q8_0.gguf", "--type", "f16"]) == 0
    err = capsys.readouterr().err
    assert "already quantized" in err and (tmp_path / "tiny-F16.gguf").exists()
    assert main([str(folder), "--type", "q4_0", "-o", "tiny-F16.gguf", "-t", "1"]) == 0
    assert "replaced tiny-F16.gguf" in capsys.readouterr().err


def test_options_reach_the_plan(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.gguf"
    assert (
        main(
            [
                str(folder),
                "-o",
                str(output),
                "--type",
                "q4_0",
                "--tensor-type",
                "ffn_(up|gate)=Q5_1",
                "--tensor-type",
                "blk=q5_0",
                "--token-embedding-type",
                "bf16",
            ]
        )
        == 0
    )
    formats = {t.name: t.format for t in _core.GGUFFile(str(output)).tensors}
    assert formats["token_embd.weight"] == "bf16" and formats["blk.0.ffn_up.weight"] == "q5_1"
    assert formats["blk.1.attn_k.weight"] == "q5_0" and formats["blk.0.attn_norm.weight"] == "f32"
    assert (
        main(
            [
                str(folder),
                "-o",
                str(output),
                "--type",
                "q4_0",
                "--output-tensor-type",
                "f16",
                "--pure",
            ]
        )
        == 0
    )  # a tied head
    assert {t.name: t.format for t in _core.GGUFFile(str(output)).tensors}[
        "token_embd.weight"
    ] == "f16"


def test_the_name_of_the_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(folder), "--type", "bf16", "--model-name", "Some/Name"]) == 0
    assert _core.GGUFFile("Some-Name-BF16.gguf").metadata["general.name"] == "Some/Name"


def test_a_terminal_shows_a_bar_that_goes_away(folder: Path, tmp_path: Path) -> None:
    import pty
    import threading

    controller, terminal = pty.openpty()
    seen = bytearray()

    def listen() -> None:
        try:
            while chunk := os.read(controller, 4096):
                seen.extend(chunk)
        except OSError:  # the other side is closed
            pass

    listener = threading.Thread(target=listen)
    listener.start()
    package = Path(_core.__file__).resolve().parents[1]
    environment = {**os.environ, "PYTHONPATH": str(package), "TERM": "xterm", "COLUMNS": "120"}
    environment.pop("NO_COLOR", None)
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "hrun.cli.convert",
            str(folder),
            "-o",
            str(tmp_path / "out.gguf"),
            "--type",
            "f16",
        ],
        stdout=subprocess.PIPE,
        stderr=terminal,
        stdin=subprocess.DEVNULL,
        env=environment,
        timeout=120,
    )
    os.close(terminal)
    listener.join()
    os.close(controller)
    assert done.returncode == 0 and done.stdout == b""
    text = seen.decode()
    assert (
        "blk.*.ffn_up.weight" in text
        and "bits per weight" in text
        and "100%" in text
        and "\x1b[" in text
    )
    assert (
        text.rstrip().splitlines()[-1].endswith("kB")
    )  # the note about the file is the last thing


def test_dry_run_opens_nothing_for_writing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.chmod(tmp_path, 0o555)
    try:
        assert (
            main([str(folder), "-o", str(tmp_path / "out.gguf"), "--type", "q8_0", "--dry-run"])
            == 0
        )
    finally:
        os.chmod(tmp_path, 0o755)
    assert os.listdir(tmp_path) == [] and "dry run" in capsys.readouterr().err
    old = tmp_path / "old.gguf"
    old.write_bytes(b"old")
    assert main([str(folder), "-o", str(old), "--type", "q8_0", "--dry-run"]) == 0
    assert old.read_bytes() == b"old"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--type", "nonsense"],
        [],
        ["--type", "q8_0", "--memory", "12"],
        ["--type", "q8_0", "--calibrate-tokens", "-4"],
        ["--type", "q8_0", "--preset", "better"],
        ["--type", "q8_0", "--target-bpw", "0"],
        ["--target-size", "3"],
        ["--type", "q8_0", "--threads", "-1"],
        ["--type", "q8_0", "--tensor-type", "abc"],
        ["--type", "q8_0", "--tensor-type", "abc=zzz"],
        ["--typ", "q8_0"],
    ],
)
def test_wrong_usage(
    arguments: list[str], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main([str(folder), "-o", str(tmp_path / "out.gguf"), *arguments])
    assert stop.value.code == 2
    assert capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_calibration_from_text_and_from_what_it_saved(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 100)
    out, again, saved = tmp_path / "a.gguf", tmp_path / "b.gguf", tmp_path / "m.npz"
    assert (
        main(
            [
                str(folder),
                "-o",
                str(out),
                "--type",
                "rtq3",
                "--calibrate",
                str(text),
                "--calibrate-tokens",
                "1024",
                "--save-moments",
                str(saved),
            ]
        )
        == 0
    )
    assert "without calibration" not in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["a.gguf", "m.npz", "text.txt"]
    assert (
        main([str(folder), "-o", str(again), "--type", "rtq3", "--moments", str(saved), "-t", "1"])
        == 0
    )
    assert out.read_bytes() == again.read_bytes()
    assert main([str(folder), "-o", str(again), "--type", "rtq3", "--preset", "fast"]) == 0
    assert out.read_bytes() != again.read_bytes()
    for arguments, message in (
        (["--preset", "best", "--calibrate", "none"], "needs --calibrate"),
        (["--preset", "fast", "--calibrate", str(text)], "does not calibrate"),
        (["--imatrix", str(text), "--calibrate", str(text)], "exclude each other"),
        (["--imatrix", str(text)], "not an importance matrix"),
        (["--moments", str(text)], "not a file of second moments"),
        (["--calibrate", str(tmp_path / "none")], "none"),
        (["--calibrate", str(saved.with_name("short.txt"))], "short.txt"),
    ):
        assert main([str(folder), "-o", str(again), "--type", "rtq3", *arguments]) == 1
        err = capsys.readouterr().err
        assert message in err.splitlines()[-1], err
    assert sorted(os.listdir(tmp_path)) == ["a.gguf", "b.gguf", "m.npz", "text.txt"]


def test_errors_are_one_line_and_exit_1(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import shutil

    assert main([str(tmp_path / "absent"), "--type", "q8_0"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("hrun-convert: error: ") and err.count("\n") == 1 and "absent" in err
    assert (
        main(
            [
                str(folder),
                "--type",
                "q8_0",
                "--tensor-type",
                "(=f16",
                "-o",
                str(tmp_path / "x.gguf"),
            ]
        )
        == 1
    )
    assert "not a regular expression" in capsys.readouterr().err
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1000, 999, 1))
    assert main([str(folder), "--type", "f32", "-o", str(tmp_path / "x.gguf")]) == 1
    err = capsys.readouterr().err
    assert "not enough room" in err and "1 B are free" in err and "kB" in err
    assert os.listdir(tmp_path) == []


# One process imports everything once, then forks a child per trial whose encoder is slow, and hits it at a random moment.
TRIALS = """
import os, random, resource, signal, sys, time, json
from hrun import _core
from hrun.cli.convert import main
from hrun.convert.moments import MomentFile
import hrun.convert, hrun.convert.read_hf, hrun.convert.write, tokenizers, gguf

folder, output, mode, trials = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
encode = _core.encode
def slow(*args, **kwargs):
    time.sleep(0.004)
    return encode(*args, **kwargs)

def child(slowly):
    pid = os.fork()
    if pid:
        return pid
    code = 99
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if slowly:
            _core.encode = slow
        if mode == "FSIZE":
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        code = main([folder, "-o", output, "--type", "q8_0", "-t", "2", "--no-check"])
    except KeyboardInterrupt:
        code = 130
    finally:
        os._exit(code)

def status(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

directory = os.path.dirname(output)
mode_after, mode = mode, ""
assert status(child(False)) == 0
new = open(output, "rb").read()
start = time.monotonic()
assert status(child(True)) == 0
duration = time.monotonic() - start
mode = mode_after
rng = random.Random(7)
counts = {}
for trial in range(trials):
    old = b"the old file" if trial % 2 else None
    if os.path.exists(output):
        os.unlink(output)
    if old is not None:
        open(output, "wb").write(old)
    limit = rng.randrange(len(new))
    pid = child(True)
    if mode != "FSIZE":
        time.sleep(rng.uniform(0, 1.1 * duration))
        os.kill(pid, getattr(signal, mode))
    code = status(pid)
    counts[code] = counts.get(code, 0) + 1
    there = open(output, "rb").read() if os.path.exists(output) else None
    left = sorted(name for name in os.listdir(directory) if name != os.path.basename(output))
    assert there in (old, new), f"trial {trial}: a wrong file of {len(there)} bytes after exit {code}"
    assert not (code == 0 and there != new), "success without a file"
    if mode == "SIGKILL":
        assert len(left) <= 1, left  # every run removes what the one before left
    else:
        assert left == [], f"trial {trial}: {left} left after exit {code}"
mode = ""
assert status(child(False)) == 0
assert os.listdir(directory) == [os.path.basename(output)], os.listdir(directory)
assert open(output, "rb").read() == new
print(json.dumps(counts))
"""


@pytest.mark.parametrize(
    ("mode", "trials", "codes"),
    [
        ("SIGINT", 24, {130, 0}),
        ("SIGTERM", 12, {143, -15, 0}),
        ("SIGKILL", 24, {-9, 0}),
        ("FSIZE", 12, {1}),
    ],
)
def test_interruptions_leave_the_old_file_or_the_new_one(
    mode: str, trials: int, codes: set[int], folder: Path, tmp_path: Path
) -> None:
    done = run_python(TRIALS, folder, tmp_path / "out.gguf", mode, trials)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = {int(code): n for code, n in json.loads(done.stdout).items()}
    assert set(counts) <= codes and sum(counts.values()) == trials
    assert trials - counts.get(0, 0) >= trials // 3, counts  # many trials did interrupt something


AUDIT = """
import json, os, sys
folder, output, canary = sys.argv[1:4]
events = []
watching = True
def hook(event, args):
    if not watching:
        return
    if event in ("os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "socket.connect", "socket.getaddrinfo",
                 "pickle.find_class"):
        events.append([event, repr(args)[:200]])
    elif event in ("open", "compile", "exec", "import", "ctypes.dlopen"):
        text = repr(args)
        if folder in text:
            events.append([event, text[:300]])
sys.addaudithook(hook)
from hrun.cli.convert import main
from hrun.convert.moments import MomentFile
code = main([folder, "-o", output, "--type", "q8_0"])
watching = False
print(json.dumps({"code": code, "events": events, "torch": "torch" in sys.modules, "transformers": "transformers" in sys.modules,
                  "canary": os.path.exists(canary), "path": sys.path}))
"""


def test_nothing_in_the_folder_is_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    model = TinyLlama(tmp_path / "evil", layers=1, embd=32, heads=2, kv_heads=1, head_dim=16, ff=32)
    for name in (
        "modeling_evil.py",
        "configuration_evil.py",
        "sitecustomize.py",
        "torch.py",
        "setup.py",
    ):
        (model.path / name).write_text(f"open({str(canary)!r}, 'w')")
    for name in ("pytorch_model.bin", "training_args.bin"):
        (model.path / name).write_bytes(
            b"cos\nsystem\n(S'touch " + str(canary).encode() + b"'\ntR."
        )
    model.write_config(
        auto_map={
            "AutoModelForCausalLM": "modeling_evil.Evil",
            "AutoConfig": "configuration_evil.Evil",
        }
    )
    done = run_python(AUDIT, model.path, tmp_path / "out.gguf", canary, cwd=model.path.parent)
    assert done.returncode == 0, done.stderr[-2000:]
    seen = json.loads(done.stdout)
    assert (
        seen["code"] == 0 and not seen["torch"] and not seen["transformers"] and not seen["canary"]
    )
    others = [event for event in seen["events"] if event[0] != "open"]
    assert not others, others
    opened = {Path(event[1].split("'")[1]).name for event in seen["events"]}
    assert opened and not [name for name in opened if name.endswith((".py", ".bin", ".pyc"))], (
        opened
    )


MEMORY = """
import resource, sys
from hrun.cli.convert import main
from hrun.convert.moments import MomentFile
import hrun.convert.read_hf, hrun.convert.read_gguf, tokenizers, gguf
source, output, kind = sys.argv[1:4]
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert main([source, "-o", output, "--type", kind, "-t", "2"]) == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_does_not_grow_with_the_model(tmp_path: Path) -> None:
    # 53 MB of weights in tensors of at most 3 MB, from a folder and from a GGUF file.
    folder = TinyLlama(
        tmp_path / "hf", layers=6, embd=512, ff=1536, heads=8, kv_heads=2, head_dim=64, dtype="F32"
    ).path
    for source, output, kind in (
        ("hf", "a.gguf", "f32"),
        ("a.gguf", "b.gguf", "q8_0"),
        ("a.gguf", "c.gguf", "f16"),
    ):
        done = run_python(MEMORY, folder.parent / source, tmp_path / output, kind)
        assert done.returncode == 0, done.stderr[-2000:]
        assert int(done.stdout) < 25_000, (
            f"{source} to {kind}: {done.stdout.strip()} kB more than before"
        )


def test_the_module_runs_as_a_program(tmp_path: Path) -> None:
    done = run_python(
        "import runpy, sys; sys.argv[0] = 'hrun-convert'; runpy.run_module('hrun.cli.convert', run_name='__main__')",
        tmp_path,
        "--type",
        "q8_0",
    )
    assert done.returncode == 1 and "config.json is missing" in done.stderr and done.stdout == ""


def test_a_target_is_met_reported_and_its_plan_reused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 100)
    out, again, plan, page = (
        tmp_path / name for name in ("a.gguf", "b.gguf", "plan.json", "report.html")
    )
    common = [str(folder), "--calibrate", str(text), "--calibrate-tokens", "1024"]
    assert (
        main(
            [
                *common,
                "-o",
                str(out),
                "--target-bpw",
                "3.9",
                "--save-plan",
                str(plan),
                "--report",
                str(page),
                "--tensor-type",
                "attn_k=q8_0",
            ]
        )
        == 0
    )
    err = capsys.readouterr().err
    stored = json.loads(plan.read_text())
    assert (
        "allocated" in err
        and set(stored["formats"].values()) >= {"rtq3"}
        and not any("attn_k" in name for name in stored["formats"])
    )
    tensors = _core.GGUFFile(str(out)).tensors
    layers = [t for t in tensors if t.name.startswith("blk.") and len(t.shape) == 2]
    bits = 8 * sum(t.n_bytes for t in layers) / sum(t.shape[0] * t.shape[1] for t in layers)
    assert 3.3 < bits <= 3.9
    assert {t.format for t in layers if "attn_k" in t.name} == {"q8_0"}
    html = page.read_text()
    assert (
        html.count("<svg") >= 3
        and "nan" not in html
        and "KL divergence" in html
        and "blk.1.ffn_down.weight" in html
    )
    assert not any(word in html for word in ("http://", "https://", "<script", "url("))
    assert (
        main([*common, "-o", str(again), "--plan", str(plan), "--tensor-type", "attn_k=q8_0"]) == 0
    )
    assert again.read_bytes() == out.read_bytes()
    capsys.readouterr()
    size = [*common, "-o", str(again), "--target-bpw", "3.4", "--tensor-type", "attn_k=q8_0"]
    assert main([*size, "--plan", str(plan)]) == 0  # another size, without measuring
    err = capsys.readouterr().err
    assert "other sizes" in err and "allocated" in err
    assert again.stat().st_size < out.stat().st_size
    assert main([*size[:-2], "--plan", str(plan)]) == 1
    assert "nothing was measured for tensor 'blk.0.attn_k.weight'" in capsys.readouterr().err
    assert main([*common, "-o", str(again), "--target-bpw", "1.5"]) == 1
    assert "smallest formats take" in capsys.readouterr().err
    plan.write_text("{}")
    assert main([*common, "-o", str(again), "--plan", str(plan)]) == 1
    assert "not a plan" in capsys.readouterr().err
    assert sorted(os.listdir(tmp_path)) == [
        "a.gguf",
        "b.gguf",
        "plan.json",
        "report.html",
        "text.txt",
    ]


def test_a_target_collects_moments_of_what_it_chooses_alone(folder: Path, tmp_path: Path) -> None:
    """Neither of matrices whose plain format is given, nor of the head, which no target of bits per weight chooses."""
    text, saved = tmp_path / "text.txt", tmp_path / "m.npz"
    text.write_text("the quick brown fox jumps over the lazy dog. " * 100)
    command = [
        str(folder), "-o", str(tmp_path / "a.gguf"), "--calibrate", str(text), "--calibrate-tokens", "1024",
        "--target-bpw", "5", "--no-check", "--save-moments", str(saved),
        "--tensor-type", "ffn_down=q8_0", "--tensor-type", "ffn_gate=rtq3",
    ]  # fmt: skip
    assert main(command) == 0
    known = {name for found in MomentFile(saved).every() for name in found.tensors}
    roles = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up")
    assert known == {f"blk.{i}.{role}.weight" for i in (0, 1) for role in roles}
