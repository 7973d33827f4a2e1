"""The grammar of an answer: thoughts first, then what the request asks for, or calls as the family's row has them."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from typing import Any

from hrun.errors import GrammarError
from hrun.grammar import JSON_BLANKS, Grammar, json_schema_grammar, text_grammar, within
from hrun.serve.tools.formats import Channels, Reasoning, ToolFormat
from hrun.serve.tools.quoted import QUOTE
from hrun.serve.tools.request import Tools
from hrun.serve.tools.tags import Tags
from hrun.serve.tools.values import kind_of

_COMMON = "TEXT: /(.|\\n)*/\nBLANKS: /[ \\t\\r\\n]{1,4}/\n"


class AnswerGrammar:
    """Writes Lark for one model.

    ``ids``: its control tokens by name; ``ends``: those that end an answer.  ``budget``: tokens of thoughts at most, and the
    token that ends them.
    """

    def __init__(
        self,
        row: ToolFormat,
        reasoning: Reasoning | None,
        ids: Mapping[str, int],
        ends: Collection[int] = (),
        budget: tuple[int, int] | None = None,
    ) -> None:
        self._budget = budget
        self._ends = ends
        self._row = row
        self._reasoning = reasoning
        self._ids = ids
        self._tags = Tags(ids)
        self._rules: list[str] = []
        self._has_any = False

    def of_answer(self, answer: Grammar, thinking: bool) -> Grammar:
        """Returns a grammar for ``answer`` after the model's thoughts; ``thinking``: the prompt has
        opened the tag.
        """
        if channels := self._row.channels:
            json_mark = f'(" "? {self._tag("<|constrain|>")} "json")?' if channels.typed else ""
            final = f"{self._tag(channels.header + channels.answer)} {json_mark} {self._tag(channels.message)}"
            start = f"{self._messages(channels)} {final} @answer"
            return within(f"start: {start}\n{_COMMON}" + "\n".join(self._rules), answer)
        if self._reasoning is None:
            return answer
        thoughts = self._thoughts(thinking)
        return within(f"start: {thoughts} @answer\n{_COMMON}" + "\n".join(self._rules), answer)

    def of_words(self, thinking: bool) -> Grammar:
        """Any answer, after thoughts that keep to their budget."""
        assert self._reasoning is not None
        words, _ = self._words()
        start = f"{self._thoughts(True)} {words}"
        if not thinking:
            pieces = self._pieces(self._reasoning.begin)
            token, text = pieces[0]
            blanks = r"[ \t\r\n]*"
            # Text that may be the tag is no other answer.
            other = (
                "TEXT"
                if token is not None
                else f"/{blanks}([^{_regex(text[0])} \\t\\r\\n](.|\\n)*)?/"
            )
            start = f"{self._tag(self._reasoning.begin)} {start} | {self._rule('other', other)}"
        return text_grammar(f"start: {start}\n{_COMMON}" + "\n".join(self._rules))

    def of_calls(self, tools: Tools, thinking: bool) -> Grammar:
        """Calls of the tools: at once where they are required, else wherever the model begins one."""
        row = self._row
        schemas = {name: _usable(name, tools) for name in tools.schemas}
        if row.channels is not None:
            return text_grammar(self._channel_calls(row.channels, schemas, tools))
        begin, calls = self._calls(schemas, tools.parallel)
        thoughts = self._thoughts(thinking)
        words, silent = self._words()
        if tools.required:
            lead = silent if begin else ""
            start = f"{thoughts} {lead} {self._tag(begin)} {calls} BLANKS? {lead}"
        elif not begin:
            start = f"{thoughts} ({calls} | {words})"
        else:
            head = self._until(begin, "head", words)
            more = "?" if not tools.parallel or row.section_begin else "*"
            start = f"{thoughts} ({head} {calls}){more} {words}"
        return text_grammar(f"start: {start}\n{_COMMON}" + "\n".join(self._rules))

    # ---- channels

    def _messages(self, channels: Channels) -> str:
        """Messages before the last one: thoughts, and words about what comes."""
        heads = " | ".join(self._tag(channels.header + words) for words in channels.before)
        text = self._until(channels.end, "text")
        body = f"({heads}) {self._tag(channels.message)} {text} {self._tag(channels.start + 'assistant')}"
        return self._rule("message", body) + "*"

    def _channel_calls(self, channels: Channels, schemas: Mapping[str, Any], tools: Tools) -> str:
        """Returns the rule for calls as the last messages; where none is required, an answer may be
        the last.
        """
        mark = f'(" " {self._tag("<|constrain|>")} "json" | " json")?' if channels.typed else ""
        ended = not channels.call_end or self._ids.get(channels.call_end) in self._ends
        end = "" if ended else self._tag(channels.call_end)
        calls = []
        for name, schema in schemas.items():
            head = f"{self._tag(channels.header + channels.call + name)} {mark} {self._tag(channels.message)}"
            body = _json(schema)
            if self._row.call_begin:
                begin, inside = self._calls({name: schema}, False)
                body = f"{self._tag(begin)} {inside}"
            calls.append(self._rule("call", f"{head} {body} {end}"))
        last = f"({' | '.join(calls)})"
        next_message = f"{self._tag(channels.end)} {self._tag(channels.start + 'assistant')}"
        if not channels.call_end and tools.parallel:
            last = f"{last} ({next_message} {last})*"
        if not tools.required:
            answer = f"{self._tag(channels.header + channels.answer)} {self._tag(channels.message)}"
            if channels.call_end:
                last = f"({last} | {answer} TEXT)"
            else:
                text = self._until(channels.end, "text")
                said = f"{answer} {text} {self._tag(channels.start + 'assistant')}"
                last = f"(({said})? {last} | {answer} TEXT)"
        start = f"{self._messages(channels)} {last}"
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

    def _words(self) -> tuple[str, str]:
        """Returns (a rule for any text with tags that carry nothing, one for such tags alone)."""
        if not self._row.silent:
            return "TEXT", ""
        tags = self._rule("silent", " | ".join(map(self._tag, self._row.silent)))
        return f"(TEXT {tags})* TEXT", f"{tags}*"

    def _until(self, tag: str, name: str, words: str = "TEXT") -> str:
        """Any text, and then the tag."""
        pieces = self._pieces(tag)
        if pieces and pieces[0][0] is not None:
            return f"{words} {self._tag(tag)}"
        first = _regex(pieces[0][1])
        self._rules.append(f"{name}_{len(self._rules)}[lazy]: /(.|\\n)*{first}/")
        rest = "".join(text for _, text in pieces[1:])
        return f"{name}_{len(self._rules) - 1} {self._tag(rest)}"

    def _thoughts(self, thinking: bool) -> str:
        if self._reasoning is None:
            return ""
        if self._budget is not None:
            n, end = self._budget
            rule = f"thoughts_{len(self._rules)}"
            self._rules.append(f"{rule}[max_tokens={max(n, 1)}]: TEXT")
            inside = f"{rule if n else ''} <[{end}]> BLANKS?"
        else:
            inside = f"{self._until(self._reasoning.end, 'thoughts')} BLANKS?"
        if thinking:
            return inside
        return f"({self._tag(self._reasoning.begin)} {inside})?"

    def _calls(self, schemas: Mapping[str, Any], parallel: bool) -> tuple[str, str]:
        """Returns (the tag that begins calls, the rest of all of them)."""
        row = self._row
        if row.payload == "json" and row.listed:
            items = [_call_schema(row, name, schema) for name, schema in schemas.items()]
            if row.lines:
                line = self._rule("line", " | ".join(map(_json, items)))
                more = f"(BLANKS {line})*" if parallel else ""
                return row.call_begin, f"BLANKS? {line} {more} BLANKS? {self._tag(row.call_end)}"
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
        if row.payload == "pythonic":
            more = f'("," BLANKS? {body})*' if parallel else ""
            begin = "" if row.bare else row.call_begin
            if row.lines:
                more = f"(BLANKS {body})*" if parallel else ""
                return begin, f"BLANKS? {body} {more} BLANKS? {self._tag(row.call_end)}"
            return begin, f'"[" {body} {more} "]" {self._tag(row.call_end)}'
        if row.bare:
            return "", body
        one = f"{body} {self._tag(row.call_end)}"
        again = f"(BLANKS? {self._tag(row.call_begin)} {one})*" if parallel else ""
        if row.opened:
            return "", f"{one} {again}"
        if not row.section_begin:
            return row.call_begin, f"{one} {again}"
        inside = f"BLANKS? {self._tag(row.call_begin)} {one} {again} BLANKS?"
        return row.section_begin, f"{inside} {self._tag(row.section_end)}"

    def _body(self, name: str, schema: Any) -> str:
        """Returns the rule for the text between the tags of one call."""
        row = self._row
        if row.payload == "json":
            return self._rule("call", f"BLANKS? {_json(_call_schema(row, name, schema))} BLANKS?")
        if row.payload == "named":
            index = ' ":" /[0-9]{1,3}/' if row.index_after_name else ""
            close = ' "\\n```"' if "```" in row.name_end else ""
            given = f"/[a-z0-9]{{1,32}}/ {self._tag(row.id_end)} " if row.id_end else ""
            head = f"{given}{json.dumps(row.name_prefix + name)}{index} {self._tag(row.name_end)}"
            return self._rule("call", f"{head} {_json(schema)}{close}")
        if row.payload == "pythonic":
            members = [
                (json.dumps(key + "=") + " " + _python_value(value), must)
                for key, value, must in _parameters(schema)
            ]
            return self._rule("call", f'{json.dumps(name + "(")} {self._sequence(members)} ")"')
        if row.payload == "quoted":
            return self._rule("call", f"{json.dumps(name)} {self._quoted_object(schema)}")
        if row.payload == "nested":
            head = f"{json.dumps(name)} {self._tag(row.name_end)}"
            return self._rule("call", f"{head} BLANKS? {self._elements(schema)}")
        index = ' "\\" index=\\"" /[0-9]{1,2}/ "\\""' if row.name_attribute else ""
        opened = (
            f"{self._tag(row.name_prefix)} {json.dumps(name)} {index} {self._tag(row.name_end)}"
        )
        parameters = " ".join(self._parameter(*item) for item in _parameters(schema))
        close = json.dumps(row.function_end) + " BLANKS?" if row.function_end else ""
        return self._rule("call", f"BLANKS? {opened} BLANKS? {parameters} {close}")

    def _parameter(self, key: str, schema: Any, required: bool) -> str:
        row = self._row
        is_text = kind_of(schema) == "string"
        texts = _texts_of(schema)
        name = json.dumps(key + _attributes(row, schema, is_text))
        head = f"{self._tag(row.key_begin)} {name} {self._tag(row.key_end)}"
        if row.value_begin:
            head += f" BLANKS? {self._tag(row.value_begin)}"
        if is_text and texts:
            # The texts are written without quotes.  A line's end before and behind is no part of
            # the value.
            one = self._rule("text", " | ".join(map(json.dumps, texts)))
            value = f'({one} | "\\n" {one} "\\n") {self._tag(row.value_end)}'
        elif is_text and row.cdata:
            quoted = f'"<![CDATA[" {self._until("]]>" + row.value_end, "value")}'
            value = f"({quoted} | {self._until(row.value_end, 'value')})"
        elif is_text:
            value = self._until(row.value_end, "value")
        else:
            value = f"BLANKS? {_json(schema)} BLANKS? {self._tag(row.value_end)}"
        rule = self._rule("parameter", f"{head} {value} BLANKS?")
        return rule if required else f"{rule}?"

    def _sequence(self, members: list[tuple[str, bool]]) -> str:
        """Members with commas between them, in this order; (what a member is, must it be there)."""
        first, after = "", ""
        for member, required in reversed(members):
            body = self._rule("member", member)
            alone = f"{body} {after}"
            if not first:
                first = f"({alone})" if required else f"({alone})?"
            else:
                first = f"({alone})" if required else f"({alone} | {first})"
            first = self._rule("first", first)
            comma = f'("," BLANKS? {body})'
            after = self._rule("after", f"{comma if required else comma + '?'} {after}")
        return first

    def _quoted_object(self, schema: Any) -> str:
        members = [
            (f"{self._quoted_key(key)} {self._quoted(value)}", must)
            for key, value, must in _parameters(schema)
        ]
        if not members and kind_of(schema) == "object" and not _parameters_known(schema):
            return self._any_quoted("object")
        return f'"{{" {self._sequence(members)} "}}"'

    def _quoted_key(self, key: str) -> str:
        if re.fullmatch(r"[\w.-]+", key):
            return json.dumps(key + ":")
        return f'{self._tag(QUOTE)} {json.dumps(key)} {self._tag(QUOTE)} ":"'

    def _quoted(self, schema: Any) -> str:
        """A value whose texts stand between marks."""
        kind, mark = kind_of(schema), self._tag(QUOTE)
        if texts := _texts_of(schema):
            return self._rule("value", " | ".join(f"{mark} {json.dumps(v)} {mark}" for v in texts))
        if kind == "string":
            return self._rule("value", f"{mark} {self._until(QUOTE, 'text')}")
        if kind in ("integer", "number", "boolean", "null"):
            return self._rule("value", _json(schema))
        if kind == "object":
            return self._rule("value", self._quoted_object(schema))
        if kind == "array" and "items" in schema:
            item = self._quoted(schema["items"])
            return self._rule("value", f'"[" ({item} ("," BLANKS? {item})*)? "]"')
        return self._any_quoted("value")

    def _any_quoted(self, kind: str) -> str:
        """Any value, or any object."""
        if not self._has_any:
            self._has_any = True
            text = f"{self._tag(QUOTE)} {self._until(QUOTE, 'text')}"
            self._rules += [
                f"any_text: {text}",
                'any_value: any_text | NUMBER | "true" | "false" | "null" | any_object | any_list',
                'any_object: "{" (any_pair ("," BLANKS? any_pair)*)? "}"',
                'any_list: "[" (any_value ("," BLANKS? any_value)*)? "]"',
                'any_pair: (KEY | any_text) ":" any_value',
                r"NUMBER: /-?[0-9]{1,15}(\.[0-9]{1,15})?([eE][+-]?[0-9]{1,2})?/",
                r"KEY: /[A-Za-z0-9_.-]{1,64}/",
            ]
        return f"any_{kind}"

    def _elements(self, schema: Any) -> str:
        """Parameters as elements, in the schema's order."""
        out = []
        for key, value, must in _parameters(schema):
            rule = self._rule("element", f"{self._element(key, value)} BLANKS?")
            out.append(rule if must else f"{rule}?")
        return " ".join(out)

    def _element(self, name: str, schema: Any) -> str:
        opens = self._row.namespace + "<"
        head, close = self._tag(f"{opens}{name}>"), f"{opens}/{name}>"
        kind, end = kind_of(schema), self._tag(close)
        if kind == "string" and (texts := _texts_of(schema)):
            return f"{head} {self._rule('text', ' | '.join(map(json.dumps, texts)))} {end}"
        if kind == "string":
            return f"{head} {self._until(close, 'value')}"
        if kind == "object" and _parameters(schema):
            return f"{head} BLANKS? {self._elements(schema)} {end}"
        if kind == "array" and "items" in schema:
            item = self._rule("item", f"{self._element('item', schema['items'])} BLANKS?")
            return f"{head} BLANKS? {item}* {end}"
        return f"{head} BLANKS? {_json(schema)} BLANKS? {end}"


