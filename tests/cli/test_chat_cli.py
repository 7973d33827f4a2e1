"""The command hrun: one completion, pipes, errors, exit codes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import hrun
from hrun.cli import chat, hub, perplexity
from hrun.cli import inspect as inspect_cli
from hrun.cli.chat import main
from hrun.cli.generation import shown
from run_hrun import command, environment, run_command

COMMANDS = ["hrun", "hrun-convert", "hrun-perplexity", "hrun-inspect"]


@pytest.fixture(scope="module")
def model(tiny_model: Callable[..., Path]) -> Path:
    """A model without a chat template: it continues the text that it is given."""
    return tiny_model(tied=False, chat_template=None)


@pytest.fixture(scope="module")
def chat_model(tiny_model: Callable[..., Path]) -> Path:
    return tiny_model(tied=False)


@pytest.fixture
def say(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[int, str, str]]:
    """say(flags...) runs hrun in this process: exit code, stdout, stderr."""
    monkeypatch.setattr("sys.stdin", open(os.devnull))

    def run(*flags: object, seed: bool = True) -> tuple[int, str, str]:
        code = main(["-m", str(model), "-t", "1", *(["-s", "1"] if seed else []), *map(str, flags)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def reference(model: Path, prompt: str, **options: Any) -> str:
    with hrun.Runtime(model, n_threads=1) as rt:
        return rt.generate(prompt, **{"seed": 1, "parse_special": True, **options}).text


def test_completion(model: Path, say: Any) -> None:
    want = reference(model, "Once upon", max_tokens=12)
    assert say("-p", "Once upon", "-n", 12) == (0, want, "")
    assert say("-p", "Once upon", "-n", 12, "--display-prompt")[1] == "Once upon" + want
    assert say("-p", "Once upon", "-n", 0) == (0, "", "")
    code, out, err = say("-p", "Once upon", "-n", 12, "--show-timings")
    assert (code, out) == (0, want) and "t/s" in err and "seed 1]" in err and err.count("\n") == 1


def test_flags_reach_the_generation(model: Path, say: Any) -> None:
    greedy = reference(model, "a b", max_tokens=8, temperature=0, ignore_eos=True)
    assert say("-p", "a b", "-n", 8, "--temp", 0, "--ignore-eos")[1] == greedy
    assert say("-p", "a b", "-n", 8, "--temp", 9, "--top-k", 1, "--ignore-eos")[1] == greedy
    options = {"temperature": 2.0, "top_k": 0, "top_p": 0.9, "min_p": 0.0, "repeat_penalty": 1.3, "repeat_last_n": 8,
               "presence_penalty": 0.4, "frequency_penalty": 0.2}  # fmt: skip
    flags = [str(x) for k, v in options.items() for x in ("--" + k.replace("_", "-"), v)]
    assert say("-p", "a b", "-n", 20, *flags)[1] == reference(
        model, "a b", max_tokens=20, **options
    )
    assert say("-p", "a b", "-n", 4, "-l", "70+1e6")[1] == reference(
        model, "a b", max_tokens=4, logit_bias={70: 1e6}
    )
    assert (
        say("-p", "a b", "-n", 20, "--ignore-eos", "-r", greedy[2:4], "--temp", 0)[1] == greedy[:2]
    )
    assert say("-p", r"a\tb\\n", "-n", 5)[1] == reference(model, "a\tb\\n", max_tokens=5)
    assert say("-p", r"a\tb", "-n", 5, "--no-escape")[1] == reference(model, r"a\tb", max_tokens=5)


def test_no_flag_changes_a_result_that_should_not(say: Any) -> None:
    want = say("-p", "a b c d e f g h", "-n", 8)
    for flags in (
        ["-b", 3],
        ["-t", 2],
        ["-c", 64],
        ["--no-display-prompt"],
        ["-no-cnv"],
        ["-n", 8],
    ):
        assert say("-p", "a b c d e f g h", "-n", 8, *flags) == want


def test_one_answer(chat_model: Path, say: Any) -> None:
    with hrun.Runtime(chat_model, n_threads=1) as rt:
        ask = [{"role": "user", "content": "Hi"}]
        plain = rt.chat(ask, max_tokens=8, seed=1).text
        told = rt.chat(
            [{"role": "system", "content": "Be brief."}, *ask], max_tokens=8, seed=1
        ).text

    def asked(*flags: object) -> str:
        return say("-m", chat_model, "-n", 8, *flags)[1]

    for flags in ([], ["-st"], ["-cnv"]):  # stdin is no terminal: one answer
        assert asked("-p", "Hi", *flags) == plain
    assert asked("-sys", "Be brief.", "-p", "Hi") == told
    assert asked("-p", "Hi", "--display-prompt") == "Hi\n" + plain
    assert asked("-p", "Hi", "-no-cnv") == reference(chat_model, "Hi", max_tokens=8)
    piped = run_command("hrun", "-m", chat_model, "-t", 1, "-s", 1, "-n", 8, input=b"Hi\n")
    assert piped.stdout.decode() == plain


def test_stdin_follows_the_prompt(model: Path, tmp_path: Path) -> None:
    flags = ["-m", model, "-t", 1, "-s", 1, "-n", 6, "-p", "Sum up:"]
    want = reference(model, "Sum up:\n\nOnce\nupon", max_tokens=6).encode()
    assert run_command("hrun", *flags, input=b"Once\nupon\n").stdout == want
    text = tmp_path / "text"
    text.write_text("Once\nupon\n")
    with text.open() as stdin:
        assert run_command("hrun", *flags, stdin=stdin).stdout == want
    alone = reference(model, "Sum up:", max_tokens=6).encode()
    for options in ({"input": b""}, {"stdin": subprocess.DEVNULL}):
        assert run_command("hrun", *flags, **options).stdout == alone


def test_an_empty_answer_says_why(chat_model: Path, model: Path, say: Any) -> None:
    with hrun.Runtime(chat_model) as rt:
        end = min(rt.tokenizer.end_ids)
    bias = ["-l", f"{end}+1e6", "-p", "Hi"]
    for flags, says in (
        (["-m", chat_model], "the model ended it at once; another seed"),
        (["-m", chat_model, "-no-cnv"], "plain text asks it nothing: leave -no-cnv out"),
        (["-m", chat_model, "-r", "x"], "the model, or -r, ended it at once"),
        (["-m", model], "the model ended it at once; another seed"),
    ):
        code, out, err = say(*flags, *bias)
        assert (code, out) == (0, "") and err.startswith("hrun: the answer is empty: ")
        assert says in err and err.count("\n") == 1


def test_prompt_from_a_file_and_from_a_pipe(model: Path, say: Any, tmp_path: Path) -> None:
    want = reference(model, "Once\nupon", max_tokens=6).encode()
    (tmp_path / "prompt.txt").write_text("Once\nupon\n")
    assert say("-f", tmp_path / "prompt.txt", "-n", 6)[1].encode() == want
    flags = ["-m", model, "-t", 1, "-s", 1, "-n", 6]
    assert run_command("hrun", *flags, input=b"Once\nupon\n").stdout == want
    assert run_command("hrun", *flags, "-f", "-", input=b"Once\nupon\n").stdout == want


@pytest.mark.parametrize("closed", [">&-", "<&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_streams(model: Path, closed: str) -> None:
    for flags, code in (
        (["-p", "Hi", "-n", "2"], 0),
        (["-f", "-", "-n", "2"], int("<&-" in closed)),
    ):
        words = [*command("hrun"), "-m", str(model), *flags]
        done = subprocess.run(
            ["sh", "-c", f"exec {shlex.join(words)} {closed}"],
            env=environment(),
            capture_output=True,
            text=True,
            input="Hi",
        )
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert not code or "2>" in closed or done.stderr == "hrun: stdin: Bad file descriptor\n"


def test_a_pipe_that_stays_open_is_waited_for_aloud(model: Path) -> None:
    with subprocess.Popen([*command("hrun"), "-m", model, "-p", "a", "-n", "2"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:  # fmt: skip
        assert process.stdin and process.stderr
        assert b"waiting for the end of stdin, which follows -p" in process.stderr.readline()
        process.stdin.close()
        assert process.wait(timeout=60) == 0


def test_input_that_is_not_text(model: Path) -> None:
    done = run_command("hrun", "-m", model, "-n", 4, "-s", 1, input=b"\xff\xfe\x00abc")
    assert done.returncode == 0 and done.stdout.decode() is not None


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--frobnicate"], 2, "unrecognized arguments"),
        (["--temprature", "1"], 2, "unrecognized arguments"),
        (["-n"], 2, "expected one argument"),
        (["-n", "many"], 2, "'many' is not a whole number"),
        (["-n", "-5"], 2, "not between"),
        (["-c", "-1"], 2, "not between"),
        (["-p", "a", "-f", "b"], 2, "not allowed with"),
        (["-p", "a", "--temp", "nan"], 1, "temperature"),
        (["-p", "a", "--top-p", "7"], 1, "top_p is 7"),
        (["-p", "a", "-l", "12"], 1, "--logit-bias '12'"),
        (["-p", "a", "-l", "999999+1"], 1, "logit_bias"),
        (["-p", "a", "-r", ""], 1, "stop"),
        (["-p", "a", "-ctk", "q1"], 1, "q1"),
        (["-p", "a", "--rotation", "up"], 1, "rotation is 'up'"),
        (["-p", "a", "-dev", "abacus"], 1, "abacus"),
        (["-p", "a b c d e f g", "-c", "4"], 1, "the context holds 4"),
        (["-f", "/nonexistent/prompt"], 1, "/nonexistent/prompt"),
        (["-m", "/nonexistent/model.gguf", "-p", "a"], 1, "/nonexistent/model.gguf"),
        (["-m", "/dev/null", "-p", "a"], 1, "/dev/null"),
        (["-m", __file__, "-p", "a"], 1, "GGUF"),
        (["-hf", "nonsense"], 1, "USER/MODEL"),
    ],
)
def test_errors_are_one_line(flags: list[str], code: int, message: str, say: Any) -> None:
    got, out, err = say(*flags)
    assert got == code and message in err
    assert out == "" and err.count("\n") == 1 and err.startswith("hrun: ")


def test_no_prompt(model: Path, chat_model: Path, say: Any) -> None:
    # An empty pipe is an empty prompt: the tiny model has BOS and begins with it.
    assert say("-n", 3)[0] == 0
    # An empty text is no message of a chat.
    assert say("-m", chat_model, "-n", 3) == (2, "", "hrun: no prompt: it is empty\n")
    # A closed stdin is none.
    for flags in ([], ["-cnv"], ["-st"], ["-sys", "Be brief."], ["-no-cnv"]):
        done = subprocess.run(
            ["sh", "-c", shlex.join([*command("hrun"), "-m", str(model), "-n", "3", *flags]) + " <&-"],
            env=environment(), capture_output=True, text=True,
        )  # fmt: skip
        assert done.returncode == 2 and done.stdout == "", flags
        assert done.stderr == "hrun: no prompt: give -p TEXT or -f FILE\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_and_version(name: str) -> None:
    done = run_command(name, "--help")
    assert (
        done.returncode == 0
        and done.stdout.startswith(b"usage: " + name.encode())
        and done.stderr == b""
    )


def test_help_lists_the_registry() -> None:
    text = chat.make_parser().format_help()
    for row in hrun._core.samplers():
        assert "--" + ("temp" if row.name == "temperature" else row.name.replace("_", "-")) in text


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    for module in (chat, perplexity, inspect_cli):
        assert module.main(["--version"]) == 0
        assert capsys.readouterr().out == f"hrun {hrun.__version__}\n"


def test_a_reader_that_leaves(model: Path) -> None:
    with subprocess.Popen([*command("hrun"), "-m", model, "-p", "a", "--ignore-eos", "-t", "1"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(5)
        process.stdout.close()
        assert process.wait(timeout=60) in (0, 141)
        assert process.stderr.read() == b""


def test_ctrl_c(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(tied=False, n_ctx=1 << 16)
    with subprocess.Popen([*command("hrun"), "-m", path, "-p", "a", "-c", "0", "--ignore-eos", "-t", "1"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        process.stdout.read()
        assert process.wait(timeout=60) == 130
        assert time.monotonic() - start < 10
        assert process.stderr.read() == b""


@pytest.mark.parametrize(
    "changes",
    [{"HOME": None}, {"LANG": "C", "LC_ALL": "C"}, {"TERM": None}, {"PYTHONIOENCODING": "ascii"}],
)
def test_odd_environments(model: Path, changes: dict[str, str | None], tmp_path: Path) -> None:
    done = run_command(
        "hrun", "-m", model, "-p", "é", "-n", 8, "-s", 1, env=environment(**changes), cwd=tmp_path
    )
    assert done.returncode == 0 and done.stderr == b""
    assert done.stdout.decode() == reference(model, "é", max_tokens=8)


def test_generated_text_cannot_command_the_terminal() -> None:
    assert shown("a\x1b[2Jb\x07\x9b\n\tc é 😀\u200d") == "a\ufffd[2Jb\ufffd\ufffd\n\tc é 😀\u200d"


def test_hub_choice() -> None:
    names = [
        "README.md",
        "m-Q8_0.gguf",
        "m-Q4_K_M.gguf",
        "m-RTQ3.gguf",
        "mmproj-m.gguf",
        "m-BF16-00001-of-00002.gguf",
    ]
    assert hub.choose(names, "q4_k_m") == "m-Q4_K_M.gguf"
    assert hub.choose(names, "Q8_0") == "m-Q8_0.gguf"
    assert hub.choose(names, None) == "m-RTQ3.gguf"
    assert hub.choose(names, "q5_0") is None and hub.choose(["a.txt"], None) is None
    assert hub.choose(["odd.gguf"], None) == "odd.gguf"
    assert hub.choose(names, "bf16") == "m-BF16-00001-of-00002.gguf"
    assert hub.parts_of("m-BF16-00001-of-00002.gguf") == [
        "m-BF16-00001-of-00002.gguf",
        "m-BF16-00002-of-00002.gguf",
    ]
    assert hub.parts_of("m-Q8_0.gguf") == ["m-Q8_0.gguf"]


def test_hub_downloads_every_part_and_says_when_it_is_offline(
    monkeypatch: pytest.MonkeyPatch, say: Any
) -> None:
    import types

    asked: list[str] = []

    def offline(*_: object) -> list[str]:
        raise ConnectionError("network is unreachable")

    fake = types.SimpleNamespace(
        list_repo_files=lambda repository: [
            "m-Q8_0-00001-of-00002.gguf",
            "m-Q8_0-00002-of-00002.gguf",
        ],
        hf_hub_download=lambda repository, name, local_files_only: (
            asked.append(name) or f"/cache/{name}"
        ),
    )
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", fake)
    monkeypatch.setattr(hub, "reach", lambda endpoint: None)
    assert hub.download("user/model").name == "m-Q8_0-00001-of-00002.gguf"
    assert asked == ["m-Q8_0-00001-of-00002.gguf", "m-Q8_0-00002-of-00002.gguf"]
    fake.list_repo_files = offline
    code, _, err = say("-hf", "user/model:q8_0", "-p", "a")
    chosen, err = err.split("\n", 1)  # of the download before
    assert chosen == "hrun: user/model: m-Q8_0-00001-of-00002.gguf"
    assert (
        code == 1
        and "no connection to Hugging Face" in err
        and "-m" in err
        and err.count("\n") == 1
    )


def test_hub_without_its_package(monkeypatch: pytest.MonkeyPatch, say: Any) -> None:
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    code, _, err = say("-hf", "user/model", "-p", "a")
    assert code == 1 and "huggingface_hub" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("data", "want"),
    [
        (b"\xef\xbb\xbfGr\xc3\xbc\xc3\x9fe\n", "Grüße"),
        (b"a\r\nb\r\n", "a\nb"),
        (b"a\r\nb\n", "a\r\nb"),  # not how its lines end
        (b"a\n\n", "a\n"),
        ("\ufeffa\r\nb".encode("utf-16-le"), "a\nb"),
        ("\ufeffa\r\nb".encode("utf-16-be"), "a\nb"),
        ("\ufeffGrüße".encode("utf-32-le"), "Grüße"),
        (b"\xef\xbb\xbf", ""),
        (b"", ""),
    ],
)
def test_the_text_of_a_prompt_file(
    data: bytes, want: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from hrun.cli.texts import text_of

    assert text_of(data, "f.txt") == want
    assert capsys.readouterr().err == ""


def test_a_prompt_file_that_is_not_utf8(capsys: pytest.CaptureFixture[str]) -> None:
    from hrun.cli.texts import text_of

    assert text_of(b"Gr\xfc\xdfe", "f.txt") == "Gr\ufffd\ufffde"
    assert "f.txt: byte 2 is no UTF-8" in capsys.readouterr().err


def test_answers_keep_a_grammar_of_the_flags(
    say: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """The flags are llama.cpp's.  A fault in a grammar is reported before the model is loaded."""
    pytest.importorskip("llguidance")
    schema = tmp_path / "schema.json"
    schema.write_text('{"enum": ["red", "green"]}')
    grammar = tmp_path / "answer.gbnf"
    grammar.write_text('root ::= "yes" | "no"\n')
    for flags, texts in (
        (("-j", '{"const": 7}'), ["7"]),
        (("--json-schema-file", schema), ['"red"', '"green"']),
        (("--grammar", 'root ::= "<" [a-c]{3} ">"'), None),
        (("--grammar-file", grammar), ["yes", "no"]),
    ):
        code, out, _ = say("-p", "x", "-n", 40, *flags)
        assert code == 0 and (out in texts if texts else len(out) == 5), (flags, out)
    for flags, words in (
        (("-j", '{"not": {}}'), 'unsupported keywords: ["not"]'),
        (("-j", "{"), "the JSON schema is no JSON"),
        (("--grammar", "root ::= nope"), "line 1: no rule 'nope'"),
        (("--grammar-file", tmp_path / "none"), "none"),
        (("--grammar", "x", "-j", "{}"), "not allowed with"),
    ):
        code, out, err = say("-p", "x", *flags)
        assert code in (1, 2) and out == "" and words in err, (flags, err)
