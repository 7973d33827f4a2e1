"""Judges the parsers of answers by llama.cpp's own cases: (chat template, what a model wrote, the message that it means).

Usage: chat_triples.py LLAMA.CPP [-v]
The cases are read out of tests/test-chat.cpp as they stand there, each answer is parsed whole and character by character, and
the message must be the same: texts but for blanks around them, calls by name and by the value of their arguments.  Cases
of templates whose calls hrun has no row for are counted apart.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hrun.chat_template import ChatTemplate
from hrun.errors import ChatTemplateError
from hrun.serve.options import Options
from hrun.serve.tools.dialect import Dialect
from hrun.serve.tools.formats import format_of, reasoning_of
from hrun.serve.tools.request import tools_of
from hrun.serve.tools.tags import Tags

_TOKEN = re.compile(
    r"""(?P<skip>\s+|//[^\n]*|/\*.*?\*/)|R"(?P<mark>[^(\s]*)\((?P<raw>.*?)\)(?P=mark)"|"(?P<text>(?:[^"\\]|\\.)*)"|(?P<name>[A-Za-z_][\w:]*)|(?P<number>\d+)|(?P<other>.)""",
    re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "'": "'", "\\": "\\", "0": "\0"}


# Control tokens look like this in such vocabularies.
_CONTROL = re.compile(r"(<\|[^|<>]*\|>|<｜[^｜<>]*｜>|\[/?[A-Z_]{4,}\])")


