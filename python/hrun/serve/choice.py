"""One answer: drawn tokens become text, events of a parser, and log-probabilities that travel with their text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hrun.generation import TokenLogprob
from hrun.stream import StopStrings, Utf8Decoder
from hrun.tokenizer import Tokenizer


@dataclass(frozen=True)
class Event:
    """A step of an answer.

    ``kind``: "content" and "reasoning" carry text; "call" begins the tool call ``index`` with ``id`` and ``name``;
    "arguments" continues its arguments.
    """

    kind: str
    text: str = ""
    index: int = 0
    id: str = ""
    name: str = ""


class Parser(Protocol):
    """Takes an answer apart.  However the text is cut, the joined events are the same."""

    failures: int

    def feed(self, text: str) -> list[Event]:
        """Text that the model wrote."""

    def control(self, name: str) -> list[Event]:
        """A control token that the model wrote."""

    def finish(self) -> list[Event]:
        """The end."""

    @property
    def held(self) -> int:
        """The number of characters held back until more text shows what they are."""


class PlainParser:
    """All is content, control tokens are not shown."""

    failures = 0
    held = 0

    def __init__(self, opening: str = "") -> None:
        """``opening``: text that the prompt has begun the answer with, and that is to be shown."""
        self._opening = opening

    def feed(self, text: str) -> list[Event]:
        """Text that the model wrote."""
        if text:
            text, self._opening = self._opening + text, ""
        return [Event("content", text)] if text else []

    def control(self, name: str) -> list[Event]:
        """Ignores a control token: it is not shown."""
        return []

    def finish(self) -> list[Event]:
        """Returns nothing: the parser holds no text back."""
        return []


@dataclass
class Delta:
    """The part of an answer that has become certain."""

    events: list[Event] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


class Choice:
    """One answer on its way."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        stops: Sequence[str] = (),
        include_stop: bool = False,
        show_control: bool = False,
        strip_space: bool = False,
        parser: Parser | None = None,
    ) -> None:
        self.n_tokens = 0
        self.n_reasoning = 0
        self.finish_reason: str | None = None
        self.stop_string: str | None = None
        self.called = False
        self.events: list[Event] = []
        self.logprobs: list[TokenLogprob] = []
        self.tokens: list[int] = []
        self.parser: Parser = parser or PlainParser()
        self._tokenizer = tokenizer
        self._include_stop = include_stop
        self._show_control = show_control
        self._strip_space = strip_space
        self._decoder = Utf8Decoder()
        self._stops = StopStrings(stops)
        # Control tokens are not shown, but one that a stop string names is part of the text that it looks for.
        self._stop_tokens = frozenset().union(*map(tokenizer.control_ids_in, stops))
        self._reasoning = False
        self._fed = 0  # characters that went to the parser
        # Log-probabilities that wait, with the places where the text of their token begins and
        # ends.
        self._waiting: list[tuple[int, int, TokenLogprob]] = []

    @property
    def stopped(self) -> bool:
        """Has a stop string been found?"""
        return self._stops.stopped

    def feed(self, token: int, logprob: TokenLogprob | None, delta: Delta) -> None:
        """Adds to the delta what a drawn token makes certain."""
        tokenizer = self._tokenizer
        self.n_tokens += 1
        self.tokens.append(token)
        delta.tokens.append(token)
        start = self._fed
        if tokenizer.is_control(token) and not self._show_control:
            # An incomplete character before the control token stays incomplete.
            self._parse(delta, self.parser.feed, self._decoder.flush())
            self._parse(delta, self.parser.control, tokenizer.tokens[token])
            if token in self._stop_tokens and not self._reasoning:
                self._show(delta, self._stops.feed(tokenizer.tokens[token], hidden=True))
        else:
            data = tokenizer.token_bytes(token)
            if self._strip_space and data:
                data, self._strip_space = data.removeprefix(b" "), False
            self._parse(delta, self.parser.feed, self._decoder.feed(data))
        if self._reasoning:
            self.n_reasoning += 1
        if logprob is not None:
            end = self._fed + (1 if self._decoder.pending else 0)
            self._waiting.append((start, end, logprob))
            self._release(delta)

    def finish(self, reason: str, delta: Delta) -> None:
        """Adds the rest; ``reason`` is what the engine says."""
        if not self.stopped:
            self._parse(delta, self.parser.feed, self._decoder.flush())
            for event in self.parser.finish():
                self._take(delta, event)
            if not self.stopped:
                self._show(delta, self._stops.flush())
        if self.stopped:
            reason = "stop"
            self.stop_string = self._stops.found
            if self._include_stop and self.stop_string:
                self._show(delta, self.stop_string)
        self._release(delta, all=not self.stopped)
        self.finish_reason = reason

    def text(self, kind: str = "content") -> str:
        """All text of one kind so far."""
        return "".join(e.text for e in self.events if e.kind == kind)

    def _parse(self, delta: Delta, give: Callable[[str], list[Event]], text: str) -> None:
        if not text or self.stopped:
            return
        if give == self.parser.feed:
            self._fed += len(text)
        for event in give(text):
            self._take(delta, event)

    def _take(self, delta: Delta, event: Event) -> None:
        if self.stopped:
            return
        self._reasoning = event.kind == "reasoning"
        if event.kind == "content":
            self._show(delta, self._stops.feed(event.text))
            return
        self._show(delta, self._stops.flush())  # stop strings do not reach across calls
        self.called = self.called or event.kind == "call"
        self._add(delta, event)

    def _show(self, delta: Delta, text: str) -> None:
        if text:
            self._add(delta, Event("content", text))

    def _add(self, delta: Delta, event: Event) -> None:
        self.events.append(event)
        last = delta.events[-1] if delta.events else None
        if (
            last is not None
            and event.kind != "call"
            and last.kind == event.kind
            and last.index == event.index
        ):
            delta.events[-1] = Event(event.kind, last.text + event.text, event.index)
        else:
            delta.events.append(event)

    def _settled(self) -> int:
        """Characters of what was fed that have been shown, or will never be."""
        return self._fed - self.parser.held - self._stops.unshown

    def _release(self, delta: Delta, all: bool = False) -> None:
        settled = self._settled()
        n = 0
        for start, end, _ in self._waiting:
            # When a stop string has been found, a token that ends inside it is released too: its
            # beginning was shown.
            if not (all or (start < settled if self.stopped else end <= settled)):
                break
            n += 1
        released = [logprob for _, _, logprob in self._waiting[:n]]
        del self._waiting[:n]
        delta.logprobs += released
        self.logprobs += released
