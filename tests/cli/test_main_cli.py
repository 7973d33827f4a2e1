"""hrun WORD: commands, models by file, short name and name on Hugging Face, and hints for what is neither."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import hrun
from hrun.cli import main as front
from run_hrun import environment, run_command

Hrun = Callable[..., "subprocess.CompletedProcess[str]"]
QUICK = ["-n", "4", "-s", "1", "-t", "1"]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tied=False)


@pytest.fixture
def cache(model: Path, tmp_path: Path) -> Path:
    """A cache of Hugging Face with two models, one in two parts, and what is no model."""
    root = tmp_path / "hub"
    for repository, names in (
        ("someone--Tiny-GGUF", ["Tiny-Q8_0.gguf", "README.md"]),
        ("other--Big-GGUF", ["Big-Q4_K_M-00001-of-00002.gguf", "Big-Q4_K_M-00002-of-00002.gguf", "Big-F16.gguf"]),
    ):  # fmt: skip
        folder = root / f"models--{repository}"
        (folder / "snapshots" / "0123").mkdir(parents=True)
        (folder / "blobs").mkdir()
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text("0123")
        for i, name in enumerate(names):
            (folder / "blobs" / f"{i:040x}").write_bytes(model.read_bytes())
            (folder / "snapshots" / "0123" / name).symlink_to(f"../../blobs/{i:040x}")
    return root


@pytest.fixture
def run(cache: Path, tmp_path: Path) -> Hrun:
    """Runs hrun offline, in an empty folder, with that cache."""
    changes = {
        "HF_HUB_CACHE": str(cache),
        "HF_ENDPOINT": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": None,
    }
    work = tmp_path / "work"
    work.mkdir()

    def call(*words: object) -> subprocess.CompletedProcess[str]:
        done = run_command("hrun", *words, env=environment(**changes), cwd=work)
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

    return call


def test_a_model_by_its_file(model: Path, run: Hrun) -> None:
    with hrun.Runtime(model, n_threads=1) as rt:
        want = rt.chat([{"role": "user", "content": "Who are you?"}], max_tokens=4, seed=1).text
    for words in (
        [model, "Who are you?", *QUICK],
        ["run", model, "Who", "are", "you?", *QUICK],
        [*QUICK, model, "Who are you?"],
        ["-m", model, "Who are you?", *QUICK],
        [model, "-p", "Who are you?", *QUICK],
    ):
        assert run(*words).stdout == want, words


@pytest.mark.slow
def test_a_model_by_its_name(run: Hrun) -> None:
    want = run("someone/Tiny-GGUF:q8_0", "Hi", *QUICK)
    assert want.returncode == 0 and want.stdout
    assert want.stderr == "hrun: someone/Tiny-GGUF: Tiny-Q8_0.gguf\n"
    for name in ("someone/Tiny-GGUF", "Tiny-GGUF", "tiny-gguf:Q8_0"):
        assert run(name, "Hi", *QUICK).stdout == want.stdout, name
    assert run("pull", "someone/Tiny-GGUF").stdout.endswith("Tiny-Q8_0.gguf\n")
    assert "general.architecture" in run("show", "Tiny-GGUF").stdout
    assert "general.architecture" in run("show", "demo", "--no-tensors").stdout


def test_list_and_rm(run: Hrun, cache: Path) -> None:
    for command in ("list", "ls"):
        names = [line.split()[0] for line in run(command).stdout.splitlines()]
        assert names == ["NAME", "demo", "other/Big-GGUF:f16", "other/Big-GGUF:q4_k_m", "someone/Tiny-GGUF:q8_0"]  # fmt: skip
    many = run("rm", "other/Big-GGUF")
    assert (
        many.returncode == 1 and "any of other/Big-GGUF:f16, other/Big-GGUF:q4_k_m" in many.stderr
    )
    done = run("rm", "Big-GGUF:q4_k_m", "someone/tiny-gguf")
    assert done.returncode == 0 and "removed other/Big-GGUF:q4_k_m" in done.stdout
    left = [p.name for p in cache.rglob("*") if p.is_file() and p.name != "main"]
    assert sorted(left) == sorted(["Big-F16.gguf", f"{2:040x}", "README.md", f"{1:040x}"])
    assert "Tiny" not in run("list").stdout
    gone = run("rm", "someone/Tiny-GGUF")
    assert gone.returncode == 1 and "is not on this machine" in gone.stderr


def test_an_empty_cache(run: Hrun, cache: Path) -> None:
    cache.rename(cache.with_name("elsewhere"))
    assert run("list").stdout.count("\n") == 2


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["lst"], 2, "'lst' is no command and no model; did you mean list?"),
        (["chat"], 2, "'chat' is no command; did you mean hrun run?"),
        (["quantize", "x"], 2, "did you mean hrun convert?"),
        (["run"], 2, "which model?"),
        (["modle.gguf", "hi"], 1, "modle.gguf: no such file; did you mean model.gguf?"),
        (["qwen33", "hi"], 1, "'qwen33' is no file, no short name (demo, smollm2, "),
        (["qwen33", "hi"], 1, "did you mean qwen3?"),
        (["nobody/nothing", "hi"], 1, "nothing of nobody/nothing has been downloaded before"),
        (["-m", "some/body", "-p", "x"], 1, "a model of Hugging Face is named without -m: hrun some/body"),
        (["--temprature", "1", "-p", "x"], 2, "did you mean --temperature?"),
        (["demo", "hi", "-p", "x"], 2, "two prompts"),
        (["demo", "-fa", "maybe", "-p", "x"], 2, "'maybe' is not on, off or auto"),
        (["bench", "modle.gguf"], 1, "hrun bench: modle.gguf: no such file"),
    ],
)  # fmt: skip
def test_wrong_words(words: list[str], code: int, says: str, run: Hrun, tmp_path: Path) -> None:
    (tmp_path / "work" / "model.gguf").touch()
    done = run(*words)
    assert (done.returncode, done.stdout) == (code, "") and says in done.stderr
    assert done.stderr.count("\n") == 1 and done.stderr.startswith("hrun")


def test_flags_that_change_nothing(model: Path, run: Hrun) -> None:
    plain = run(model, "Hi", *QUICK)
    flags = ["-fa", "on", "--jinja", "--no-mmap", "--mlock"]
    done = run(model, "Hi", *QUICK, *flags)
    assert done.stdout == plain.stdout and plain.stderr == ""
    assert [line.split()[1] for line in done.stderr.splitlines()] == [f for f in flags if f != "on"]


@pytest.mark.parametrize("name", sorted(set(front.COMMANDS) - {"help", "run", "ls"}))
def test_help_of_every_command(name: str, run: Hrun) -> None:
    for words in (["help", name], [name, "--help"]):
        done = run(*words)
        assert done.returncode == 0 and done.stdout.startswith("usage: hrun"), words


def test_help_names_every_command(run: Hrun) -> None:
    text = run("help").stdout
    assert text == run("--help").stdout
    assert all(name in text for name in front.COMMANDS if name != "ls")
    assert (
        os.path.basename(str(hrun.demo_model_path())) in run("show", "demo", "--no-tensors").stdout
    )


# Flags of one name with another meaning: a prompt and a text; files and tables; what is measured.
DIFFERENT = {
    "-n",
    "-p",
    "--prompt",
    "-f",
    "--file",
    "-r",
    "-o",
    "--output",
    "--memory",
    "--jinja",
    "--no-warmup",
    "--chunks",
}


def test_a_flag_has_one_definition() -> None:
    """Flags that several commands share come from hrun.cli.options, or from the sampling
    parameters.
    """
    from importlib import import_module

    from hrun._core import samplers
    from hrun.cli.commands import PARSERS
    from hrun.cli.options import FLAGS

    shared = {name for names, _ in FLAGS.values() for name in names}
    drawn = {"--" + row.name.replace("_", "-") for row in samplers()} | {"--temp"}
    seen: dict[str, set[tuple[str, ...]]] = {}
    commands: dict[str, list[str]] = {}
    for command, place in PARSERS.items():
        module, _, function = place.partition(":")
        for action in getattr(import_module(module), function)()._actions:
            for name in action.option_strings:
                seen.setdefault(name, set()).add(tuple(action.option_strings))
                commands.setdefault(name, []).append(command)
    for name, where in commands.items():
        if len(where) > 1 and name not in DIFFERENT | {"-h", "--help"} | drawn:
            assert name in shared and len(seen[name]) == 1, (name, where)


ASK = """
COMP_WORDS=({words}) COMP_CWORD={at}; _hrun; printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    "words, wanted",
    [
        ("hrun pu", {"pull"}),
        ("hrun --temp", {"--temp", "--temperature"}),
        ("hrun serve --drain", {"--drain-timeout"}),
        ("hrun model.gguf --single", {"--single-turn"}),
        ("hrun-convert --preset n", {"normal"}),
        ("hrun -co o", {"on", "off"}),
    ],
)
def test_completion_in_bash(words: str, wanted: set[str], tmp_path: Path) -> None:
    from hrun.cli.completion import script
    from hrun.cli.main import COMMANDS

    asked = ASK.format(words=words, at=len(words.split()) - 1)
    done = subprocess.run(
        ["bash", "-c", script("bash", COMMANDS) + asked], cwd=tmp_path, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert set(done.stdout.split()) == wanted and not done.stderr


def test_completion_scripts_parse() -> None:
    from hrun.cli.completion import SHELLS, script
    from hrun.cli.main import COMMANDS

    for shell in SHELLS:
        text = script(shell, COMMANDS)
        assert "--temp" in text or "-l temp" in text
        if found := shutil.which(shell):
            assert not subprocess.run([found, "-n"], input=text.encode(), check=False).returncode
