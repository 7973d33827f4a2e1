"""The chat in a terminal, as a person uses it."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hrun.cli.reader import complete, history_path, unquoted
from run_hrun import TerminalSession

pytestmark = pytest.mark.slow

ENDED = r"t/s \| \w+ \| seed \d+\]"


@pytest.fixture
def start(
    tiny_model: Callable[..., Path], tmp_path: Path
) -> Iterator[Callable[..., TerminalSession]]:
    model = tiny_model(tied=False, n_ctx=1 << 14)
    sessions: list[TerminalSession] = []

    def make(*flags: object, **changes: str | None) -> TerminalSession:
        environment = {"XDG_STATE_HOME": str(tmp_path), "NO_COLOR": "1"} | changes
        session = TerminalSession(["-m", model, "-t", 1, "-n", 12, "-s", 1, *flags], **environment)
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        session.close()


def test_a_chat(start: Callable[..., TerminalSession], tmp_path: Path) -> None:
    chat = start()
    chat.expect("context 16384.*")
    chat.expect(">")
    chat.line("Hello")
    chat.expect(ENDED)
    chat.expect(r"> .*\d+/16384")  # how full the context is, at the right of the line
    chat.line("/regen")
    chat.expect(ENDED)
    chat.line("/set temperature 0")
    chat.expect("temperature = 0")
    chat.line("/set temperature -1")
    chat.expect("temperature is -1.0, must be between 0 and")
    chat.line("/set temp 0.5")
    chat.expect("temperature = 0.5")
    chat.line("/set temprature 1")
    chat.expect("did you mean temperature")
    chat.line("/set nonsense 1")
    chat.expect(r"/set knows [^>]*\btemperature")
    chat.line("/set system Be brief.")
    chat.expect('"Be brief."')
    chat.line("/show")
    chat.expect(r"context +\d+ of 16384 tokens, 2 messages")
    chat.line(f"/save {tmp_path}/talk.json")
    chat.expect("2 messages written")
    saved = json.loads((tmp_path / "talk.json").read_text())
    assert saved["system"] == "Be brief." and [m["role"] for m in saved["messages"]] == [
        "user",
        "assistant",
    ]
    chat.line("/clear")
    chat.expect("forgotten")
    chat.line(f"/load {tmp_path}/talk.json")
    chat.expect("2 messages loaded")
    chat.line(f"/load {tmp_path}/absent.json")
    chat.expect("absent.json: No such file or directory")
    chat.line("/frobnicate")
    chat.expect("unknown command /frobnicate")
    chat.line("/regenerate")
    chat.expect("did you mean /regen")
    chat.line("/system Speak up.")
    chat.expect('the system message is "Speak up."')
    chat.line("/system -")
    chat.expect("the system message is empty")
    chat.line("/tokens the sea")
    chat.expect(r"\d+ tokens")
    chat.line("/tokens")
    chat.expect(r"\d+ user +Hello")
    chat.expect("of 16384 tokens, 2 messages")
    chat.line("/undo")
    chat.expect("0 messages remain")
    chat.line("/etc/passwd - what is it?")  # a path is no command
    chat.expect(ENDED)
    chat.line("/help")
    chat.expect("/regen +answer the last message again")
    chat.line("/exit")
    assert chat.wait() == 0
    history = tmp_path / "hrun" / "history"
    assert "+Hello" in history.read_text() and history.stat().st_mode & 0o077 == 0


def test_history_across_runs(start: Callable[..., TerminalSession]) -> None:
    first = start()
    first.expect(">")
    first.line("remember me")
    first.expect(ENDED)
    first.expect(">")  # before the prompt is up, the terminal itself would take the end-of-file
    first.send("\x04")
    assert first.wait() == 0
    second = start()
    second.expect(">")
    second.send("\x1b[A")
    second.expect("remember me")
    second.send("\x15\x04")
    assert second.wait() == 0


def test_several_lines(start: Callable[..., TerminalSession], tmp_path: Path) -> None:
    chat = start()
    chat.expect(">")
    chat.line('"""one')
    chat.line("two")
    chat.line('three"""')
    chat.expect(ENDED)
    chat.line("four\\")
    chat.line("five")
    chat.expect(ENDED)
    chat.line(f"/save {tmp_path}/talk.json")
    chat.expect("4 messages")
    messages = json.loads((tmp_path / "talk.json").read_text())["messages"]
    assert [m["content"] for m in messages if m["role"] == "user"] == [
        "one\ntwo\nthree",
        "four\nfive",
    ]


