"""The grammar of an answer: thoughts first, then what the request asks for, or calls as the family's row has them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from hrun.errors import GrammarError
from hrun.grammar import JSON_BLANKS, Grammar, json_schema_grammar, text_grammar, within
from hrun.serve.tools.formats import Reasoning, ToolFormat
from hrun.serve.tools.parser import Tags
from hrun.serve.tools.request import Tools

_COMMON = "TEXT: /(.|\\n)*/\nBLANKS: /[ \\t\\r\\n]{1,4}/\n"


class AnswerGrammar:
    """Writes Lark for one model.  ``ids``: its control tokens by name; ``ends``: those that end an answer."""

    def __init__(
        self,
        row: ToolFormat,
        reasoning: Reasoning | None,
        ids: Mapping[str, int],
        ends: Collection[int] = (),
    ) -> None:
        self._ends = ends
        self._row = row
        self._reasoning = reasoning
        self._ids = ids
        self._tags = Tags(ids)
        self._rules: list[str] = []

    def of_answer(self, answer: Grammar, thinking: bool) -> Grammar:
        """``answer`` after what the model thinks; ``thinking``: the prompt has opened the tag."""
        if self._row.channels:
            json_mark = f'(" "? {self._tag("<|constrain|>")} "json")?'
            final = f'{self._tag("<|channel|>")} "final" {json_mark} {self._tag("<|message|>")}'
            start = f"{self._messages()} {final} @answer"
            return within(f"start: {start}\n{_COMMON}" + "\n".join(self._rules), answer)
        if self._reasoning is None:
            return answer
        thoughts = self._thoughts(thinking)
        return within(f"start: {thoughts} @answer\n{_COMMON}" + "\n".join(self._rules), answer)

    def of_calls(self, tools: Tools, thinking: bool) -> Grammar:
        """Calls of the tools: at once where they are required, else wherever the model begins one.

        Raises GrammarError for families whose calls have no grammar here.
        """
        row = self._row
        if row.payload == "pythonic":
            raise GrammarError(f"calls in the format '{row.name}' cannot be forced")
        schemas = {name: _usable(name, tools) for name in tools.schemas}
        if row.channels:
            return text_grammar(self._channel_calls(schemas, tools.required))
        begin, calls = self._calls(schemas, tools.parallel)
        thoughts = self._thoughts(thinking)
        if tools.required:
            start = f"{thoughts} {self._tag(begin)} {calls} BLANKS?"
        elif not begin:
            start = f"{thoughts} ({calls} | TEXT)"
        else:
            head = self._until(begin, "head")
            more = "?" if not tools.parallel or row.section_begin else "*"
            start = f"{thoughts} ({head} {calls}){more} TEXT"
        return text_grammar(f"start: {start}\n{_COMMON}" + "\n".join(self._rules))

    # ---- channels

    def _messages(self) -> str:
        """Messages before the last one: thoughts, and words about what comes."""
        begin, message = self._tag("<|channel|>"), self._tag("<|message|>")
        text = self._until("<|end|>", "text")
        body = f'{begin} ("analysis" | "commentary") {message} {text} {self._tag("<|start|>")} "assistant"'
        return self._rule("message", body) + "*"

    def _channel_calls(self, schemas: Mapping[str, Any], required: bool) -> str:
        """One call as the last message; where none is required, or an answer."""
        begin, message = self._tag("<|channel|>"), self._tag("<|message|>")
        mark = f'(" " {self._tag("<|constrain|>")} "json" | " json")?'
        end = "" if self._ids.get("<|call|>") in self._ends else self._tag("<|call|>")
        last = [
            self._rule(
                "call",
                f'{begin} "commentary" {json.dumps(" to=functions." + name)} {mark} {message} {_json(schema)} {end}',
            )
            for name, schema in schemas.items()
        ]
        if not required:
            last.append(f'{begin} "final" {message} TEXT')
        start = f"{self._messages()} ({' | '.join(last)})"
        return f"start: {start}\n{_COMMON}" + "\n".join(self._rules)

    # ---- parts

    def _rule(self, name: str, body: str) -> str:
        name = f"{name}_{len(self._rules)}"
        self._rules.append(f"{name}: {body}")
        return name

    def _pieces(self, tag: str) -> list[tuple[int | None, str]]:
        """The control tokens and texts of a tag."""
        return [
            (self._ids[text] if is_token else None, text)
            for is_token, text in self._tags.pieces(tag)
        ]

    def _tag(self, tag: str) -> str:
        return " ".join(
            f"<[{token}]>" if token is not None else json.dumps(text)
            for token, text in self._pieces(tag)
        )

    def _until(self, tag: str, name: str) -> str:
        """Any text, and then the tag."""
        pieces = self._pieces(tag)
        if pieces and pieces[0][0] is not None:
            return f"TEXT {self._tag(tag)}"
        first = _regex(pieces[0][1])
        self._rules.append(f"{name}_{len(self._rules)}[lazy]: /(.|\\n)*{first}/")
        rest = "".join(text for _, text in pieces[1:])
        return f"{name}_{len(self._rules) - 1} {self._tag(rest)}"

    def _thoughts(self, thinking: bool) -> str:
        if self._reasoning is None:
            return ""
        inside = f"{self._until(self._reasoning.end, 'thoughts')} BLANKS?"
        if thinking:
            return inside
        return f"({self._tag(self._reasoning.begin)} {inside})?"

    def _calls(self, schemas: Mapping[str, Any], parallel: bool) -> tuple[str, str]:
        """(the tag that begins calls, the rest of all of them)."""
        row = self._row
        if row.payload == "json" and row.listed:
            items = [_call_schema(row, name, schema) for name, schema in schemas.items()]
            whole: dict[str, Any] = {
                "type": "array",
                "items": items[0] if len(items) == 1 else {"anyOf": items},
                "minItems": 1,
            }
            if not parallel:
                whole["maxItems"] = 1
            return row.call_begin, f"BLANKS? {_json(whole)} BLANKS? {self._tag(row.call_end)}"
        bodies = [self._body(name, schema) for name, schema in schemas.items()]
        body = self._rule("body", " | ".join(bodies))
        if row.bare:
            return "", body
        one = f"{body} {self._tag(row.call_end)}"
        again = f"(BLANKS? {self._tag(row.call_begin)} {one})*" if parallel else ""
        if not row.section_begin:
            return row.call_begin, f"{one} {again}"
        inside = f"BLANKS? {self._tag(row.call_begin)} {one} {again} BLANKS?"
        return row.section_begin, f"{inside} {self._tag(row.section_end)}"

    def _body(self, name: str, schema: Any) -> str:
        """What stands between the tags of one call."""
        row = self._row
        if row.payload == "json":
            return self._rule("call", f"BLANKS? {_json(_call_schema(row, name, schema))} BLANKS?")
        if row.payload == "named":
            index = ' ":" /[0-9]{1,3}/' if row.index_after_name else ""
            close = ' "\\n```"' if "```" in row.name_end else ""
            head = f"{json.dumps(row.name_prefix + name)}{index} {self._tag(row.name_end)}"
            return self._rule("call", f"{head} {_json(schema)}{close}")
        opened = json.dumps(row.name_prefix + name + row.name_end)
        parameters = " ".join(self._parameter(*item) for item in _parameters(schema))
        close = json.dumps(row.function_end) + " BLANKS?" if row.function_end else ""
        return self._rule("call", f"BLANKS? {opened} BLANKS? {parameters} {close}")

    def _parameter(self, key: str, schema: Any, required: bool) -> str:
        row = self._row
        head = json.dumps(row.key_begin + key + row.key_end)
        if row.value_begin:
            head += f" BLANKS? {json.dumps(row.value_begin)}"
        if isinstance(schema, Mapping) and schema.get("type") == "string" and "enum" not in schema:
            value = self._until(row.value_end, "value")
        else:
            value = f"BLANKS? {_json(schema)} BLANKS? {json.dumps(row.value_end)}"
        rule = self._rule("parameter", f"{head} {value} BLANKS?")
        return rule if required else f"{rule}?"


def _regex(text: str) -> str:
    """The text in a Lark regular expression."""
    return re.escape(text).replace("/", r"\/").replace("\n", r"\n").replace(r"\ ", " ")


def _json(schema: Any) -> str:
    """The schema's place in Lark; its definitions go to the root, where references look for them."""
    if isinstance(schema, Mapping):
        schema = {**schema, "x-guidance": JSON_BLANKS}
    return f"%json {json.dumps(schema)}"


def _call_schema(row: ToolFormat, name: str, schema: Any) -> dict[str, Any]:
    arguments = dict(schema)
    keys = (row.name_keys[0], row.args_keys[0])
    out: dict[str, Any] = {
        "type": "object",
        "properties": {keys[0]: {"const": name}, keys[1]: arguments},
        "required": list(keys),
        "additionalProperties": False,
    }
    for key in ("$defs", "definitions"):
        if key in arguments:
            out[key] = arguments.pop(key)
    return out


def _parameters(schema: Any) -> list[tuple[str, Any, bool]]:
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if not isinstance(properties, Mapping):
        return []
    required = schema.get("required")
    must = required if isinstance(required, list) else []
    return [(key, value, key in must) for key, value in properties.items()]


def _usable(name: str, tools: Tools) -> Any:
    """The schema of a tool's arguments; where it is not strict and cannot be kept, any object."""
    schema = tools.schemas[name]
    if name in tools.strict:
        return schema
    try:
        json_schema_grammar(schema)
    except GrammarError:
        return {"type": "object"}
    return schema
