"""The tools of a request: checked, chosen among, and written into the prompt where the template does not do it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hrun.errors import printable
from hrun.serve.errors import bad

_NAME = re.compile(r"[A-Za-z0-9_.:/-]{1,128}")

_PREAMBLE = """\
# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


@dataclass(frozen=True)
class Tools:
    """The tools that a model may call, and whether it must call one."""

    offered: list[dict[str, Any]]  # as the template reads them
    schemas: dict[str, Any]  # of callable tools' arguments, by the tool's name
    strict: frozenset[str]  # names whose arguments must keep to their schema
    required: bool = False
    parallel: bool = True

    def __bool__(self) -> bool:
        return bool(self.schemas)


NO_TOOLS = Tools([], {}, frozenset())


def tools_of(
    tools: list[dict[str, Any]] | None, choice: Any, parallel: bool | None, limit: int
) -> Tools:
    """The request's tools.  Raises ApiError 400."""
    tools = tools or []
    if len(tools) > limit:
        raise bad(f"{len(tools)} tools, the server takes {limit}", param="tools")
    schemas: dict[str, Any] = {}
    strict = set()
    for i, tool in enumerate(tools):
        function = tool.get("function")
        if tool.get("type") != "function" or not isinstance(function, Mapping):
            raise bad(
                f"tools[{i}] must be {{'type': 'function', 'function': {{...}}}}",
                param=f"tools[{i}]",
            )
        name = function.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise bad(f"tools[{i}] has no name of letters, digits, _ and -", param=f"tools[{i}]")
        if name in schemas:
            raise bad(f"two tools are named '{name}'", param=f"tools[{i}]")
        parameters = function.get("parameters")
        if parameters is not None and not isinstance(parameters, Mapping):
            raise bad(f"tools[{i}]: parameters must be a JSON schema", param=f"tools[{i}]")
        schemas[name] = parameters or {"type": "object", "properties": {}}
        if function.get("strict"):
            strict.add(name)
    may_many = parallel is not False
    if choice in (None, "auto"):
        return Tools(tools, schemas, frozenset(strict), False, may_many)
    if choice == "none":
        return NO_TOOLS
    if choice == "required":
        if not tools:
            raise bad("tool_choice is 'required' without tools", param="tool_choice")
        return Tools(tools, schemas, frozenset(strict), True, may_many)
    names, required = _chosen(choice)
    for name in names:
        if name not in schemas:
            raise bad(
                f"tool_choice names '{printable(name)}', which is no tool", param="tool_choice"
            )
    only = {name: schemas[name] for name in names}
    offered = [tool for tool in tools if tool["function"]["name"] in only]
    one = len(names) == 1 and required
    return Tools(offered, only, frozenset(strict & set(names)), required, may_many and not one)


def _chosen(choice: Any) -> tuple[list[str], bool]:
    """The names that tool_choice allows, and whether one must be called."""
    if isinstance(choice, Mapping):
        if choice.get("type") == "function":
            function = choice.get("function", choice)
            name = function.get("name") if isinstance(function, Mapping) else None
            if isinstance(name, str):
                return [name], True
        if choice.get("type") == "allowed_tools":
            inner = choice.get("allowed_tools", choice)
            allowed = inner.get("tools") if isinstance(inner, Mapping) else None
            if isinstance(allowed, list) and allowed:
                names = []
                for tool in allowed:
                    found, _ = _chosen(tool)
                    names += found
                return names, inner.get("mode") == "required"
    raise bad(
        "tool_choice must be 'auto', 'required', 'none' or name a function", param="tool_choice"
    )


def with_preamble(messages: list[dict[str, Any]], tools: Tools) -> list[dict[str, Any]]:
    """The messages with the tools in words, for templates that know none; calls and results become text."""
    lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools.offered)
    preamble = _PREAMBLE.format(tools=lines)
    out = [_in_words(message) for message in messages]
    if out and out[0].get("role") in ("system", "developer"):
        first = out[0]
        out[0] = {**first, "content": f"{_text(first.get('content'))}\n\n{preamble}"}
        return out
    return [{"role": "system", "content": preamble}, *out]


def _in_words(message: Any) -> Any:
    if not isinstance(message, Mapping):
        return message
    out = dict(message)
    if out.get("role") in ("tool", "function"):
        content = _text(out.get("content"))
        return {"role": "user", "content": f"<tool_response>\n{content}\n</tool_response>"}
    calls = out.pop("tool_calls", None)
    if out.get("role") == "assistant" and isinstance(calls, list):
        parts = [_text(out.get("content"))] if out.get("content") else []
        for call in calls:
            function = call.get("function") if isinstance(call, Mapping) else None
            if isinstance(function, Mapping):
                arguments = function.get("arguments") or "{}"
                text = arguments if isinstance(arguments, str) else json.dumps(arguments)
                name = json.dumps(function.get("name"))
                parts.append(f'<tool_call>\n{{"name": {name}, "arguments": {text}}}\n</tool_call>')
        out["content"] = "\n".join(parts)
    return out


def _text(content: Any) -> str:
    if isinstance(content, list):
        texts = [part.get("text") if isinstance(part, Mapping) else part for part in content]
        return "\n".join(text for text in texts if isinstance(text, str))
    return content if isinstance(content, str) else ""
