"""Shows an answer to a person while it is written: its markdown, with the model's thoughts folded
to one line.
"""

from __future__ import annotations

import shutil
import time

from hrun.cli.markdown import Markdown
from hrun.cli.wrapping import Wrapping, width_of
from hrun.serve.tools.formats import Reasoning, reasoning_of


class Folding:
    """Cuts an answer into what is thought and what is said; pieces may cut a tag anywhere.

    ``begun``: the prompt ends inside the thought, as some templates have it.
    """

    def __init__(self, tags: Reasoning | None, begun: bool) -> None:
        self._tags = tags
        self._held = ""
        self.thinks = begun and tags is not None
        self._first = True
        self._strips = False  # empty lines behind the thought

    def feed(self, text: str) -> list[tuple[bool, str]]:
        """Returns pairs of (is it a thought?, text) in order."""
        if self._tags is None:
            return [(False, text)]
        out: list[tuple[bool, str]] = []
        self._held += text
        while self._held:
            tag = self._tags.end if self.thinks else self._tags.begin
            if not self.thinks and not self._first and tag not in self._held:
                break  # a thought comes first or not at all
            at = self._held.find(tag)
            if at >= 0 and (self.thinks or not self._held[:at].strip()):
                out.append((self.thinks, self._held[:at]))
                self._held = self._held[at + len(tag) :]
                self._first = False
                self.thinks = not self.thinks
                self._strips = not self.thinks
                continue
            if not self.thinks and not tag.startswith(self._held.lstrip()):
                self._first = False
                break
            keep = next(n for n in range(len(tag) - 1, -1, -1) if self._held.endswith(tag[:n]))
            if not self.thinks:
                return out  # may become the tag
            out.append((True, self._held[: len(self._held) - keep]))
            self._held = self._held[len(self._held) - keep :]
            return [part for part in out if part[1]]
        if not self.thinks:
            said = self._held.lstrip("\n") if self._strips else self._held
            self._strips = self._strips and not said
            out.append((False, said))
            self._held = ""
        return [part for part in out if part[1]]

    def finish(self) -> list[tuple[bool, str]]:
        """Returns the text that was held back for a tag that did not come."""
        held, self._held = self._held, ""
        return [(self.thinks, held)] if held else []


class AnswerView:
    """``feed`` and ``finish`` return what to write to the terminal; ``thought`` is what was folded away.

    ``rendered``: markdown as styles and thoughts folded; else the text as it is, with its lines broken between words.
    """

    def __init__(self, template: str | None, prompt: str, rendered: bool) -> None:
        tags = reasoning_of(template) if rendered and template else None
        self._folding = Folding(tags, tags is not None and prompt.rstrip().endswith(tags.begin))
        self._writer: Markdown | Wrapping = Markdown() if rendered else Wrapping()
        self.thought = ""
        self._since: float | None = None

    def feed(self, text: str) -> str:
        return self._shown(self._folding.feed(text))

    def finish(self) -> str:
        out = self._shown(self._folding.finish()) + self._folded()
        return out + self._writer.finish() if isinstance(self._writer, Markdown) else out

    def _shown(self, parts: list[tuple[bool, str]]) -> str:
        out = ""
        for thinks, text in parts:
            if thinks:
                out += self._thinking(text)
            else:
                out += self._folded() + self._writer.feed(text)
        return out

    def _thinking(self, text: str) -> str:
        """One line that shows the end of the thought."""
        self._since = self._since or time.monotonic()
        self.thought += text
        room = shutil.get_terminal_size().columns - 14
        tail = " ".join(self.thought[-4 * room :].split()) if room > 0 else ""
        while width_of(tail) > room:
            tail = tail[max(1, len(tail) - room) :]
        return f"\r\x1b[K\x1b[2mthinking: {tail}\x1b[0m"

    def _folded(self) -> str:
        if self._since is None:
            return ""
        seconds, self._since = time.monotonic() - self._since, None
        words = len(self.thought.split())
        return f"\r\x1b[K\x1b[2m[thought for {seconds:.1f} s, {words} words; /think shows it]\x1b[0m\n\n"
