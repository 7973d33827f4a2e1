"""A dialect is the way in which one model, by its chat template, writes calls and its thoughts."""

from __future__ import annotations

from hrun.serve.choice import Parser, PlainParser
from hrun.serve.ids import new_id
from hrun.serve.options import Options
from hrun.serve.tools.channels import ChannelParser
from hrun.serve.tools.formats import HERMES, ToolFormat, format_named, format_of, reasoning_of
from hrun.serve.tools.parser import TagParser
from hrun.serve.tools.request import Tools
from hrun.serve.tools.tags import Tags


def new_call_id(row: ToolFormat) -> str:
    """Returns a new id in the form that the family uses."""
    return new_id(row.id_prefix, row.id_characters)


class Dialect:
    """The rows that a template, or the server's flags, choose."""

    def __init__(self, template: str, options: Options) -> None:
        self.row = format_named(options.tool_format) if options.tool_format else format_of(template)
        self._apart = options.reasoning_format != "none"
        self._thoughts = reasoning_of(template)
        self.reasoning = self._thoughts if self._apart else None  # where it is kept apart

    def opened_by(self, prompt: str) -> bool:
        """Does the prompt open the tag of thoughts?"""
        return self._thoughts is not None and prompt.rstrip().endswith(self._thoughts.begin)

    def parser(self, tags: Tags, tools: Tools, thinking: bool) -> Parser:
        """A parser for one answer."""
        row = self.row or HERMES
        if row.channels is not None:
            return ChannelParser(
                row,
                row.channels,
                tools=tools.schemas,
                tag=tags,
                new_id=new_call_id,
                parallel=tools.parallel,
                apart=self._apart,
            )
        opening = ""
        if thinking and self._thoughts is not None and not self._apart:
            begin = self._thoughts.begin
            opening = begin + "\n" if tags(begin) == begin else ""  # as the end will be shown
        if not tools and self.reasoning is None and not row.silent:
            return PlainParser(opening)
        return TagParser(
            row,
            self.reasoning,
            tools=tools.schemas,
            tag=tags,
            thinking=thinking,
            new_id=new_call_id,
            parallel=tools.parallel,
            opening=opening,
        )