def _texts_of(schema: Any) -> list[str]:
    """The texts that a value may be, where the schema lists them."""
    if not isinstance(schema, Mapping):
        return []
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        return []
    return values


def _attributes(row: ToolFormat, schema: Any, is_text: bool) -> str:
    """Returns the text that follows a key, beginning with the quote that ends the key."""
    if row.attributes == "string":
        return f'" string="{str(is_text or kind_of(schema) == "string").lower()}"'
    if row.attributes == "type":
        kind = kind_of(schema)
        return f'" type="{"number" if kind == "integer" else kind if isinstance(kind, str) else "object"}"'
    return ""


def _python_value(schema: Any) -> str:
    """Returns the rule for a value in Python's notation.  Its texts, numbers and lists may also be
    those of JSON.
    """
    kind = kind_of(schema)
    if kind == "boolean":
        return '("True" | "False")'
    return '"None"' if kind == "null" else _json(schema)


def _parameters_known(schema: Any) -> bool:
    """Does the schema say which members there are?"""
    return isinstance(schema, Mapping) and isinstance(schema.get("properties"), Mapping)


def _regex(text: str) -> str:
    """The text in a Lark regular expression."""
    escaped = re.escape(text).replace("\\\n", r"\n").replace(r"\ ", " ")
    return escaped.replace("/", r"\/")


def _json(schema: Any) -> str:
    """The schema's place in Lark; its definitions go to the root, where references look for them."""
    if isinstance(schema, Mapping):
        schema = {**schema, "x-guidance": JSON_BLANKS}
    return f"%json {json.dumps(schema)}"


def _call_schema(row: ToolFormat, name: str, schema: Any) -> dict[str, Any]:
    arguments = dict(schema)
    properties: dict[str, Any] = {name: arguments}
    if row.name_keys:
        properties = {row.name_keys[0]: {"const": name}, row.args_keys[0]: arguments}
    out: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
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
