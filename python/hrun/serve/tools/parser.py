"""Takes an answer apart while it comes: what the model thinks, what it says, which tools it calls.

What is decided depends on the text alone, never on how it was cut: a decision waits until no continuation could change it.
A call is given out as it is written where its text begins as the family has it (:mod:`hrun.serve.tools.writing`), else when it
is complete; what cannot be read as one is content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hrun.serve.choice import Event
from hrun.serve.tools.calls import Writing, read_calls
from hrun.serve.tools.formats import Reasoning, ToolFormat
from hrun.serve.tools.tags import control, overlap, shown, unmarked
from hrun.serve.tools.writing import begun, is_rest
from hrun.serve.tools.written_json import JsonScan


class TagParser:
    """Parses formats whose calls stand between tags, or are the whole answer."""

    def __init__(
        self,
        row: ToolFormat | None,
        reasoning: Reasoning | None,
        *,
        tools: Mapping[str, Any],
        tag: Callable[[str], str],
        thinking: bool,
        new_id: Callable[[ToolFormat], str],
        parallel: bool = True,
        opening: str = "",
    ) -> None:
        """``tools``: schemas of arguments by name.  ``tag`` writes a tag as :class:`Tags` does.  ``thinking``: the prompt
        has opened the tag.  ``opening``: that tag, where it is to be shown."""
        self.failures = 0
        self._row = row if tools else None
        self._tools = tools
        self._new_id = new_id
        self._parallel = parallel
        self._tag = tag
        self._think = (self._tag(reasoning.begin), self._tag(reasoning.end)) if reasoning else None
        self._opening = reasoning.begin + "\n" if reasoning and reasoning.spoken else ""
        self._silent = _silent_tags(row, reasoning, tag)
        self._opened = self._tag(row.opened) if row is not None else ""
        self._text = self._opened
        self._state = self._thinks if thinking and reasoning else self._starts
        self._shown_first = opening
        self._skip_space = True
        self._space = ""  # of content, dropped if a call follows
        self._said = False
        self._n_calls = 0
        self._scan = JsonScan()
        self._from = 0  # where the search for the end of a call goes on
        self._begin = ""  # the tag that opened the call
        self._in_section = False
        self._writing: Writing | None = None  # of the call that is given out as it comes
        self._shown = 0  # characters of the text that went into its arguments
        self._out: list[Event] = []

    @property
    def held(self) -> int:
        """Characters that wait."""
        return len(shown(self._text[self._shown :])) + len(self._space)

    @property
    def n_calls(self) -> int:
        """Calls that have begun."""
        return self._n_calls

    def feed(self, text: str) -> list[Event]:
        """Text that the model wrote."""
        self._text += text
        while self._state():
            pass
        out, self._out = self._out, []
        return out

    def control(self, name: str) -> list[Event]:
        """A control token that the model wrote."""
        return self.feed(control(name))

    def finish(self) -> list[Event]:
        """The end: what is held is what it looks like now."""
        text, self._text = self._text, ""
        if text == self._opened:
            text = ""
        if self._state == self._writes:
            self._shown = 0
            self._finish_writing(text, tagged=False)
        elif self._state == self._calls:
            calls = self._read(text)
            if calls is None:
                self._fail(self._begin + text)
            else:
                self._give(calls)
        elif self._state == self._maybe_bare:
            calls = self._read(text)
            if calls is None or any(call.name not in self._tools for call in calls):
                self._say(text)
            else:
                self._give(calls)
        elif self._state == self._thinks:
            self._reason(text.rstrip())
        else:
            self._say(text)
        if self._space and not self._n_calls:
            self._out.append(Event("content", self._space))
        self._space = ""
        out, self._out = self._out, []
        return out

    # ---- states: each does one step on the text, and says whether it got on

    def _starts(self) -> bool:
        """The state before the model has written anything but blanks."""
        text = self._text
        start = len(text) - len(text.lstrip())
        rest = text[start:]
        if not rest:
            return False
        if self._shown_first:
            self._say(self._shown_first)
            self._shown_first = ""
        if self._think is not None:
            begin, end = self._think
            if rest.startswith(begin):
                self._text = rest[len(begin) :]
                self._state, self._skip_space = self._thinks, True
                return True
            if rest.startswith(end):  # the end of thoughts that were never begun
                self._text = rest[len(end) :]
                self._state = self._after_thoughts
                return True
            if begin.startswith(rest) or end.startswith(rest):
                return False
        return self._answers()

    def _answers(self) -> bool:
        """Begins to read the answer that follows the thoughts: as a bare call, or as text."""
        self._state = self._says
        if self._row is None or not self._row.bare:
            return True
        rest = self._text.lstrip()
        opens = "[" if self._row.payload == "pythonic" else "{["
        if rest and rest[0] in opens:
            self._text = rest
            self._state, self._scan = self._maybe_bare, JsonScan()
        return True

    def _thinks(self) -> bool:
        assert self._think is not None
        if self._skip_space:
            self._text = self._text.lstrip()
            if not self._text:
                return False
            self._skip_space = False
            self._reason(self._opening)
        end = self._think[1]
        tags = [end]
        if self._row is not None and self._row.ends_thoughts:
            tags += [*self._call_tags(), *self._silent]
        places = [(at, tag) for tag in tags if (at := self._text.find(tag)) >= 0]
        if places:
            at, tag = min(places)
            self._reason(self._text[:at].rstrip())
            self._text = self._text[at + (len(end) if tag == end else 0) :]
            self._state, self._skip_space = self._after_thoughts, True
            return True
        keep = overlap(self._text, tags)
        ready = self._text[: len(self._text) - keep].rstrip()
        self._reason(ready)
        self._text = self._text[len(ready) :]
        return False

    def _after_thoughts(self) -> bool:
        self._text = self._text.lstrip()
        return bool(self._text) and self._answers()

    def _says(self) -> bool:
        row = self._row
        tags = [*self._call_tags(), *self._silent]
        if not tags:
            self._say(self._text)
            self._text = ""
            return False
        if (
            row is not None and row.padded
        ):  # Qwen's coders leave the tag around a call out now and then
            tags += [self._tag(row.name_prefix + name + row.name_end) for name in self._tools]
        places = [(at, -len(tag), tag) for tag in tags if (at := self._text.find(tag)) >= 0]
        if not places:
            keep = overlap(self._text, tags)
            ready = self._text[: len(self._text) - keep]
            self._say(ready)
            self._text = self._text[len(ready) :]
            return False
        at, _, tag = min(places)
        self._say(self._text[:at])
        self._text, at = self._text[at:], 0
        if any(len(other) > len(tag) and other.startswith(self._text) for other in tags):
            return False  # it may become that one
        if tag in self._silent:
            self._text, self._opened = self._text[len(tag) :], ""
            return True
        assert row is not None
        begin = self._tag(row.call_begin)
        if tag not in self._call_tags() or row.opened:
            self._text = self._text[len(begin) if row.opened else 0 :]
            self._open(begin)
            return True
        self._text = self._text[at + len(tag) :]
        if tag == begin:
            self._open(tag)
        else:
            self._state, self._in_section = self._between, True
        return True

    def _call_tags(self) -> list[str]:
        """Tags with which calls begin."""
        row = self._row
        if row is None:
            return []
        if row.opened:  # so short a tag counts before the name of a tool only
            return [self._tag(row.call_begin + name + row.name_end) for name in self._tools]
        return [self._tag(t) for t in (row.section_begin, row.call_begin) if t]

    def _between(self) -> bool:
        """The state inside a section, before a call or the end."""
        row = self._row
        assert row is not None
        self._text = self._text.lstrip()
        begin, end = self._tag(row.call_begin), self._tag(row.section_end)
        if not self._text:
            return False
        for tag in (begin, end):
            if self._text.startswith(tag):
                self._text = self._text[len(tag) :]
                if tag == begin:
                    self._open(tag)
                else:
                    self._state, self._in_section = self._says, False
                return True
        if begin.startswith(self._text) or end.startswith(self._text):
            return False
        self._state, self._in_section = self._says, False
        return True

    def _open(self, tag: str) -> None:
        self._begin = tag
        self._state, self._scan, self._from = self._calls, JsonScan(), 0

    def _calls(self) -> bool:
        """The state inside a call."""
        row = self._row
        assert row is not None
        if self._takes_up():
            return True
        if not row.call_end:
            return self._ends_with_json()
        tags = self._end_tags() if row.payload in ("json", "named") else [self._tag(row.call_end)]
        found = self._first_of(tags)
        if found is None:
            return False
        at, tag = found
        inside = self._text[:at]
        calls = self._read(inside)
        if calls is None and row.payload in ("json", "named"):
            # The tag may stand in a string of the arguments.
            scan = JsonScan()
            scan.scan(inside[max(inside.find("{"), 0) :])
            if scan.end is None and scan.in_string:
                self._from = at + len(tag)
                return True
        end = self._past_call(at, tag)
        if calls is None:
            self._fail(self._begin + inside + end)
        else:
            self._give(calls)
        return True

    def _end_tags(self) -> list[str]:
        """Tags that end a call: its own, or those that follow it where the model forgets that one."""
        row = self._row
        assert row is not None
        return [self._tag(t) for t in (row.call_end, row.call_begin, row.section_end) if t]

    def _first_of(self, tags: list[str]) -> tuple[int, str] | None:
        """Returns the first of the tags that end a call, and its place.  The search goes on from
        where it stopped.
        """
        places = [(at, tag) for tag in tags if (at := self._text.find(tag, self._from)) >= 0]
        if places:
            return min(places)
        self._from = max(len(self._text) - overlap(self._text, tags), self._from)
        return None

    def _past_call(self, at: int, tag: str) -> str:
        """Goes on behind a call that ends at this tag; returns the tag if it is a part of the call."""
        assert self._row is not None
        end = tag if tag == self._tag(self._row.call_end) else ""
        self._text = self._text[at + len(end) :]
        self._state = self._between if self._in_section else self._says
        return end

    def _ends_with_json(self) -> bool:
        """Handles a call without an end tag: it ends with its value, or with the next call."""
        row = self._row
        assert row is not None
        start = 0
        if row.payload == "named":
            at = self._text.find(self._tag(row.name_end))
            if at < 0:
                return False
            start = at + len(self._tag(row.name_end))
        value = self._text[start:].lstrip()
        start = len(self._text) - len(value)
        if value and value[0] not in "{[":
            return self._not_a_call()
        if not value or (end := self._scan.scan(value)) is None:
            return False
        inside = self._text[: start + end]
        calls = self._read(inside)
        self._text = self._text[start + end :]
        self._state = self._says
        if calls is None:
            self._fail(self._begin + inside)
        else:
            self._give(calls)
        return True

    def _takes_up(self) -> bool:
        """Has a call begun in such a way that its arguments can be given out as they come?"""
        row = self._row
        assert row is not None
        if self._n_calls and not self._parallel:
            return False
        found = begun(row, self._tag, self._text, self._tools)
        if found is None:
            return False
        head, self._writing = found
        self._call(head.name, head.id)
        self._text = self._text[head.end :]
        self._state, self._from = self._writes, 0
        return True

    def _writes(self) -> bool:
        """The state inside the arguments of such a call, or behind them."""
        row, writing = self._row, self._writing
        assert row is not None and writing is not None
        tags = self._end_tags() if self._begin and row.call_end else []
        found = self._first_of(tags)
        if found is not None:
            at, tag = found
            new, ended = writing.step(self._text[:at])
            self._argue(new)
            if ended is None and writing.in_string:
                self._from = at + len(tag)
                return True
            inside, self._shown = self._text[:at], 0
            self._past_call(at, tag)
            self._finish_writing(inside, tagged=True)
            return True
        sure = len(self._text) - overlap(self._text, tags)
        new, ended = writing.step(self._text[:sure])
        self._argue(new)
        self._shown = sure
        if ended is None or tags:
            return False
        self._text, self._shown = self._text[ended:], 0
        self._state = self._says if self._begin else self._after_bare
        return True

    def _finish_writing(self, text: str, tagged: bool) -> None:
        """The text of a call's arguments has ended, and all that follows them in the call."""
        row, writing = self._row, self._writing
        assert row is not None and writing is not None
        new, ended = writing.step(text)
        self._argue(new)
        if ended is None:
            new, complete = writing.end(text, tagged)
            self._argue(new)
            self.failures += not complete
        elif not is_rest(row, unmarked(text[ended:])):
            self.failures += 1
            self._say(unmarked(text[ended:]))

    def _argue(self, text: str) -> None:
        """Arguments of the call that was given out last."""
        if text := unmarked(text):
            self._out.append(Event("arguments", text, self._n_calls - 1))

    def _not_a_call(self) -> bool:
        self._state = self._says
        self._fail(self._begin)
        return True

    def _maybe_bare(self) -> bool:
        """The answer may be a call without tags."""
        row = self._row
        assert row is not None
        self._begin = ""
        if self._takes_up():
            return True
        if row.payload == "pythonic":
            end = _python_end(self._text)
        else:
            end = self._scan.scan(self._text)
        if end is None:
            return False
        inside = self._text[:end]
        calls = self._read(inside)
        self._state = self._says
        if calls is None or any(call.name not in self._tools for call in calls):
            self._say(inside)
            self._text = self._text[end:]
            return True
        self._give(calls)
        self._text = self._text[end:]
        self._state = self._after_bare
        return True

    def _after_bare(self) -> bool:
        self._text = self._text.lstrip(" \t\r\n;,")
        return bool(self._text) and self._answers()

    # ---- results

    def _read(self, text: str) -> Any:
        row = self._row
        assert row is not None
        # Tags inside a call that are control tokens are text for who reads it.
        return read_calls(row, unmarked(text), self._tools)

    def _reason(self, text: str) -> None:
        if text := shown(text):
            self._out.append(Event("reasoning", text))

    def _say(self, text: str) -> None:
        if self._opened and text:  # the prompt wrote this part of the tag
            text, self._opened = text.removeprefix(self._opened), ""
        text = shown(text)
        if not text:
            return
        if self._row is None:
            self._out.append(Event("content", text))
            return
        text = self._space + text
        ready = text.rstrip()
        self._space = text[len(ready) :]
        if ready:
            if not self._said and self._n_calls:
                ready = ready.lstrip()
            self._said = True
            self._out.append(Event("content", ready))

    def _fail(self, text: str) -> None:
        """Keeps text that looked like a call but is none, just as the model wrote it."""
        self.failures += 1
        self._say(unmarked(text))

    def _give(self, calls: Any) -> None:
        assert self._row is not None
        for call in calls:
            if self._n_calls and not self._parallel:
                continue
            self._call(call.name, call.id)
            self._argue(call.arguments)

    def _call(self, name: str, given: str | None) -> None:
        """A call begins."""
        assert self._row is not None
        self._space, self._said, self._opened = "", False, ""
        id = given or self._new_id(self._row)
        self._out.append(Event("call", index=self._n_calls, id=id, name=name))
        self._n_calls += 1


def _silent_tags(
    row: ToolFormat | None, reasoning: Reasoning | None, tag: Callable[[str], str]
) -> tuple[str, ...]:
    """Tags to leave out; those of thoughts stay where thoughts are shown as the model wrote them."""
    if row is None:
        return ()
    own = row.reasoning if reasoning is None else None
    return tuple(
        tag(t)
        for t in row.silent
        if own is None or not (t in own.begin or own.begin in t or own.end in t)
    )


def _python_end(text: str) -> int | None:
    """Returns the end of the list that begins the text, by Python's rules for strings."""
    depth, quote, at = 0, "", 0
    while at < len(text):
        c = text[at]
        if quote:
            if c == "\\":
                at += 1
            elif c == quote:
                quote = ""
        elif c in "\"'":
            quote = c
        elif c in "[({":
            depth += 1
        elif c in "])}":
            depth -= 1
            if depth == 0:
                return at + 1
        at += 1
    return None
