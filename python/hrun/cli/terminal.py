"""The chat: a conversation, the commands on it, and what a person sees."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hrun
from hrun._core import samplers
from hrun.cli.answer_view import AnswerView
from hrun.cli.common import EXIT_INTERRUPTED
from hrun.cli.generation import generation_options, shown, timings_line
from hrun.cli.reader import Reader, history_path, keys_kept, make_reader
from hrun.cli.saved_chats import is_saved_chat, keep_last, last_chat, read_chat, write_chat
from hrun.cli.texts import system_message
from hrun.cli.wrapping import wrapped
from hrun.errors import printable

COMMANDS_HELP = {
    "/help": "this list",
    "/clear": "forget the conversation (the system message stays)",
    "/regen": "answer the last message again",
    "/save FILE": "write the conversation to a file (JSON)",
    "/load FILE": "go on with a saved conversation",
    "/set NAME VALUE": "change a sampling parameter, max_tokens, seed or system",
    "/system TEXT": "change the system message; without TEXT show it, - for none",
    "/undo": "take back the last message and its answer",
    "/compact": "let the model sum the conversation up, and go on from that",
    "/think": "what the model thought before its last answer",
    "/raw": "answers as they come, without their markdown and with thoughts; again: rendered",
    "/show": "all settings, and how full the context is",
    "/tokens TEXT": "the tokens of a text; without TEXT of each message",
    "/exit": "leave (also Ctrl-D)",
}
_SHORT = {"temp": "temperature", "n": "max_tokens", "predict": "max_tokens"}  # as the flags have it
_SUM_UP = (
    "Sum up our conversation so far: what was asked, what was answered, and every fact, name, number and decision that "
    "matters for what follows. Be brief and write nothing else."
)
_ANSWER_ROOM = 512  # tokens, or a quarter of the context


class Terminal:
    """One chat in a terminal; ``run`` returns the exit code.

    ``plain``: without a template; each message is continued, and those before it are not seen.
    """

    def __init__(
        self, runtime: hrun.Runtime, options: argparse.Namespace, plain: bool = False
    ) -> None:
        self.plain = plain
        self.first = 0  # of the messages that still fit into the context
        self.runtime = runtime
        self.options = options
        self.settings = generation_options(runtime, options)
        self.system = system_message(options)
        self.messages: list[dict[str, str]] = []
        self.answers = 0
        self.interrupted = False  # Ctrl-C came, and nothing was typed since
        on_terminal = os.isatty(1) and os.environ.get("TERM") != "dumb"
        self.wraps = on_terminal and not options.simple_io
        self.colors = options.color == "on" or (
            options.color == "auto" and on_terminal and "NO_COLOR" not in os.environ
        )
        self.renders = self.wraps and self.colors and options.markdown
        self.thought = ""
        self.commands: dict[str, Callable[[str], bool | None]] = {
            "/help": self.help, "/?": self.help, "/clear": self.clear, "/regen": self.regenerate, "/save": self.save,
            "/load": self.load, "/set": self.set, "/system": self.set_system, "/undo": self.undo, "/show": self.show,
            "/tokens": self.tokens, "/compact": self.compact, "/think": self.think, "/raw": self.raw, "/exit": self.leave, "/quit": self.leave,
            "/bye": self.leave,
        }  # fmt: skip

    def run(self, first: str | None) -> int:
        """Talks until the user leaves.  ``first`` is answered before anything is read."""
        # A model that cannot chat should say so now, not after a message has been typed.
        if not self.plain:
            self.runtime.chat_tokens([{"role": "user", "content": ""}])
        names = [name for name in self.settings if name not in ("stop", "logit_bias", "ignore_eos")]
        reader: Reader = make_reader(
            commands=[c for c in self.commands if c not in ("/?", "/quit", "/bye")],
            settings=[*names, "system"],
            multiline=self.options.multiline_input,
            simple=self.options.simple_io,
            colors=self.colors,
            keeps=self.options.history,
        )
        if self.options.resume:
            system, self.messages = last_chat()
            self.system = self.system or system
        self.note(self.banner())
        self.recall()
        try:
            return self.talk(reader, first)
        finally:
            if self.options.history:
                keep_last(self.runtime.model_path, self.system, self.messages)

    def talk(self, reader: Reader, first: str | None) -> int:
        answered = len(self.messages)
        if first:
            self.note("> " + first)
            self.say(first)
        while not (self.options.single_turn and len(self.messages) > answered):
            try:
                text = reader.read(self.status())
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
            # A path is no command.
            if command.startswith("/") and not {"/", "\n"} & set(command[1:]):
                try:
                    if self.command(command, argument.strip()):
                        return 0
                except hrun.Error as error:
                    self.complain(str(error))
                except OSError as error:
                    self.complain(f"{error.filename or 'cannot write'}: {error.strerror or error}")
            else:
                self.say(text)
        return 0

    # ---- the conversation

    def say(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})
        if not self.answer():
            self.messages.pop()

    def answer(self) -> bool:
        """Answers the last message; False if that was impossible."""
        first = self.first
        settings = dict(self.settings)
        if (
            settings["seed"] is not None
        ):  # a fixed seed repeats the chat, not the same draw for every answer
            settings["seed"] = (settings["seed"] + self.answers) % 2**64
        self.answers += 1
        parts: list[str] = []
        generation = None
        view = AnswerView(self.template(), self.prompt_text(), self.renders) if self.wraps else None
        try:
            with keys_kept():
                for piece in self.pieces(settings):
                    parts.append(piece.text)
                    text = shown(piece.text)
                    sys.stdout.write(view.feed(text) if view else text)
                    sys.stdout.flush()
                    generation = piece.generation
        except KeyboardInterrupt:
            self.interrupted = True
        except hrun.Error as error:
            if parts:
                print(view.finish() if view else "")
            overflow = isinstance(error, hrun.ContextOverflowError)
            self.complain(f"{error} (-c N)" if overflow else str(error))
            if overflow:
                self.note(self.ways_out())
            self.first = first
            return False
        text = "".join(parts)
        if view is not None:
            sys.stdout.write(view.finish())
            self.thought = view.thought
        if not text.endswith("\n"):
            print()
        self.messages.append({"role": "assistant", "content": text})
        if generation is None:
            self.note("[stopped]")
        elif self.options.show_timings is not False:
            self.note(timings_line(generation))
            if generation.finish_reason == "length" and settings["max_tokens"] is None:
                self.note(f"the context is full; {self.ways_out()}")
        self.note("")
        return True

    def ways_out(self) -> str:
        """Names the commands that help where the context is full."""
        turns = sum(message["role"] == "user" for message in self.messages)
        summing = "" if self.plain or turns < 2 else "/compact sums the conversation up, "
        return f"{summing}/clear begins anew"

    def pieces(self, settings: dict[str, Any]) -> Iterator[hrun.Piece]:
        if self.plain:
            text = self.messages[-1]["content"]
            yield from self.runtime.generate(text, stream=True, parse_special=True, **settings)
            return
        self.make_room()
        yield from self.runtime.chat(self.sent(), stream=True, **settings)

    def template(self) -> str | None:
        return None if self.plain else self.runtime.tokenizer.chat_template

    def prompt_text(self) -> str:
        """The end of what the model reads, which tells whether it begins with a thought."""
        if self.plain or not self.renders:
            return ""
        return self.runtime.detokenize(self.runtime.chat_tokens(self.sent())[-16:])

    def sent(self) -> list[dict[str, str]]:
        """Returns the messages of the conversation that the model sees."""
        return self.with_system(self.messages[self.first :])

    def with_system(self, messages: list[dict[str, str]]) -> list[dict[str, str]]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        return [*system, *messages]

    def make_room(self) -> None:
        """Leaves the oldest turns out where they and an answer do not fit; several at once, as what follows is read anew."""
        n_ctx = self.runtime.n_ctx
        wanted = self.settings["max_tokens"] or _ANSWER_ROOM
        room = n_ctx - min(wanted, n_ctx // 4)
        if len(self.runtime.chat_tokens(self.sent())) <= room:
            return
        before = self.first
        turns = [i for i, m in enumerate(self.messages) if m["role"] == "user" and i > self.first]
        for self.first in turns:
            if len(self.runtime.chat_tokens(self.sent())) <= room * 3 // 4:
                break
        if self.first > before:
            self.note(
                f"the context is full: the oldest {self.first} messages are left out from here on "
                "(/compact sums the conversation up; a larger context: -c N)"
            )

    # ---- commands; each returns True to leave

    def command(self, name: str, argument: str) -> bool | None:
        if name not in self.commands:
            near = difflib.get_close_matches(name, self.commands, 1)
            meant = f"; did you mean {near[0]}?" if near else ""
            self.note(f"unknown command {printable(name, 40)}{meant}; /help lists them")
            return None
        return self.commands[name](argument)

    def help(self, _: str) -> None:
        for command, meaning in COMMANDS_HELP.items():
            self.note(f"  {command:16} {meaning}")
        self.note(
            '  """             begins and ends a message of several lines; Alt-Enter also begins a new line'
        )

    def clear(self, _: str) -> None:
        self.messages.clear()
        self.first = 0
        self.note("the conversation is forgotten")

    def regenerate(self, _: str) -> None:
        if not self.messages:
            self.note("there is no message to answer")
            return
        last = self.messages.pop() if self.messages[-1]["role"] == "assistant" else None
        if not self.answer() and last is not None:
            self.messages.append(last)

    def undo(self, _: str) -> None:
        turns = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if not turns:
            self.note("there is nothing to take back")
            return
        del self.messages[turns[-1] :]
        self.first = min(self.first, len(self.messages))
        self.note(f"{len(self.messages)} messages remain")

    def save(self, name: str) -> None:
        if not name:
            self.note("usage: /save FILE")
            return
        path = Path(name).expanduser()
        if path.exists() and not is_saved_chat(path):
            self.note(f"{printable(name)} exists and is no saved chat; choose another name")
            return
        write_chat(path, self.runtime.model_path, self.system, self.messages)
        self.note(f"{len(self.messages)} messages written to {printable(str(path))}")

    def load(self, name: str) -> None:
        if not name:
            self.note("usage: /load FILE")
            return
        self.system, self.messages = read_chat(Path(name).expanduser())
        self.first = 0
        self.recall()

    def recall(self) -> None:
        """The end of a conversation that was read from a file."""
        if self.messages:
            self.note(f"{len(self.messages)} messages loaded")
        for message in self.messages[-2:]:
            self.note(f"{shown(message['role'])}: {shown(message['content'])}")

    def compact(self, _: str) -> None:
        """The conversation but for its last turn, as a summary that the model writes."""
        turns = [i for i, message in enumerate(self.messages) if message["role"] == "user"]
        if self.plain or len(turns) < 2:
            self.note("there is nothing to sum up yet")
            return
        before, self.first = self.first, min(self.first, turns[-1] - 1)
        kept = self.messages[turns[-1] :]
        asked = {"role": "user", "content": _SUM_UP}
        told = self.messages[: turns[-1]]
        while self.first < len(told) - 1 and not self.fits([*told[self.first :], asked]):
            self.first += 2
        self.note("summing up ...")
        settings = {
            **self.settings,
            "max_tokens": min(_ANSWER_ROOM, self.runtime.n_ctx // 4),
            "temperature": 0,
            "grammar": None,
        }
        try:
            answer = self.runtime.chat(self.with_system([*told[self.first :], asked]), **settings)
        except (KeyboardInterrupt, hrun.Error) as error:
            self.first = before
            self.note("[stopped]" if isinstance(error, KeyboardInterrupt) else str(error))
            return
        summary = answer.text.strip()
        if not summary:
            self.first = before
            self.note("the model wrote nothing; the conversation stays as it is")
            return
        self.messages = [
            {"role": "user", "content": "What have we said so far?"},
            {"role": "assistant", "content": summary},
            *kept,
        ]
        self.first = 0
        self.note(f"{shown(summary)}\n\n{self.context()}")

    def fits(self, messages: list[dict[str, str]]) -> bool:
        """Is there room for the messages and a summary?"""
        room = self.runtime.n_ctx - min(_ANSWER_ROOM, self.runtime.n_ctx // 4)
        return len(self.runtime.chat_tokens(self.with_system(messages))) <= room

    def think(self, _: str) -> None:
        self.note(shown(self.thought.strip()) or "no thought was folded away")

    def raw(self, _: str) -> None:
        if not (self.wraps and self.colors):
            self.note(
                "answers are shown as they come: this terminal has no colours, or they are off"
            )
            return
        self.renders = not self.renders
        self.note("answers are rendered" if self.renders else "answers are shown as they come")

    def set(self, argument: str) -> None:
        name, _, value = argument.partition(" ")
        value = value.strip()
        name = _SHORT.get(name, name)
        if name == "system":
            self.set_system(value or "-")
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
            known = [*sampling_defaults(), "max_tokens", "seed", "system"]
            near = difflib.get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]}? " if near else ""
            self.note(f"{meant}/set knows {', '.join(known)}")
            return
        self.note(f"{name} = {_shown_setting(self.settings[name])}")

    def set_system(self, text: str) -> None:
        if text:
            self.system = text if text != "-" else None
        now = f'"{shown(self.system)}"' if self.system else "empty"
        self.note(f"the system message is {now}")

    def tokens(self, text: str) -> None:
        runtime = self.runtime
        if text:
            ids = runtime.tokenize(text)
            parts = [printable(runtime.detokenize([i])) for i in ids]
            self.note(" ".join(f"{i}:{part!r}" for i, part in zip(ids, parts)))
            self.note(f"{len(ids)} tokens")
            return
        for i, message in enumerate(self.messages):
            n = len(runtime.tokenize(message["content"]))
            start = shown(message["content"][:60]).replace("\n", " ")
            out = " (left out)" if i < self.first else ""
            self.note(f"  {n:6} {message['role']:10} {start}{out}")
        self.note(self.context())

    def used(self) -> int:
        """Tokens of the conversation, as the model sees it."""
        sent = self.sent()
        return len(self.runtime.chat_tokens(sent)) if sent and not self.plain else 0

    def status(self) -> str:
        """Tokens used, and what the context holds; nothing before the first message."""
        if not self.messages or self.plain:
            return ""
        try:
            return f"{self.used()}/{self.runtime.n_ctx}"
        except hrun.Error:  # a template that wants a question at the end says so when there is one
            return ""

    def context(self) -> str:
        """Says how full the context is."""
        used = self.used()
        out = f", {self.first} of them left out" if self.first else ""
        return f"{used} of {self.runtime.n_ctx} tokens, {len(self.messages)} messages{out}"

    def show(self, _: str) -> None:
        for name, fallback in sampling_defaults().items():
            self.note(f"  {name:18} {_shown_setting(self.settings.get(name, fallback))}")
        for name in ("max_tokens", "seed"):
            self.note(f"  {name:18} {_shown_setting(self.settings[name])}")
        bias = ", ".join(f"{i}{value:+g}" for i, value in self.settings["logit_bias"].items())
        rows = {
            "stop": ", ".join(map(repr, self.settings["stop"])),
            "logit_bias": bias,
            "ignore_eos": "yes" if self.settings["ignore_eos"] else "no",
            "grammar": "given" if self.settings["grammar"] is not None else "",
            "system": shown(self.system or ""),
            "context": self.context(),
            "cache": f"keys {self.options.cache_type_k}, values {self.options.cache_type_v}",
            "template": "none" if self.plain else "the model's",
            "answers": "rendered" if self.renders else "as they come",
            "history": str(history_path()) if self.options.history else "",
            "model": self.runtime.description,
        }
        for name, value in rows.items():
            self.note(f"  {name:18} {value or '-'}")
        self.note(f"  {'file':18} {printable(str(self.runtime.model_path), 400)}")

    def leave(self, _: str) -> bool:
        return True

    # ---- what is shown; stdout carries the answers alone

    def banner(self) -> str:
        return (
            f"hrun {hrun.__version__}\n{shown(self.runtime.description)}\n"
            + "no chat template: each message is continued as plain text\n" * self.plain
            + "/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves\n"
        )

    def note(self, text: str) -> None:
        sys.stdout.flush()
        text = wrapped(text) if self.wraps else text
        print(
            f"\x1b[2m{text}\x1b[0m" if self.colors and text else text, file=sys.stderr, flush=True
        )

    def complain(self, error: str) -> None:
        line = " ".join(error.split())
        sys.stdout.flush()
        print(f"\x1b[31m{line}\x1b[0m" if self.colors else line, file=sys.stderr, flush=True)


def sampling_defaults() -> dict[str, float]:
    """Names and defaults of the sampling parameters."""
    return {row.name: row.default for row in samplers()}


def _shown_setting(value: Any) -> str:
    return "-" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