def test_multiline_input(start: Callable[..., TerminalSession], tmp_path: Path) -> None:
    chat = start("-mli")
    chat.expect(">")
    chat.send("one\rtwo\x1b\r")
    chat.expect(ENDED)
    chat.line(f"/save {tmp_path}/talk.json")
    chat.expect("2 messages")
    assert json.loads((tmp_path / "talk.json").read_text())["messages"][0]["content"] == "one\ntwo"


def test_ctrl_c_stops_the_answer_then_leaves(start: Callable[..., TerminalSession]) -> None:
    chat = start("-n", -1, "--ignore-eos")
    chat.expect(">")
    chat.line("Hello")
    time.sleep(0.3)
    chat.send("\x03")
    chat.expect(r"\[stopped\]")
    chat.expect(">")
    chat.line("/set max_tokens 3")
    chat.expect("max_tokens = 3")
    chat.line("And now?")
    chat.expect(ENDED)
    chat.expect(">")
    chat.send("\x03")
    chat.expect("Ctrl-C again")
    chat.send("\x03")
    assert chat.wait() == 130


def test_first_message_from_the_flags(start: Callable[..., TerminalSession]) -> None:
    chat = start("-cnv", "-p", "Hello")
    chat.expect("> Hello")
    chat.expect(ENDED)
    chat.expect(">")
    chat.send("\x04")
    assert chat.wait() == 0


def test_single_turn_ends_by_itself(start: Callable[..., TerminalSession]) -> None:
    chat = start("-st", "-p", "Hello")
    assert chat.wait() == 0


def test_context_overflow_keeps_the_chat(start: Callable[..., TerminalSession]) -> None:
    chat = start("-c", 96)
    chat.expect(">")
    chat.line("word " * 40)
    chat.expect("the context holds 96")
    chat.expect("/clear begins anew")
    chat.line("Hi")
    chat.expect(ENDED)
    chat.line("word " * 40)
    chat.expect(r"/compact sums the conversation up, /clear begins anew")


