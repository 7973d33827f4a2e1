"""Messages of a request, as the model's template wants them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hrun.chat_template import ChatTemplate
from hrun.errors import ArgumentError
from hrun.messages import check_messages
from hrun.prompts import ChatPrompt
from hrun.serve.errors import bad
from hrun.serve.service import Service

_READS_NONE = re.compile(r"content['\"]?\]?\s+is\s+(not\s+)?none")
_READS_ARGUMENTS = re.compile(
    r"arguments['\"]?\]?\s*(\|\s*(tojson|items)|\.items\(|\s+is\s+(mapping|string))"
)


def prepared(messages: list[dict[str, Any]], template: str, limit: int) -> list[dict[str, Any]]:
    """The messages as a template can read them: no nulls it does not know, arguments of calls as it wants them."""
    if len(messages) > limit:
        raise bad(f"{len(messages)} messages, the server takes {limit}", param="messages")
    check(messages)
    return [_prepared(i, message, template) for i, message in enumerate(messages)]


def check(messages: list[dict[str, Any]]) -> None:
    """Raises ApiError 400 that names the message."""
    try:
        check_messages(messages)
    except ArgumentError as error:
        found = re.match(r"messages(\[\d+\](\['\w+'\])?(\[\d+\])?)?", str(error))
        raise bad(str(error), param=found[0] if found else "messages") from None


def _prepared(i: int, message: dict[str, Any], template: str) -> dict[str, Any]:
    out = dict(message)
    if out["role"] == "developer" and "developer" not in template:
        out["role"] = "system"
    if out.get("content") is None and not _READS_NONE.search(template):
        out["content"] = ""
    calls = out.get("tool_calls")
    if calls is None:
        out.pop("tool_calls", None)
        return out
    if not isinstance(calls, list):
        raise bad(f"messages[{i}]['tool_calls'] must be a list", param=f"messages[{i}]")
    if not calls:
        del out["tool_calls"]
        return out
    out["tool_calls"] = [_call(i, j, call, template) for j, call in enumerate(calls)]
    return out


def _call(i: int, j: int, call: Any, template: str) -> dict[str, Any]:
    where = f"messages[{i}]['tool_calls'][{j}]"
    function = call.get("function") if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise bad(f"{where} must be {{'function': {{'name': ..., 'arguments': ...}}}}", param=where)
    arguments = function.get("arguments")
    if arguments is None:
        arguments = {}
    if isinstance(arguments, str) and _READS_ARGUMENTS.search(template):
        # If a model wrote its arguments wrongly, they stay the text that it wrote.
        try:
            value = json.loads(arguments) if arguments.strip() else {}
            arguments = value if isinstance(value, dict) else arguments
        except (ValueError, RecursionError):
            pass
    elif not isinstance(arguments, str) and not _READS_ARGUMENTS.search(template):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {**call, "function": {**function, "arguments": arguments}}


def chat_prompt(
    service: Service,
    messages: list[dict[str, Any]],
    variables: Mapping[str, Any],
    *,
    continue_last: bool = False,
    template: str | None = None,
) -> ChatPrompt:
    """The prompt; for a thread.  ``template``: a request's own, which must be trusted."""
    ready = prepared(messages, template or service.chat_template, service.options.max_messages)
    if template is None:
        return service.runtime.chat_prompt(
            ready, variables, continue_last=continue_last, template=service.template
        )
    own = ChatTemplate(template)
    try:
        return service.runtime.chat_prompt(
            ready, variables, continue_last=continue_last, template=own
        )
    finally:
        own.close()