@dataclass
class Message:
    """The meaning of an answer."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Case:
    """One chain of calls of the tester."""

    line: int
    template: str
    text: str
    settings: dict[str, Any]
    expected: Message


class _Unreadable(Exception):
    """The C++ source holds more than this module reads."""


class _Source:
    """Reads as much of C++ as the cases are written in."""

    def __init__(self, text: str) -> None:
        self.tokens: list[tuple[str, str, int]] = []
        line = 1
        for found in _TOKEN.finditer(text):
            kind = found.lastgroup or ""
            if kind == "mark" or found["raw"] is not None:
                self.tokens.append(("text", found["raw"], line))
            elif kind == "text":
                self.tokens.append(("text", _unescaped(found["text"]), line))
            elif kind != "skip":
                self.tokens.append((kind, found[0], line))
            line += found[0].count("\n")
        self.names: dict[str, Any] = {}

    def define(self) -> None:
        """Tools and messages that have names."""
        for i, (_, token, _) in enumerate(self.tokens[:-2]):
            name, after = self.tokens[i + 1][1], self.tokens[i + 2][1]
            try:
                if token == "common_chat_tool" and after == "{":
                    values, _ = self.value(i + 2)
                    self.names[name] = values
                elif token == "common_chat_msg" and after == "=":
                    self.names[name], _ = self.value(i + 3)
                elif token.rpartition("::")[2] in ("char", "string") and after == "=":
                    self.names[name], _ = self.value(i + 3)
            except _Unreadable:
                continue

    def value(self, i: int) -> tuple[Any, int]:
        """(the expression that begins there, where it ends)."""
        kind, token, _ = self.tokens[i]
        if kind == "text":
            out = token
            while True:
                i += 1
                if self.tokens[i][0] == "text":
                    out += self.tokens[i][1]
                elif self.tokens[i][1] == "+":
                    more, i = self.value(i + 1)
                    return out + str(more), i
                else:
                    return out, i
        if token == "{":
            return self.several(i + 1, "}")
        if kind == "number":
            return int(token), i + 1
        if kind != "name":
            raise _Unreadable(token)
        if self.tokens[i + 1][1] == "(":
            arguments, end = self.several(i + 2, ")")
            return self.call(token, arguments), end
        if token in ("true", "false"):
            return token == "true", i + 1
        if token.startswith("COMMON_"):
            return token, i + 1
        if token not in self.names:
            raise _Unreadable(token)
        value, end = self.names[token], i + 1
        if isinstance(value, str) and self.tokens[end][1] == "+":
            more, end = self.value(end + 1)
            return value + str(more), end
        return value, end

    def several(self, i: int, close: str) -> tuple[list[Any], int]:
        """Values up to the bracket."""
        values = []
        while self.tokens[i][1] != close:
            value, i = self.value(i)
            values.append(value)
            if self.tokens[i][1] == ",":
                i += 1
            elif self.tokens[i][1] != close:
                raise _Unreadable(self.tokens[i][1])
        return values, i + 1

    def call(self, name: str, arguments: list[Any]) -> Any:
        """Returns the value that a helper function of the file makes."""
        a = [*arguments, *[""] * 5]
        if name == "simple_assist_msg":
            calls = [(a[2], a[3])] if a[2] or a[4] else []
            return Message(a[0], a[1], calls)
        if name == "message_with_tool_calls":
            return Message("", "", [(a[0], a[1])])
        if name == "message_with_tool_calls_and_reasoning":
            return Message("", a[2], [(a[0], a[1])])
        if name == "message_with_reasoning_content_and_multiple_tool_calls":
            return Message(a[1], a[0], [(c[0], c[1]) for c in a[2]])
        if name == "message_with_content_and_tool_call":
            return Message(a[0], "", [(a[1], a[2])])
        if name == "message_with_reasoning_and_tool_call":
            return Message("", a[0], [(a[1], a[2])])
        raise _Unreadable(name)

    def cases(self) -> Iterator[Case]:
        """All chains that can be read; the template is the last one that a tester was made with."""
        template = ""
        i = 0
        while i < len(self.tokens) - 4:
            _, token, line = self.tokens[i]
            if token == "peg_tester" and self.tokens[i + 1][1] == "(":
                template = self.tokens[i + 2][1] if self.tokens[i + 2][0] == "text" else ""
            elif token == "test" and self.tokens[i - 1][1] == "." and template:
                try:
                    case, i = self._case(i, line, template)
                    yield case
                    continue
                except _Unreadable:
                    pass
            i += 1

    def _case(self, i: int, line: int, template: str) -> tuple[Case, int]:
        chain: dict[str, Any] = {}
        while True:
            name = self.tokens[i][1]
            arguments, i = self.several(i + 2, ")")
            chain[name] = arguments[0] if arguments else None
            if name == "run":
                break
            if self.tokens[i][1] != ".":
                raise _Unreadable(self.tokens[i][1])
            i += 1
        expected: Message = chain.pop("expect", Message())
        expected = Message(expected.content, expected.reasoning, list(expected.calls))
        expected.content = chain.pop("expect_content", expected.content)
        expected.reasoning = chain.pop("expect_reasoning", expected.reasoning)
        if "expect_tool_calls" in chain:
            expected.calls = [(c[0], c[1]) for c in chain.pop("expect_tool_calls")]
        return Case(line, template, chain.pop("test"), chain, expected), i


def _unescaped(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] in "xuU":
            return chr(int(code[1:], 16))
        return _ESCAPES.get(code, code)

    out = re.sub(
        r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|.)", one, text, flags=re.DOTALL
    )
    try:  # bytes of UTF-8 that were written one by one
        return out.encode("latin-1").decode() if "\\x" in text else out
    except UnicodeError:
        return out


def cases_of(root: Path) -> list[Case]:
    """Returns the cases of a checkout of llama.cpp."""
    source = _Source((root / "tests" / "test-chat.cpp").read_text(encoding="utf-8"))
    source.define()
    return list(source.cases())


# Settings of a case that are about something else than reading an answer.
_OTHER = {
    "messages",
    "continue_final_message",
    "add_generation_prompt",
    "json_schema",
}


def why_not(case: Case, source: str) -> str | None:
    """Returns the reason why a case is not judged."""
    for name in _OTHER & case.settings.keys():
        return name
    if case.settings.get("tools") and format_of(source) is None:
        return "no row for the template"
    return None


@cache
def _prompt(source: str, tools: str, thinks: bool) -> str:
    """The prompt that an answer follows, "" where the template refuses."""
    template = ChatTemplate(source)
    offered = {"tools": json.loads(tools)} if tools != "[]" else {}
    try:
        return template.render(
            [{"role": "user", "content": "Hey there!"}], bos_token="", eos_token="", add_generation_prompt=True,
            enable_thinking=thinks, **offered,
        )  # fmt: skip
    except ChatTemplateError:
        return ""
    finally:
        template.close()


def parsed(case: Case, source: str, step: int) -> Message:
    """The message, of an answer that comes in pieces of so many characters."""
    asked = case.settings
    tools = tools_of(
        [
            {"type": "function", "function": {"name": t[0], "description": t[1], "parameters": json.loads(t[2] or "{}")}}
            for t in asked.get("tools") or ()
        ],
        None, asked.get("parallel_tool_calls", False) or None, 100,
    )  # fmt: skip
    thinks = (
        "none"
        if asked.get("reasoning_format", "").endswith("_NONE") or "reasoning_format" not in asked
        else "auto"
    )
    dialect = Dialect(source, Options(reasoning_format=thinks))
    thinking = reasoning_of(source) is not None and dialect.opened_by(
        _prompt(source, json.dumps(tools.offered), asked.get("enable_thinking", True))
    )
    names = set(_CONTROL.findall(case.text))
    parser = dialect.parser(Tags(names), tools, thinking)
    events = []
    for i, part in enumerate(_CONTROL.split(case.text)):
        if i % 2:
            events += parser.control(part)
        for at in range(0, 0 if i % 2 else len(part), step):
            events += parser.feed(part[at : at + step])
    events += parser.finish()
    message = Message()
    for event in events:
        if event.kind == "content":
            message.content += event.text
        elif event.kind == "reasoning":
            message.reasoning += event.text
        elif event.kind == "call":
            message.calls.append((event.name, ""))
        else:
            name, arguments = message.calls[event.index]
            message.calls[event.index] = (name, arguments + event.text)
    return message


def same(one: Message, two: Message) -> bool:
    """Are two messages the same, but for blanks, control tokens (which are not shown here) and the
    way JSON is written?
    """

    def value(text: str) -> Any:
        try:
            return json.loads(text or "{}")
        except ValueError:
            return text.rstrip()

    def key(m: Message) -> Any:
        texts = [_CONTROL.sub("", text).strip() for text in (m.content, m.reasoning)]
        return texts, [(n, value(a)) for n, a in m.calls]

    return bool(key(one) == key(two))


def judge(root: Path) -> tuple[Counter[str], Counter[str], list[tuple[Case, Message]]]:
    """(cases that agree, by template; cases that are not judged, by why; those that differ, with what was found)."""
    agree: Counter[str] = Counter()
    left: Counter[str] = Counter()
    differ: list[tuple[Case, Message]] = []
    for case in cases_of(root):
        source = (root / case.template).read_text(encoding="utf-8")
        reason = why_not(case, source)
        if reason is not None:
            left[reason] += 1
            continue
        whole, single = (parsed(case, source, step) for step in (max(len(case.text), 1), 1))
        assert whole == single, case
        if same(whole, case.expected):
            agree[Path(case.template).stem] += 1
        else:
            differ.append((case, whole))
    return agree, left, differ


# Cases that hrun reads differently on purpose, by template: the largest number, and the reason.
_CUT = "a list of calls that is cut in the head of its first call is text; llama.cpp takes the name for a call"
KNOWN = {
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": (1, _CUT),
    "Cohere2MoE": (1, _CUT),
    "inclusionai-ling-3.0-flash": (
        1,
        "where thoughts are shown as the model wrote them, the tag that the prompt has opened is shown too, as llama.cpp itself does for others",
    ),
}


def unexpected(differ: list[tuple[Case, Message]]) -> list[str]:
    """Templates of which more cases differ than is known."""
    counts = Counter(Path(case.template).stem for case, _ in differ)
    return [f"{name}: {n}" for name, n in counts.items() if n > KNOWN.get(name, (0, ""))[0]]


def main() -> int:
    """The command; 1 where a case differs that is not known to."""
    agree, left, differ = judge(Path(sys.argv[1]))
    print(
        f"{sum(agree.values())} agree, {len(differ)} differ, {sum(left.values())} not judged: {dict(left)}"
    )
    counts = Counter(Path(case.template).stem for case, _ in differ)
    for name in sorted({*agree, *counts}):
        print(f"  {name}: {agree[name]} agree, {counts[name]} differ")
    if "-v" in sys.argv:
        for case, found in differ:
            print(
                f"line {case.line} {Path(case.template).stem} {sorted(case.settings)}\n  text {case.text!r}\n  want {case.expected}\n  got  {found}"
            )
    for line in unexpected(differ):
        print(f"not known: {line}")
    return bool(unexpected(differ))


if __name__ == "__main__":
    sys.exit(main())
