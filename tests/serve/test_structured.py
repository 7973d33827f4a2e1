"""Answers bound to schemas, patterns and grammars, and calls that must be made, of a model that writes noise."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("llguidance", reason="needs the extra hrun[serve]")

from test_parsers import CONTROLS

from hrun import Runtime
from hrun.grammar import grammar_of, matcher_of
from hrun.masks import vocabulary_of
from hrun.serve.options import Options
from hrun.serve.tools.dialect import Dialect
from hrun.serve.tools.formats import FORMATS, HERMES, THINK, ToolFormat
from hrun.serve.tools.grammar import AnswerGrammar
from hrun.serve.tools.request import Tools
from hrun.serve.tools.tags import Tags
from live import Live

SCHEMA = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "maxLength": 8},
        "n": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["city", "n"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "get_weather", "parameters": SCHEMA}}
NOTHING = {"type": "object", "properties": {}, "additionalProperties": False}
NOW = {"type": "function", "function": {"name": "now", "parameters": NOTHING}}
HELLO = [{"role": "user", "content": "Hello"}]
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n<think>\n{# </think> <tool_call> #}"
)


@pytest.fixture(scope="module")
def server(tiny_model: Callable[..., Path]) -> Iterator[Live]:
    runtime = Runtime(tiny_model(n_ctx=2048, tied=False), n_threads=1)
    with Live(runtime) as live:
        yield live


def keeps(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and set(value) == {"city", "n"}
        and isinstance(value["city"], str)
        and len(value["city"]) <= 8
        and isinstance(value["n"], int)
        and 0 <= value["n"] <= 99
    )


@pytest.mark.parametrize("stream", [False, True])
def test_json_schema(server: Live, stream: bool) -> None:
    given = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
    for seed in range(3):
        body = {"messages": HELLO, "response_format": given, "seed": seed, "max_tokens": 400}
        if stream:
            chunks = server.events("/v1/chat/completions", body | {"stream": True})
            text = "".join(c["choices"][0]["delta"].get("content", "") for c in chunks[:-1])
        else:
            (choice,) = server.chat(**body).ok()["choices"]
            assert choice["finish_reason"] == "stop"
            text = choice["message"]["content"]
        assert keeps(json.loads(text))


def test_other_forms(server: Live) -> None:
    def said(**fields: Any) -> str:
        reply = server.chat(max_tokens=400, seed=1, **fields)
        return reply.ok()["choices"][0]["message"]["content"]

    assert said(structured_outputs={"choice": ["yes", "no"]}) in ("yes", "no")
    assert re.fullmatch(r"[a-c]{3}", said(structured_outputs={"regex": "[a-c]{3}"}))
    assert said(grammar='root ::= "a" | "b"') in ("a", "b")
    assert keeps(json.loads(said(json_schema=SCHEMA)))
    text = server.post("/v1/completions", {"prompt": "a", "grammar": 'start: "xyz"'}).ok()
    assert text["choices"][0]["text"] == "xyz"
    ollama = {"messages": HELLO, "format": SCHEMA, "stream": False}
    assert keeps(json.loads(server.post("/api/chat", ollama).ok()["message"]["content"]))
    form = {"format": {"type": "json_schema", "name": "x", "schema": SCHEMA}}
    output = server.post("/v1/responses", {"input": "Hello", "text": form}).ok()["output"]
    assert keeps(json.loads(output[0]["content"][0]["text"]))


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"not": {}}}}}, "not"),
        ({"response_format": {"type": "json_schema"}}, "schema"),
        ({"response_format": {"type": "xml"}}, "type"),
        ({"structured_outputs": {"regex": "(?=a)b"}}, "regular expression"),
        ({"structured_outputs": {"structural_tag": "x"}}, "structural_tag"),
        ({"grammar": "root ::= ("}, "grammar"),
        ({"grammar": 'start: "a"', "json_schema": {}}, "one form"),
        ({"grammar": "x" * 10**6}, "characters"),
        ({"json_schema": {"$ref": "#"}}, "grammar"),  # nothing fulfils it
        ({"grammar": 'root ::= ((("a"{1000}){1000}){1000})', "max_tokens": 2}, "grammar"),  # shows with the second token
    ],
)  # fmt: skip
def test_what_cannot_be_kept_is_refused_by_name(server: Live, fields: dict, word: str) -> None:
    assert word in server.chat(**fields).refused(400)
    assert server.get("/health").ok()


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "now"}}])
def test_a_call_that_must_be_made_is_made(server: Live, choice: Any) -> None:
    for seed in range(3):
        reply = server.chat(
            tools=[WEATHER, NOW], tool_choice=choice, seed=seed, parallel_tool_calls=False,
            max_tokens=600,
        ).ok()  # fmt: skip
        (call,) = reply["choices"][0]["message"]["tool_calls"]
        assert reply["choices"][0]["finish_reason"] == "tool_calls"
        arguments = json.loads(call["function"]["arguments"])
        if choice == "required":
            assert call["function"]["name"] in ("get_weather", "now")
        else:
            assert call["function"]["name"] == "now"
        if call["function"]["name"] == "get_weather":
            assert keeps(arguments)


def test_a_form_begins_after_what_the_model_thinks(tiny_model: Callable[..., Path]) -> None:
    path = tiny_model(n_ctx=4096, tied=False, chat_template=THINKING)
    with Live(Runtime(path, n_threads=1)) as live:
        bias = {str(i): 20 for i in live.runtime.tokenize("</think>")}
        reply = live.chat(
            structured_outputs={"choice": ["yes", "no"]}, logit_bias=bias, seed=3, max_tokens=3000
        ).ok()  # fmt: skip
        (choice,) = reply["choices"]
        assert choice["message"]["content"] in ("yes", "no") or choice["finish_reason"] == "length"
        assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] > 0


@pytest.mark.parametrize("controls", [True, False])
def test_thoughts_keep_to_their_budget(controls: bool) -> None:
    names = ("<think>", "</think>")
    vocabulary = Bytes(names)
    if not controls:
        vocabulary.is_control = lambda token: token == vocabulary.n_vocab - 1  # type: ignore[method-assign]
    ids = {name: 256 + i for i, name in enumerate(names)} if controls else {}
    trie = vocabulary_of(vocabulary, vocabulary.n_vocab)  # type: ignore[arg-type]

    def takes(n: int, thinking: bool, text: str) -> bool:
        writer = AnswerGrammar(HERMES, THINK, ids, budget=(n, 257))
        matcher = matcher_of(writer.of_words(thinking), trie)
        tokens = vocabulary.encode(text)
        return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()

    for thinking, begin in ((True, ""), (False, "<think>")):
        assert takes(5, thinking, begin + "abc</think>Hi, a long answer.")
        assert takes(5, thinking, begin + "abcde</think>\n\nHi")
        assert not takes(5, thinking, begin + "abcdefgh</think>Hi")
        assert takes(0, thinking, begin + "</think>Hi")
        assert not takes(0, thinking, begin + "ab</think>Hi")
    assert takes(5, False, "Hi, no thoughts at all.") and takes(5, False, " ")
    assert not takes(5, True, "never closed")


def test_a_budget_that_cannot_be_kept_is_refused(
    server: Live, tiny_model: Callable[..., Path]
) -> None:
    assert "no thoughts" in server.chat(thinking_token_budget=5).refused(400)
    path = tiny_model(n_ctx=512, tied=False, chat_template=THINKING)
    with Live(Runtime(path, n_threads=1)) as live:
        assert "not one token" in live.chat(thinking_token_budget=5).refused(400)


# ---- every family: what its grammar allows its parser reads


CALLS = {
    "hermes": '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}\n</tool_call>',
    "qwen3-coder": "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=n>\n2\n</parameter>\n</function>\n</tool_call>",
    "glm": "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>n</arg_key>\n<arg_value>2</arg_value>\n</tool_call>",
    "gpt-oss": '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris", "n": 2}<|call|>',
    "seed": "<seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n<parameter=n>2</parameter>\n</function>\n</seed:tool_call>",
    "functionary": '<function=get_weather>{"city": "Paris", "n": 2}</function>',
    "apriel": '<tool_calls>[{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}]</tool_calls>',
    "minimax": '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n<parameter name="n">2</parameter>\n</invoke>\n</minimax:tool_call>',
    "llama3": '{"name": "get_weather", "parameters": {"city": "Paris", "n": 2}}',
    "mistral-old": '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}]',
    "mistral": '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "n": 2}',
    "deepseek": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris", "n": 2}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "deepseek-v3.1": '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris", "n": 2}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    "kimi": '<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "Paris", "n": 2}<|tool_call_end|><|tool_calls_section_end|>',
    "granite": '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}]',
    "command-r": '<|START_ACTION|>[{"tool_name": "get_weather", "parameters": {"city": "Paris", "n": 2}}]<|END_ACTION|>',
    "phi4-mini": '<|tool_call|>[{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}]<|/tool_call|>',
    "gemma4": '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,n:2}<tool_call|>',
    "kimi-k3": '<|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|><|open|>argument key="n" type="number"<|sep|>2<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>',
    "deepseek-v3.2": '<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n<｜DSML｜parameter name="n" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜function_calls>',
    "deepseek-v4": '<｜DSML｜tool_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">Paris</｜DSML｜parameter>\n<｜DSML｜parameter name="n" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>',
    "functionary-v3.2": 'get_weather\n{"city": "Paris", "n": 2}',
    "minimax-m3": ']<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>Paris]<]minimax[>[</city>]<]minimax[>[<n>2]<]minimax[>[</n>]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>',
    "olmo3": '<function_calls>\nget_weather(city="Paris", n=2)\n</function_calls>',
    "internlm2": '<|action_start|><|plugin|>\n{"name": "get_weather", "parameters": {"city": "Paris", "n": 2}}\n<|action_end|>',
    "muse": ' to=get_weather<|message|><atem:function_calls>\n<atem:invoke name="get_weather">\n<atem:parameter name="city">Paris</atem:parameter>\n<atem:parameter name="n">2</atem:parameter>\n</atem:invoke>\n</atem:function_calls>',
    "hy3": "<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Paris</arg_value:opensource>\n<arg_key:opensource>n</arg_key:opensource>\n<arg_value:opensource>2</arg_value:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>",
    "minicpm5": '<function name="get_weather"><param name="city">Paris</param><param name="n">2</param></function>',
    "command-r-plus": 'Action:\n```json\n[\n{"tool_name": "get_weather", "parameters": {"city": "Paris", "n": 2}}]\n```',
    "apertus": '<|tools_prefix|>[{"get_weather": {"city": "Paris", "n": 2}}]<|tools_suffix|>',
    "solar": '<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>get_weather<|tool_call:args|>{"city": "Paris", "n": 2}<|tool_call:end|><|calls|>',
    "gigachat": '<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}',
    "gigachat-v3.1": '<|function_call|>{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}',
    "minimax-m1": '<tool_calls>\n{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}\n</tool_calls>',
    "lfm2": '<|tool_call_start|>[get_weather(city="Paris", n=2)]<|tool_call_end|>',
    "pythonic": '[get_weather(city="Paris", n=2)]',
    "functools": 'functools[{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}]',
    "nemotron": '<TOOLCALL>[{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}]</TOOLCALL>',
}  # fmt: skip


class Bytes:
    """A vocabulary of bytes, behind which control tokens come."""

    def __init__(self, controls: tuple[str, ...]) -> None:
        self.tokens = [*(chr(i) for i in range(256)), *controls, "<eos>"]
        self.n_vocab = len(self.tokens)
        self.end_ids = frozenset({self.n_vocab - 1})
        self.controls = controls

    def is_control(self, token: int) -> bool:
        return token >= 256

    def token_bytes(self, token: int) -> bytes:
        return self.tokens[token].encode() if token >= 256 else bytes([token])

    def encode(self, text: str) -> list[int]:
        out: list[int] = []
        while text:
            name = next((c for c in self.controls if text.startswith(c)), None)
            out += [self.tokens.index(name)] if name else list(text[0].encode())
            text = text[len(name or text[0]) :]
        return out


def accepts(row: ToolFormat, reasoning, tools: Tools, thinking: bool, controls, text: str) -> bool:
    vocabulary = Bytes(controls)
    ids = {name: 256 + i for i, name in enumerate(controls)}
    grammar = AnswerGrammar(row, reasoning, ids).of_calls(tools, thinking)
    matcher = matcher_of(grammar, vocabulary_of(vocabulary, vocabulary.n_vocab))  # type: ignore[arg-type]
    tokens = vocabulary.encode(text)
    return matcher.try_consume_tokens(tokens) == len(tokens) and matcher.is_accepting()


@pytest.mark.parametrize("controls", [(), CONTROLS], ids=["text", "tokens"])
def test_a_form_is_for_the_last_message_of_channels(controls) -> None:
    row = next(row for row in FORMATS if row.channels)
    vocabulary = Bytes(controls)
    ids = {name: 256 + i for i, name in enumerate(controls)}
    answer = grammar_of(json_schema={"const": 1})
    assert answer is not None
    grammar = AnswerGrammar(row, None, ids).of_answer(answer, False)
    matcher = matcher_of(grammar, vocabulary_of(vocabulary, vocabulary.n_vocab))  # type: ignore[arg-type]
    before = "<|channel|>analysis<|message|>2<|end|><|start|>assistant"
    for text, ok in (
        ("<|channel|>final<|message|>1", True),
        (before + "<|channel|>final <|constrain|>json<|message|>1", True),
        (before + "<|channel|>final<|message|>2", False),
        ("1", False),
    ):
        reader, tokens = matcher.deep_copy(), vocabulary.encode(text)
        assert (reader.try_consume_tokens(tokens) == len(tokens) and reader.is_accepting()) == ok


def test_every_family_has_an_example() -> None:
    assert {row.name for row in FORMATS} == set(CALLS)


@pytest.mark.slow
@pytest.mark.parametrize("controls", [(), CONTROLS], ids=["text", "tokens"])
@pytest.mark.parametrize("row", FORMATS, ids=lambda row: row.name)
def test_the_grammar_of_a_family_takes_what_it_writes(row: ToolFormat, controls) -> None:
    call = CALLS[row.name]
    schemas = {"get_weather": SCHEMA, "now": {"type": "object", "properties": {}}}
    must = Tools([], schemas, frozenset(), required=True)
    may = Tools([], schemas, frozenset({"get_weather"}))

    def take(tools: Tools, text: str, reasoning: Any = None, thinking: bool = False) -> bool:
        return accepts(row, reasoning, tools, thinking, controls, text)

    plain, c = "Hi there.", row.channels
    if c is not None:
        plain = f"{c.header}{c.answer}{c.message}{plain}"
    assert take(must, call) and take(may, call)
    assert not take(must, plain) and take(may, plain)
    assert not take(must, call.replace("get_weather", "get_other"))
    before, _, after = call.rpartition("2")
    for value in ("x", '"x"', '<|"|>x<|"|>'):
        assert not take(must, before + value + after)
        if not row.bare and not row.opened:  # else it may be text
            assert not take(may, before + value + after)
    if c is not None:
        before = f"{c.header}{c.before[0]}{c.message}Well.{c.end}{c.start}assistant"
        assert take(must, before + call) and take(must, before + before + call)
        assert take(may, before + plain) and not take(must, before + plain)
        return
    thought = f"Well.\n</think>\n\n{call}"
    assert take(must, thought, THINK, True) and not take(must, call, THINK, True)
    assert take(must, "<think>" + thought, THINK) and take(must, call, THINK)
    dialect = Dialect("", Options(tool_format=row.name))
    assert dialect.row is row


RICH = {
    "type": "object",
    "properties": {
        "kind": {"type": "string", "enum": ["a b", "c"]},
        "on": {"type": "boolean"},
        "points": {
            "type": "array",
            "items": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
        },
        "note": {"type": "string"},
        "extra": {"type": "object"},
    },
    "required": ["on"],
    "additionalProperties": False,
}
RICH_VALUE = {"kind": "a b", "on": True, "points": [{"x": 1.5}, {"x": -2}], "note": 'it\'s "so", {x}', "extra": {"k": ["v"]}}  # fmt: skip
_MM = "]<]minimax[>["
# family -> (before the members, after them, the members of RICH_VALUE, what separates them)
RICH_CALLS: dict[str, tuple[str, str, dict[str, str], str]] = {
    "gemma4": ("<|tool_call>call:set{", "}<tool_call|>", {
        "kind": 'kind:<|"|>a b<|"|>', "on": "on:true", "points": "points:[{x:1.5},{x:-2}]",
        "note": 'note:<|"|>it\'s "so", {x}<|"|>', "extra": 'extra:{k:[<|"|>v<|"|>]}'}, ","),
    "pythonic": ("[set(", ")]", {
        "kind": 'kind="a b"', "on": "on=True", "points": 'points=[{"x": 1.5}, {"x": -2}]',
        "note": 'note="it\'s \\"so\\", {x}"', "extra": 'extra={"k": ["v"]}'}, ", "),
    "minimax-m3": (f'{_MM}<tool_call>\n{_MM}<invoke name="set">', f"{_MM}</invoke>\n{_MM}</tool_call>", {
        "kind": f'{_MM}<kind>a b{_MM}</kind>', "on": f"{_MM}<on>true{_MM}</on>",
        "points": f"{_MM}<points>{_MM}<item>{_MM}<x>1.5{_MM}</x>{_MM}</item>{_MM}<item>{_MM}<x>-2{_MM}</x>{_MM}</item>{_MM}</points>",
        "note": f'{_MM}<note>it\'s "so", {{x}}{_MM}</note>', "extra": f'{_MM}<extra>{{"k": ["v"]}}{_MM}</extra>'}, ""),
    "qwen3-coder": ("<tool_call>\n<function=set>\n", "</function>\n</tool_call>", {
        "kind": "<parameter=kind>\na b\n</parameter>\n", "on": "<parameter=on>\ntrue\n</parameter>\n",
        "points": '<parameter=points>\n[{"x": 1.5}, {"x": -2}]\n</parameter>\n',
        "note": '<parameter=note>\nit\'s "so", {x}\n</parameter>\n', "extra": '<parameter=extra>\n{"k": ["v"]}\n</parameter>\n'}, ""),
    "deepseek-v3.2": ('<｜DSML｜function_calls>\n<｜DSML｜invoke name="set">\n', "</｜DSML｜invoke>\n</｜DSML｜function_calls>", {
        "kind": '<｜DSML｜parameter name="kind" string="true">a b</｜DSML｜parameter>\n',
        "on": '<｜DSML｜parameter name="on" string="false">true</｜DSML｜parameter>\n',
        "points": '<｜DSML｜parameter name="points" string="false">[{"x": 1.5}, {"x": -2}]</｜DSML｜parameter>\n',
        "note": '<｜DSML｜parameter name="note" string="true">it\'s "so", {x}</｜DSML｜parameter>\n',
        "extra": '<｜DSML｜parameter name="extra" string="false">{"k": ["v"]}</｜DSML｜parameter>\n'}, ""),
}  # fmt: skip


@pytest.mark.parametrize("controls", [(), CONTROLS], ids=["text", "tokens"])
@pytest.mark.parametrize("name", RICH_CALLS)
def test_members_of_every_kind_are_held_to_their_schema(name: str, controls) -> None:
    """Any of the optional members may be left out; the parser reads what the grammar took."""
    row = next(row for row in FORMATS if row.name == name)
    begin, end, members, comma = RICH_CALLS[name]
    must = Tools([], {"set": RICH}, frozenset({"set"}), required=True)

    def text(keys: Any) -> str:
        return begin + comma.join(members[key] for key in keys) + end

    def take(call: str) -> bool:
        return accepts(row, None, must, False, controls, call)

    for kept in itertools.product((False, True), repeat=4):
        optional = dict(zip(("kind", "points", "note", "extra"), kept))
        keys = [key for key in RICH_VALUE if optional.get(key, True)]
        assert take(text(keys)), keys
        parser = Dialect("", Options(tool_format=name)).parser(Tags(()), must, False)
        events = parser.feed(text(keys)) + parser.finish()
        got = json.loads("".join(e.text for e in events if e.kind == "arguments"))
        assert got == {key: RICH_VALUE[key] for key in keys}
    assert not take(text(["kind", "note"]))  # "on" must be there
    assert not take(text(["on", "kind"]))  # in the schema's order
    assert not take(text(["on"]).replace("true", "3").replace("True", "3"))
    assert not take(text(["kind", "on"]).replace("a b", "a c"))
    assert not take(text(["on", "points"]).replace("-2", "z"))


@pytest.mark.parametrize("controls", [(), ("<think>", "</think>")], ids=["text", "tokens"])
@pytest.mark.parametrize("thinking", [True, False])
def test_every_kind_of_form_goes_behind_thoughts(controls, thinking: bool) -> None:
    vocabulary = Bytes(controls)
    trie = vocabulary_of(vocabulary, vocabulary.n_vocab)  # type: ignore[arg-type]
    ids = {name: 256 + i for i, name in enumerate(controls)}
    for form, good, wrong in (
        ({"json_schema": {"const": 1}}, "1", "2"),
        ({"regex": "[ab]+"}, "aab", "c"),
        ({"choice": ["aa", "ab"]}, "ab", "ba"),
        ({"grammar": 'root ::= "a" x\nx ::= "b" | "a" x'}, "aab", "aa"),
        ({"grammar": "start: w+\nw: /[0-9]/"}, "12", "x"),
    ):
        answer = grammar_of(**form)
        assert answer is not None
        grammar = AnswerGrammar(HERMES, THINK, ids).of_answer(answer, thinking)
        for text, ok in (
            (f"what 1 aab</think>\n\n{good}", thinking),
            (f"<think>what</think>{good}", not thinking or not controls),
            (good, not thinking),
            (f"x</think>{wrong}", False),
        ):
            matcher = matcher_of(grammar, trie)
            tokens = vocabulary.encode(text)
            taken = matcher.try_consume_tokens(tokens) == len(tokens)
            assert (taken and matcher.is_accepting()) == ok, (form, text)
