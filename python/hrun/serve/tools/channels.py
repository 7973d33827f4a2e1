"""Takes answers apart that are messages, each with a header that says for whom it is or on which channel."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from hrun.serve.choice import Event
from hrun.serve.tools.formats import Channels, ToolFormat
from hrun.serve.tools.parser import TagParser
from hrun.serve.tools.tags import control, header_words, overlap, shown


class ChannelParser:
    """Parses the answers of such a family.  A call's arguments are its message's text, or stand in
    the family's tags there.
    """

    def __init__(
        self,
        row: ToolFormat,
        channels: Channels,
        *,
        tools: Mapping[str, Any],
        tag: Callable[[str], str],
        new_id: Callable[[ToolFormat], str],
        parallel: bool = True,
        apart: bool = True,
    ) -> None:
        """``apart``: thoughts are kept apart from the content."""
        self.failures = 0
        self._apart = apart
        self._row = row
        self._channels = channels
        self._tools = tools
        self._tag = tag
        self._new_id = new_id
        self._parallel = parallel
        names = {channels.header.strip(), channels.message, channels.start, *channels.ends} - {""}
        self._tags = {name: tag(name) for name in names}
        self._own = {*channels.before, channels.answer}
        self._text = ""
        self._header: str | None = ""  # the text before a message; None inside it
        self._kind = ""
        self._closes = False  # thoughts that are shown get an end
        self._calls: TagParser | None = None  # of a message that has calls in tags
        self._n_calls = 0

    @property
    def held(self) -> int:
        """Characters that wait."""
        inside = self._calls.held if self._calls is not None else 0
        return len(shown(self._text)) + len(shown(self._header or "")) + inside

    def feed(self, text: str) -> list[Event]:
        """Text that the model wrote."""
        self._text += text
        out: list[Event] = []
        tags = self._tags
        while True:
            found = [(at, name) for name, tag in tags.items() if (at := self._text.find(tag)) >= 0]
            if not found:
                keep = overlap(self._text, tags.values())
                ready = self._text[: len(self._text) - keep]
                self._text = self._text[len(ready) :]
                self._take(ready, out)
                return out
            at, name = min(found)
            self._take(self._text[:at], out)
            self._text = self._text[at + len(tags[name]) :]
            if self._header is None:
                self._end(out)
            if name == self._channels.message:
                self._begin(self._header or "", out)
                self._header = None
            elif name == self._channels.header and self._header is not None:
                self._header += " \n"  # the text before names the role, and perhaps a recipient
            else:
                self._header = ""

    def control(self, name: str) -> list[Event]:
        """A control token that the model wrote."""
        return self.feed(control(name))

    def finish(self) -> list[Event]:
        """The end."""
        out: list[Event] = []
        text, self._text = self._text, ""
        self._take(text, out)
        self._closes = False
        self._end(out)
        if self._header and (rest := shown(self._header).strip()) and not self._n_calls:
            out.append(Event("content", rest))
        self._header = ""
        return out

    def _take(self, text: str, out: list[Event]) -> None:
        if self._header is not None:
            self._header += text
        elif self._calls is not None:
            self._called(self._calls.feed(text), out)
        elif self._kind and (text := shown(text)):
            index = self._n_calls - 1 if self._kind == "arguments" else 0
            out.append(Event(self._kind, text, index))

    def _begin(self, header: str, out: list[Event]) -> None:
        """A message begins."""
        words, own = header_words(header), self._own
        prefix = self._channels.call.split()[-1]
        # Models put calls on every channel.
        named = (w for w in words if w.startswith(prefix) and w not in own and w != prefix)
        target = next(named, None)
        if target and self._tools:
            self._begin_calls(target.removeprefix(prefix), out)
        elif any(w.startswith("to=") and w not in own and w != "to=assistant" for w in words):
            self._kind = ""  # for a tool of the model's own
        elif self._channels.before[0] in words and self._apart:
            self._kind = "reasoning"
        else:
            self._kind = "content"
            if self._channels.before[0] in words:
                out.append(Event("content", self._channels.thoughts[0]))
                self._closes = True

    def _begin_calls(self, name: str, out: list[Event]) -> None:
        self._kind = ""
        if self._n_calls and not self._parallel:
            return
        if self._row.call_begin:
            self._calls = TagParser(
                self._row, None, tools=self._tools, tag=self._tag, thinking=False, new_id=self._new_id, parallel=self._parallel
            )  # fmt: skip
            return
        out.append(Event("call", index=self._n_calls, id=self._new_id(self._row), name=name))
        self._n_calls += 1
        self._kind = "arguments"

    def _end(self, out: list[Event]) -> None:
        """The message ends."""
        if self._closes:
            out.append(Event("content", self._channels.thoughts[1]))
        self._closes = False
        if self._calls is not None:
            self._called(self._calls.finish(), out)
            self.failures += self._calls.failures
            self._n_calls += self._calls.n_calls
        self._calls = None

    def _called(self, events: list[Event], out: list[Event]) -> None:
        """Events of calls in tags, which count from 0 in each message."""
        for e in events:
            index = e.index + self._n_calls if e.kind in ("call", "arguments") else 0
            out.append(Event(e.kind, e.text, index, e.id, e.name))
