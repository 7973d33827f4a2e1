"""A tool call while the model writes it: its name, then its arguments as far as no continuation could change them.

A call is taken up here once its text begins as the family's row has it, with the name of a tool that was offered; from then
on it is one, however it ends.  Other text is for :func:`hrun.serve.tools.calls.read_calls`, which needs it whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from hrun.serve.tools.calls import Head, Writing, head_of, writing_of
from hrun.serve.tools.formats import ToolFormat
from hrun.serve.tools.tags import BLANKS
from hrun.serve.tools.written_json import JsonWriting

_AFTER = "}];,`" + BLANKS  # characters that may stand between arguments and the end of a call


def begun(
    row: ToolFormat, tag: Callable[[str], str], text: str, schemas: Mapping[str, Any]
) -> tuple[Head, Writing] | None:
    """Returns the head of the call that the text begins, and the reader of its arguments.

    None: the call has not begun yet, or not in this way.
    """
    if row.listed or row.payload == "pythonic":
        return None
    if row.payload == "json":
        found = _json_head(row).match(text)
        if found is None or found[2] not in schemas:
            return None
        return Head(found[2], found[1], found.end()), JsonWriting(inside=True)
    head = head_of(row, tag, text)
    if head is None or head.name not in schemas:
        return None
    if row.payload == "named" and text[head.end : head.end + 1] != "{":
        return None
    return head, writing_of(row, tag, schemas[head.name])


@lru_cache
def _json_head(row: ToolFormat) -> re.Pattern[str]:
    def one_of(keys: tuple[str, ...]) -> str:
        return f'"(?:{"|".join(map(re.escape, keys))})"\\s*:\\s*'

    text = r'"([^"\\]*)"\s*,\s*'
    return re.compile(
        rf"\s*\{{\s*(?:{one_of(row.id_keys)}{text})?{one_of(row.name_keys)}{text}{one_of(row.args_keys)}(?=\{{)"
    )


def is_rest(row: ToolFormat, text: str) -> bool:
    """May this text stand between the arguments and the end of a call?"""
    return not text.strip(_AFTER).removeprefix(row.function_end or " ").strip(_AFTER)
