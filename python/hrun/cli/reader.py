"""Reads the chat's lines: by prompt_toolkit on a terminal, as plain lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import termios
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

QUOTES = '"""'
PROMPT = "> "
MORE = "  "


class Reader(Protocol):
    """``read`` gives the next message, EOFError at the end of input, KeyboardInterrupt for Ctrl-C.

    ``status`` stands at the right of the line while it is typed, where a terminal allows it.
    """

    def read(self, status: str = "") -> str: ...


def make_reader(
    commands: Sequence[str],
    settings: Sequence[str],
    multiline: bool,
    simple: bool,
    colors: bool,
    keeps: bool = True,
) -> Reader:
    """A line editor if the terminal allows one."""
    if simple or os.environ.get("TERM", "dumb") == "dumb" or not os.isatty(1):
        return PlainReader()
    return EditingReader(commands, settings, multiline, colors, keeps)


class PlainReader:
    """Lines from stdin, the prompt on stderr."""

    def read(self, status: str = "") -> str:
        text = self._line(PROMPT)
        if text.lstrip().startswith(QUOTES):
            while not complete(text):
                text += "\n" + self._line(MORE)
        else:
            while text.endswith("\\"):
                text = text[:-1] + "\n" + self._line(MORE)
        return unquoted(text)

    def _line(self, prompt: str) -> str:
        sys.stderr.write(prompt)
        sys.stderr.flush()
        line = sys.stdin.readline() if sys.stdin is not None else ""
        if not line:
            raise EOFError
        return line.removesuffix("\n")


class EditingReader:
    """prompt_toolkit: history across runs, completion, several lines."""

    def __init__(
        self,
        commands: Sequence[str],
        settings: Sequence[str],
        multiline: bool,
        colors: bool,
        keeps: bool = True,
    ) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
        from prompt_toolkit.document import Document
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.formatted_text import ANSI
        from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
        from prompt_toolkit.styles import Style

        self._colors = colors
        paths = PathCompleter(expanduser=True)

        class Commands(Completer):
            def get_completions(
                self, document: Document, event: CompleteEvent
            ) -> Iterable[Completion]:
                text = document.text_before_cursor
                if not text.startswith("/") or "\n" in text:
                    return
                command, space, argument = text.partition(" ")
                if not space:
                    yield from (
                        Completion(c, -len(text)) for c in commands if c.startswith(command)
                    )
                elif command in ("/save", "/load"):
                    yield from paths.get_completions(Document(argument, len(argument)), event)
                elif command == "/set" and " " not in argument:
                    yield from (
                        Completion(s, -len(argument)) for s in settings if s.startswith(argument)
                    )

        keys = KeyBindings()

        @keys.add("enter")
        @keys.add("c-j")  # Enter typed ahead, while the terminal was not in raw mode
        def enter(event: KeyPressEvent) -> None:
            buffer = event.current_buffer
            text = buffer.text
            open_quotes = text.lstrip().startswith(QUOTES) and not complete(text)
            if open_quotes or (multiline and not text.startswith("/")):
                buffer.insert_text("\n")
            elif buffer.document.is_cursor_at_the_end and text.endswith("\\"):
                buffer.delete_before_cursor()
                buffer.insert_text("\n")
            else:
                buffer.validate_and_handle()

        @keys.add("escape", "enter")
        def alt_enter(event: KeyPressEvent) -> None:
            if multiline:
                event.current_buffer.validate_and_handle()
            else:
                event.current_buffer.insert_text("\n")

        @keys.add("c-c")
        def control_c(event: KeyPressEvent) -> None:
            if event.current_buffer.text:  # as in a shell: first the line, then the program
                event.current_buffer.reset()
            else:
                event.app.exit(exception=KeyboardInterrupt())

        self._session: PromptSession[str] = PromptSession(
            ANSI("\x1b[1;32m> \x1b[0m") if colors else PROMPT,
            history=_history(keeps),
            completer=Commands(),
            complete_while_typing=Condition(
                lambda: self._session.default_buffer.text.startswith("/")
            ),
            key_bindings=keys,
            multiline=True,
            prompt_continuation=MORE,
            enable_history_search=False,
            enable_suspend=True,
            style=Style.from_dict({"": "ansigreen"}) if colors else None,
            include_default_pygments_style=False,
        )

    def read(self, status: str = "") -> str:
        from prompt_toolkit.formatted_text import ANSI

        # Until the editor holds the terminal, and after, Ctrl-C is a signal: raised inside the event loop's start
        # or end it would leave as some other error.
        app = self._session.app
        interrupted = False

        def leave() -> None:
            if app.is_running and not app.is_done:
                app.exit(exception=KeyboardInterrupt())

        def on_signal(_number: int, _frame: FrameType | None) -> None:
            nonlocal interrupted
            interrupted = True
            if app.is_running and app.loop is not None:
                app.loop.call_soon_threadsafe(leave)

        before = signal.signal(signal.SIGINT, on_signal)
        try:
            text = self._session.prompt(
                rprompt=ANSI(f"\x1b[2m{status}\x1b[0m") if self._colors else status,
                handle_sigint=False,
                pre_run=lambda: leave() if interrupted else None,
            )
        finally:
            signal.signal(signal.SIGINT, before)
        if interrupted:
            raise KeyboardInterrupt
        return unquoted(text)


def complete(text: str) -> bool:
    """Does a message that began with triple quotes end with them?"""
    text = text.strip()
    return len(text) >= 2 * len(QUOTES) and text.endswith(QUOTES)


def unquoted(text: str) -> str:
    """The message without its triple quotes."""
    stripped = text.strip()
    if not (stripped.startswith(QUOTES) and complete(text)):
        return text
    return stripped[len(QUOTES) : -len(QUOTES)].strip("\n")


def state_folder() -> Path | None:
    """Returns the folder that keeps typed lines between runs, by the XDG rules; None where there is
    no home.
    """
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        return Path(state) / "hrun"
    home = os.environ.get("HOME", "")
    return Path(home) / ".local" / "state" / "hrun" if os.path.isabs(home) else None


def history_path() -> Path | None:
    """The lines typed."""
    folder = state_folder()
    return folder / "history" if folder else None


@contextlib.contextmanager
def keys_kept() -> Iterator[None]:
    """Keys that are typed meanwhile are not shown; the next line begins with them.  Ctrl-C stays what it is."""
    try:
        before = termios.tcgetattr(0)
    except (termios.error, OSError):  # no terminal
        yield
        return
    local = before[3] & ~termios.ECHO | termios.NOFLSH  # NOFLSH: Ctrl-C does not throw them away
    silent = [*before[:3], local, *before[4:]]
    termios.tcsetattr(0, termios.TCSANOW, silent)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSANOW, before)


def _history(keeps: bool) -> Any:
    """A file that only the user can read; lines are kept in memory where there can be none."""
    from prompt_toolkit.history import FileHistory, InMemoryHistory

    class Forgiving(FileHistory):
        def load_history_strings(self) -> Iterable[str]:
            try:
                return list(super().load_history_strings())
            except OSError:
                return []

        def store_string(self, string: str) -> None:
            try:
                super().store_string(string)
            except OSError:  # the disk is full, or the folder has gone
                pass

    path = history_path()
    if path is None or not keeps:
        return InMemoryHistory()
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    except OSError:
        return InMemoryHistory()
    return Forgiving(str(path))
