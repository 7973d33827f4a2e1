"""Arguments as a machine of states: what the ways to write values in one another share."""

from __future__ import annotations

from collections.abc import Callable

from hrun.serve.tools.tags import overlap
from hrun.serve.tools.values import dumps

State = Callable[[str], "str | None"]


class StateWriting:
    """Becomes JSON, a text while it is written.  See :class:`hrun.serve.tools.calls.Writing`.

    A state is a method that returns what it adds to the JSON, None while the text does not say.
    """

    def __init__(self, first: State) -> None:
        self._at = 0  # the end of the text that is done with
        self._state = first
        self._ended = False

    def step(self, text: str) -> tuple[str, int | None]:
        """The values that are complete, and what is certain of a text."""
        out = ""
        while not self._ended and (new := self._state(text)) is not None:
            out += new
        return out, self._at if self._ended else None

    def _text_until(self, close: str, text: str, then: State) -> str | None:
        """A text that ``close`` ends, after which the state is another."""
        rest = text[self._at :]
        end = rest.find(close)
        if end >= 0:
            self._at, self._state = self._at + end + len(close), then
            return dumps(rest[:end])[1:-1] + '"'
        ready = rest[: len(rest) - overlap(rest, (close,))]
        self._at += len(ready)
        return dumps(ready)[1:-1] if ready else None