def test_a_long_chat_leaves_its_oldest_messages_out(
    start: Callable[..., TerminalSession], tmp_path: Path
) -> None:
    chat = start("-c", 128)
    chat.expect(">")
    for i in range(4):
        chat.line(f"question {i} " + "word " * 4)
        chat.expect(ENDED)
    told = " ".join(re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", chat.seen).split())
    assert re.search(r"the context is full: the oldest \d messages [^;]*\(/compact sums the", told)
    chat.line("/show")
    left_out = chat.expect(r"context +\d+ of 128 tokens, 8 messages, [246] of them left out")
    assert int(left_out.split("context")[-1].split()[0]) <= 128
    chat.line(f"/save {tmp_path}/talk.json")  # all of them
    chat.expect("8 messages written")
    chat.line("/clear")
    chat.line("/show")
    chat.expect(r"of 128 tokens, 0 messages\n")


def test_context_of_a_chat_counts_the_system_message(
    start: Callable[..., TerminalSession],
) -> None:
    used = []
    for flags in ([], ["-sys", "word " * 20]):
        chat = start(*flags, "-n", 1, "--temp", 0)
        chat.expect(">")
        chat.line("Hello")
        chat.expect(ENDED)
        chat.line("/show")
        used.append(int(chat.expect(r"context +\d+ of").split()[-2]))
    assert used[1] >= used[0] + 20


def test_the_last_chat_is_resumed(start: Callable[..., TerminalSession], tmp_path: Path) -> None:
    first = start("-sys", "Be brief.")
    first.expect(">")
    first.line("remember me")
    first.expect(ENDED)
    first.line("/exit")
    assert first.wait() == 0
    kept = tmp_path / "hrun" / "last-chat.json"
    assert kept.stat().st_mode & 0o077 == 0
    second = start("--resume")
    second.expect("2 messages loaded")
    second.expect("user: remember me")
    second.expect(">")
    second.line("/system")
    second.expect('"Be brief."')
    second.line("And now?")
    second.expect(ENDED)
    second.line("/show")
    second.expect("4 messages")
    second.line("/exit")
    assert second.wait() == 0
    assert len(json.loads(kept.read_text())["messages"]) == 4
    kept.unlink()
    third = start("--resume")
    third.expect("there is no chat to go on with")
    assert third.wait() == 1


def test_nothing_is_kept_without_history(
    start: Callable[..., TerminalSession], tmp_path: Path
) -> None:
    chat = start("--no-history")
    chat.expect(">")
    chat.line("a secret")
    chat.expect(ENDED)
    chat.line("/exit")
    assert chat.wait() == 0
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_what_is_typed_during_an_answer_comes_after_it(
    start: Callable[..., TerminalSession],
) -> None:
    chat = start("-n", -1, "--ignore-eos")
    chat.expect(">")
    chat.line("Hello")
    chat.expect("Hello\\n.")  # it answers
    chat.send("/show\x03")
    assert "/show" not in chat.expect(r"\[stopped\]")
    chat.expect("> /show")
    chat.send("\r")
    chat.expect("context")


def test_one_message_is_asked_for(start: Callable[..., TerminalSession]) -> None:
    chat = start("-st")
    chat.expect(">")
    chat.line("Hello")
    chat.expect(ENDED)
    assert chat.wait() == 0


def test_without_a_template_each_message_is_continued(
    tiny_model: Callable[..., Path], start: Callable[..., TerminalSession]
) -> None:
    chat = start("-m", tiny_model(tied=False, chat_template=None))
    chat.expect("no chat template: each message is continued as plain text")
    chat.line("Once upon")
    chat.expect(ENDED)
    chat.line("/show")
    chat.expect("context")
    chat.line("/exit")
    assert chat.wait() == 0


@pytest.mark.parametrize("place", [None, "/proc/nowhere"])
def test_without_a_place_for_history(
    start: Callable[..., TerminalSession], place: str | None
) -> None:
    chat = start(HOME=place, XDG_STATE_HOME=place)
    chat.expect(">")
    chat.line("Hello")
    chat.expect(ENDED)
    chat.line("/bye")
    assert chat.wait() == 0


@pytest.mark.parametrize("changes", [{"TERM": "dumb"}, {}])
def test_plain_lines(start: Callable[..., TerminalSession], changes: dict[str, str]) -> None:
    chat = start("--simple-io", **changes)
    chat.expect(">")
    chat.send('"""a\nb"""\n')
    chat.expect(ENDED)
    chat.send("\x04")
    assert chat.wait() == 0
    assert "\x1b" not in chat.seen.replace("\r\x1b[K", "")  # of a slow load's line


def test_a_file_that_is_no_chat(start: Callable[..., TerminalSession], tmp_path: Path) -> None:
    other = tmp_path / "notes.txt"
    other.write_text("precious")
    chat = start()
    chat.expect(">")
    chat.line(f"/load {other}")
    chat.expect("no saved chat")
    chat.line(f"/save {other}")
    chat.expect(r"exists\s+and\s+is\s+no\s+saved\s+chat")
    assert other.read_text() == "precious"


def test_triple_quotes() -> None:
    assert (
        unquoted('"""a\nb"""') == "a\nb"
        and unquoted('"""a"""') == "a"
        and unquoted('say """x"""') == 'say """x"""'
    )
    assert unquoted('"""') == '"""' and not complete('"""') and complete('""""""')


def test_history_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/x")
    assert history_path() == Path("/x/hrun/history")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    monkeypatch.setenv("HOME", "/h")
    assert history_path() == Path("/h/.local/state/hrun/history")
    monkeypatch.delenv("HOME")
    assert history_path() is None
    assert os.environ.get("HOME") is None


def test_a_conversation_is_summed_up(start: Callable[..., TerminalSession]) -> None:
    chat = start()
    chat.expect(">")
    chat.line("/compact")
    chat.expect("nothing to sum up")
    for text in ("Hello", "Once more"):
        chat.line(text)
        chat.expect(ENDED)
    chat.line("/compact")
    chat.expect("summing up")
    chat.expect(r"\d+ of 16384 tokens, 4 messages", 120)
    chat.line("/tokens")
    chat.expect("What have we said so far")
    chat.expect("Once more")
    chat.line("/think")
    chat.expect("no thought")
    chat.line("/raw")
    chat.expect("no colours")
