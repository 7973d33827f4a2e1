"""The chat: a conversation, the commands on it, and what a person sees."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hrun
from hrun._core import samplers
from hrun.cli.chat import generation_options, shown, system_message, timings_line
from hrun.cli.common import EXIT_INTERRUPTED
from hrun.cli.reader import Reader, make_reader
from hrun.errors import printable
from hrun.outputs import write_text

_HELP = {
    "/help": "this list",
    "/clear": "forget the conversation (the system message stays)",
    "/regen": "answer the last message again",
    "/save FILE": "write the conversation to a file (JSON)",
    "/load FILE": "go on with a saved conversation",
    "/set NAME VALUE": "change a sampling parameter, max_tokens, seed or system",
    "/show": "the settings, and how full the context is",
    "/exit": "leave (also Ctrl-D)",
}
_FORMAT = "hrun-chat"


class Terminal:
    """One chat in a terminal; ``run`` returns the exit code."""

    def __init__(self, runtime: hrun.Runtime, options: argparse.Namespace) -> None:
        self.runtime = runtime
        self.options = options
        self.settings = generation_options(runtime, options)
        self.system = system_message(options)
        self.messages: list[dict[str, str]] = []
        self.answers = 0
        self.interrupted = False  # Ctrl-C came, and nothing was typed since
        on_terminal = os.isatty(1) and os.environ.get("TERM") != "dumb"
        self.colors = options.color == "on" or (
            options.color == "auto" and on_terminal and "NO_COLOR" not in os.environ
        )
        self.commands: dict[str, Callable[[str], bool | None]] = {
            "/help": self.help, "/?": self.help, "/clear": self.clear, "/regen": self.regenerate, "/save": self.save,
            "/load": self.load, "/set": self.set, "/show": self.show, "/exit": self.leave, "/quit": self.leave,
            "/bye": self.leave,
        }  # fmt: skip

    def run(self, first: str | None) -> int:
        """Until the user leaves.  ``first`` is answered before anything is read."""
        # A model that cannot chat should say so now, not after a message has been typed.
        self.runtime.chat_tokens([{"role": "user", "content": ""}])
        names = [name for name in self.settings if name not in ("stop", "logit_bias", "ignore_eos")]
        reader: Reader = make_reader(
            commands=[c for c in self.commands if c not in ("/?", "/quit", "/bye")],
            settings=[*names, "system"],
            multiline=self.options.multiline_input,
            simple=self.options.simple_io,
            colors=self.colors,
        )
        self.note(self.banner())
        if first:
            self.note("> " + first)
            self.say(first)
        while True:
            try:
                text = reader.read()
            except EOFError:
                return 0
            except KeyboardInterrupt:
                if self.interrupted:
                    return EXIT_INTERRUPTED
                self.interrupted = True
                self.note("(Ctrl-C again, or Ctrl-D, to leave)")
                continue
            self.interrupted = False
            if not text.strip():
                continue
            command, _, argument = text.strip().partition(" ")
            if command.startswith("/") and "\n" not in command:
                try:
                    if self.command(command, argument.strip()):
                        return 0
                except (hrun.Error, OSError) as error:
                    self.complain(error)
            else:
                self.say(text)

    # ---- the conversation

    def say(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        if not self.answer():
            self.messages.pop()

    def answer(self) -> bool:
        """Answers the last message; False if that was impossible."""
        messages = [
            *([{"role": "system", "content": self.system}] if self.system else []),
            *self.messages,
        ]
        settings = dict(self.settings)
        if (
            settings["seed"] is not None
        ):  # a fixed seed repeats the chat, not the same draw for every answer
            settings["seed"] = (settings["seed"] + self.answers) % 2**64
        self.answers += 1
        parts: list[str] = []
        generation = None
        try:
            for piece in self.runtime.chat(messages, stream=True, **settings):
                parts.append(piece.text)
                sys.stdout.write(shown(piece.text))
                sys.stdout.flush()
                generation = piece.generation
        except KeyboardInterrupt:
            self.interrupted = True
        except hrun.Error as error:
            if parts:
                print()
            self.complain(error)
            if isinstance(error, hrun.ContextOverflowError):
                self.note("/clear begins anew")
            return False
        text = "".join(parts)
        if not text.endswith("\n"):
            print()
        self.messages.append({"role": "assistant", "content": text})
        if generation is None:
            self.note("[stopped]")
        elif self.options.show_timings is not False:
            self.note(timings_line(generation))
            if generation.finish_reason == "length" and settings["max_tokens"] is None:
                self.note("the context is full; /clear begins anew")
        self.note("")
        return True

    # ---- commands; each returns True to leave

    def command(self, name: str, argument: str) -> bool | None:
        if name not in self.commands:
            self.note(f"unknown command {printable(name, 40)}; /help lists them")
            return None
        return self.commands[name](argument)

    def help(self, _: str) -> None:
        for command, meaning in _HELP.items():
            self.note(f"  {command:16} {meaning}")
        self.note(
            '  """             begins and ends a message of several lines; Alt-Enter also begins a new line'
        )

    def clear(self, _: str) -> None:
        self.messages.clear()
        self.note("the conversation is forgotten")

    def regenerate(self, _: str) -> None:
        if not self.messages:
            self.note("there is no message to answer")
            return
        last = self.messages.pop() if self.messages[-1]["role"] == "assistant" else None
        if not self.answer() and last is not None:
            self.messages.append(last)

    def save(self, name: str) -> None:
        if not name:
            self.note("usage: /save FILE")
            return
        path = Path(name).expanduser()
        if path.exists() and not _is_saved_chat(path):
            self.note(f"{printable(name)} exists and is no saved chat; choose another name")
            return
        saved = {
            "format": _FORMAT,
            "model": str(self.runtime.model_path),
            "system": self.system,
            "messages": self.messages,
        }
        write_text(path, json.dumps(saved, indent=1, ensure_ascii=False) + "\n")
        self.note(f"{len(self.messages)} messages written to {printable(str(path))}")

    def load(self, name: str) -> None:
        if not name:
            self.note("usage: /load FILE")
            return
        self.system, self.messages = _read_chat(Path(name).expanduser())
        self.note(f"{len(self.messages)} messages loaded")
        for message in self.messages[-2:]:
            self.note(f"{shown(message['role'])}: {shown(message['content'])}")

    def set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        value = value.strip()
        if name == "system":
            self.system = value or None
            self.note("the system message is " + (f'"{shown(value)}"' if value else "empty"))
            return
        if name in ("max_tokens", "seed") and value in ("", "-1", "none"):
            self.settings[name] = None
        elif name in ("max_tokens", "seed") or name in sampling_defaults():
            from hrun.arguments import RULES, SAMPLING

            rule = SAMPLING.get(name) or RULES[name]
            try:
                number: float = rule.kind(value)
            except ValueError:
                self.note(f"{name} must be a number")
                return
            self.settings[name] = rule.check(name, number)
        else:
            self.note(
                f"/set knows {', '.join([*sampling_defaults(), 'max_tokens', 'seed', 'system'])}"
            )
            return
        self.note(f"{name} = {_shown_setting(self.settings[name])}")

    def show(self, _: str) -> None:
        for name, fallback in sampling_defaults().items():
            self.note(f"  {name:18} {_shown_setting(self.settings.get(name, fallback))}")
        for name in ("max_tokens", "seed"):
            self.note(f"  {name:18} {_shown_setting(self.settings[name])}")
        self.note(f"  {'system':18} {shown(self.system) if self.system else '-'}")
        used = len(self.runtime.chat_tokens(self.messages)) if self.messages else 0
        self.note(
            f"  {'context':18} {used} of {self.runtime.n_ctx} tokens, {len(self.messages)} messages"
        )
        self.note(f"  {'model':18} {self.runtime.description}")

    def leave(self, _: str) -> bool:
        return True

    # ---- what is shown; stdout carries the answers alone

    def banner(self) -> str:
        return (
            f"hrun {hrun.__version__}\n{shown(self.runtime.description)}\n"
            "/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves\n"
        )

    def note(self, text: str) -> None:
        sys.stdout.flush()
        print(
            f"\x1b[2m{text}\x1b[0m" if self.colors and text else text, file=sys.stderr, flush=True
        )

    def complain(self, error: Exception) -> None:
        line = " ".join(str(error).split())
        sys.stdout.flush()
        print(f"\x1b[31m{line}\x1b[0m" if self.colors else line, file=sys.stderr, flush=True)


def sampling_defaults() -> dict[str, float]:
    """Names and defaults of the sampling parameters."""
    return {row.name: row.default for row in samplers()}


def _shown_setting(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _is_saved_chat(path: Path) -> bool:
    try:
        _read_chat(path)
        return True
    except (hrun.Error, OSError):
        return False


def _read_chat(path: Path) -> tuple[str | None, list[dict[str, str]]]:
    """System message and messages of a saved chat.  Raises ArgumentError if the file is none."""
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise hrun.ArgumentError(f"{path} is no saved chat: {printable(str(error))}") from error
    if (
        not isinstance(saved, dict)
        or saved.get("format") != _FORMAT
        or not isinstance(saved.get("messages"), list)
    ):
        raise hrun.ArgumentError(f"{path} is no saved chat")
    messages = []
    for i, message in enumerate(saved["messages"]):
        if not isinstance(message, dict) or not all(
            isinstance(message.get(k), str) for k in ("role", "content")
        ):
            raise hrun.ArgumentError(f"{path}: message {i} must have a role and a content")
        messages.append({"role": message["role"], "content": message["content"]})
    system = saved.get("system")
    return (system if isinstance(system, str) else None), messages
