"""Tool calls and reasoning of each family, and that no cut of the text changes what is read."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("starlette", reason="needs the extra hrun[serve]")

from hrun.serve.options import Options
from hrun.serve.tools.dialect import Dialect
from hrun.serve.tools.formats import FORMATS, format_named, format_of
from hrun.serve.tools.request import Tools
from hrun.serve.tools.tags import Tags

SCHEMAS = {
    "get_weather": {"type": "object", "properties": {"city": {"type": "string"}, "n": {"type": "integer"}}},
    "now": {"type": "object", "properties": {}},
}  # fmt: skip
PARIS = ("get_weather", {"city": "Paris", "n": 2})
NOW = ("now", {})

# (format, what the model writes, reasoning, content, calls); <|...|> in "controls" are single tokens.
CASES: list[tuple[str, str, str, str, list[Any]]] = [
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}\n</tool_call>', "", "", [PARIS]),
    ("hermes", 'I look.\n<tool_call>{"name": "now"}</tool_call>\n<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}</tool_call>\n', "", "I look.", [NOW, PARIS]),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}}</tool_call><tool_call>{"name": "now", "arguments": {}}</tool_call>', "", "", [NOW, NOW]),
    ("hermes", '<think>\nA thought.\n</think>\n\nHi <b>there</b>', "A thought.", "Hi <b>there</b>", []),
    ("hermes", '<think>x < y</think><tool_call>{"name": "now"}</tool_call>', "x < y", "", [NOW]),
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "</tool_call> \\" {"}}</tool_call>', "", "", [("get_weather", {"city": '</tool_call> " {'})]),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}}', "", "", [NOW]),
    ("hermes", 'a <tool_call>{bad json}</tool_call> b <tool_call>{"name": "now"}</tool_call>', "", "a <tool_call>{bad json}</tool_call> b", [NOW]),
    ("hermes", '<tool_call>never closed', "", "<tool_call>never closed", []),
    ("hermes", 'a < b and <tool and </tool_call>', "", "a < b and <tool and </tool_call>", []),
    ("hermes", '<tool_call>{"name": "now", "arguments": "{}"}}\n</tool_call>', "", "", [NOW]),
    ("qwen3-coder", '<tool_call>\n<function=get_weather>\n<parameter=city>\nPa<ris\n</parameter>\n<parameter=n>\n2\n</parameter>\n</function>\n</tool_call>', "", "", [("get_weather", {"city": "Pa<ris", "n": 2})]),
    ("qwen3-coder", '<tool_call>\n<function=now>\n</function>\n</tool_call>', "", "", [NOW]),
    ("qwen3-coder", '<tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>', "", '<tool_call>\n<tool_call>\n<function=now>\n</function>\n</tool_call>', []),
    ("glm", '<think>t</think>\n<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n<arg_key>n</arg_key>\n<arg_value>2</arg_value>\n</tool_call>', "t", "", [PARIS]),
    ("minimax", '<minimax:tool_call>\n<invoke name="get_weather">\n<parameter name="city">Paris</parameter>\n<parameter name="n">2</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>', "", "", [PARIS, NOW]),
    ("llama3", '{"name": "get_weather", "parameters": {"city": "Paris", "n": 2}}', "", "", [PARIS]),
    ("llama3", '<|python_tag|>{"name": "now", "parameters": {}}', "", "", [NOW]),
    ("llama3", '{"name": "other", "parameters": {}} and more', "", '{"name": "other", "parameters": {}} and more', []),
    ("llama3", '{"answer": [1, 2]}', "", '{"answer": [1, 2]}', []),
    ("pythonic", "[get_weather(city='Paris', n=2), now()]", "", "", [PARIS, NOW]),
    ("pythonic", "[1, 2] is a list", "", "[1, 2] is a list", []),
    ("lfm2", "<|tool_call_start|>[get_weather(city=\"Paris\", n=2)]<|tool_call_end|>Done.", "", "Done.", [PARIS]),
    ("mistral-old", '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}, {"name": "now", "arguments": {}}]', "", "", [PARIS, NOW]),
    ("mistral", '[THINK]hm[/THINK]ok[TOOL_CALLS]get_weather[ARGS]{"city": "Paris", "n": 2}[TOOL_CALLS]now[ARGS]{}', "hm", "ok", [PARIS, NOW]),
    ("gpt-oss", '<|channel|>analysis<|message|>Think.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris", "n": 2}<|call|>', "Think.", "", [PARIS]),
    ("gpt-oss", '<|channel|>analysis to=functions.now<|message|>{}', "", "", [NOW]),
    ("gpt-oss", ' to=functions.now<|channel|>commentary<|message|>{}', "", "", [NOW]),
    ("gpt-oss", '<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>Hi there<|return|>', "a", "Hi there", []),
    ("deepseek", '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris", "n": 2}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>', "", "", [PARIS, NOW]),
    ("deepseek-v3.1", 'ok<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>now<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>', "", "ok", [NOW]),
    ("kimi", '<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>', "", "", [NOW]),
    ("granite", '<|tool_call|>[{"name": "now", "arguments": {}}]', "", "", [NOW]),
    ("command-r", '<|START_THINKING|>p<|END_THINKING|><|START_ACTION|>[\n{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris", "n": 2}}\n]<|END_ACTION|>', "p", "", [PARIS]),
    ("phi4-mini", '<|tool_call|>[{"type": "function", "function": {"name": "now", "arguments": {}}}]<|/tool_call|>', "", "", [NOW]),
    ("functools", 'functools[{"name": "now", "arguments": {}}]', "", "", [NOW]),
    ("seed", "<seed:think>t</seed:think><seed:tool_call>\n<function=get_weather>\n<parameter=city>Paris</parameter>\n<parameter=n>2</parameter>\n</function>\n</seed:tool_call>", "t", "", [PARIS]),
    ("functionary", 'ok <function=get_weather>{"city": "Paris", "n": 2}</function><function=now>{}</function>', "", "ok", [PARIS, NOW]),
    ("apriel", '<tool_calls>[{"name": "now", "arguments": {}}]</tool_calls>', "", "", [NOW]),
    ("mistral", '[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}', "", "", [NOW]),
    ("qwen3-coder", "<think>I look.\n<tool_call>\n<function=now>\n</function>\n</tool_call>", "I look.", "", [NOW]),
    ("qwen3-coder", "I look.\n<function=now>\n</function>\n</tool_call>", "", "I look.", [NOW]),
    ("qwen3-coder", "Write <function=x> and </function>.", "", "Write <function=x> and </function>.", []),
    ("hermes", '<think>as <tool_call>{"name": "now"}</tool_call> says</think>Hi', 'as <tool_call>{"name": "now"}</tool_call> says', "Hi", []),
    ("hermes", "</think>\nHi", "", "Hi", []),
    ("gpt-oss", '<|channel|>commentary to=python <|constrain|>code<|message|>print(1)<|end|><|start|>assistant to=assistant<|channel|>final<|message|>Hi', "", "Hi", []),
    ("gemma4", '<|channel>thought\nhm\n<channel|>Hi<|tool_call>call:get_weather{city:<|"|>Paris<|"|>,n:2}<tool_call|><|tool_call>call:now{}<tool_call|>', "hm", "Hi", [PARIS, NOW]),
    ("gemma4", '<|tool_call>call:now{a:{<|"|>b, c<|"|>:[<|"|>{x: ]<|"|>, -1.5, true, null, []]}, d: {}}<tool_call|>', "", "", [("now", {"a": {"b, c": ["{x: ]", -1.5, True, None, []]}, "d": {}})]),
    ("gemma4", '<|tool_call>call:now{a:oops}<tool_call|>', "", "", [("now", {"a": "oops"})]),
    ("gemma4", '<|tool_call>call:now{a:[1,<tool_call|><|tool_call>call:now{a<tool_call|>x', "", "x", [("now", {"a": [1]}), NOW]),
    ("gemma4", '<|tool_call>call:now{a:[{b:1 c:2}]}<tool_call|>', "", "", [("now", {"a": [{"b": "1 c:2"}]})]),
    ("gemma4", '<|tool_call>call:now{a:<|"|>b<|"|> and}<tool_call|>', "", "and}", [("now", {"a": "b"})]),
    ("gemma4", '<|channel>thought\n<channel|>Hi<|channel>thought\n<channel|><channel|>', "", "Hi", []),
    ("kimi-k3", '<|open|>think<|sep|>hm<|close|>think<|sep|><|open|>response<|sep|>Hi<|close|>response<|sep|><|open|>tools<|sep|><|open|>call tool="get_weather" index="1"<|sep|><|open|>argument key="city" type="string"<|sep|>Paris<|close|>argument<|sep|><|open|>argument key="n" type="number"<|sep|>2<|close|>argument<|sep|><|close|>call<|sep|><|open|>call tool="now" index="2"<|sep|><|close|>call<|sep|><|close|>tools<|sep|><|close|>message<|sep|>', "hm", "Hi", [PARIS, NOW]),
    ("kimi-k3", '<|open|>response<|sep|>the response<|close|>response<|sep|><|close|>message<|sep|>', "", "the response", []),
    ("deepseek-v3.2", 'ok\n\n<｜DSML｜function_calls>\n<｜DSML｜invoke name="get_weather">\n<｜DSML｜parameter name="city" string="true">12</｜DSML｜parameter>\n<｜DSML｜parameter name="n" string="false">2</｜DSML｜parameter>\n</｜DSML｜invoke>\n<｜DSML｜invoke name="now">\n</｜DSML｜invoke>\n</｜DSML｜function_calls>', "", "ok", [("get_weather", {"city": "12", "n": 2}), NOW]),
    ("deepseek-v4", '<think>t<｜DSML｜tool_calls><｜DSML｜invoke name="now"><｜DSML｜parameter name="x" string="true">1</｜DSML｜parameter><｜DSML｜parameter name="y" string="false">1</｜DSML｜parameter></｜DSML｜invoke></｜DSML｜tool_calls>', "t", "", [("now", {"x": "1", "y": 1})]),
    ("minimax-m3", '<mm:think>t</mm:think>]<]minimax[>[<tool_call>\n]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>Paris]<]minimax[>[</city>]<]minimax[>[<n>2]<]minimax[>[</n>]<]minimax[>[</invoke>\n]<]minimax[>[<invoke name="now">]<]minimax[>[</invoke>\n]<]minimax[>[</tool_call>', "t", "", [PARIS, NOW]),
    ("minimax-m3", ']<]minimax[>[<tool_call>]<]minimax[>[<invoke name="now">]<]minimax[>[<a>]<]minimax[>[<item>1]<]minimax[>[</item>]<]minimax[>[<item>]<]minimax[>[<b>x]<]minimax[>[</b>]<]minimax[>[</item>]<]minimax[>[</a>]<]minimax[>[</invoke>]<]minimax[>[</tool_call>', "", "", [("now", {"a": [1, {"b": "x"}]})]),
    ("minimax-m3", ']<]minimax[>[<tool_call>]<]minimax[>[<invoke name="now">]<]minimax[>[<a>x]<]minimax[>[</invoke>]<]minimax[>[</tool_call>', "", "", [("now", {"a": "x"})]),
    ("minimax-m3", ']<]minimax[>[<tool_call>]<]minimax[>[<invoke name="now">]<]minimax[>[<a>]<]minimax[>[<b>1]<]minimax[>[</b>]<]minimax[>[<c>]<]minimax[>[</c>]<]minimax[>[</a>]<]minimax[>[<d>null]<]minimax[>[</d>]<]minimax[>[</invoke>]<]minimax[>[</tool_call>', "", "", [("now", {"a": {"b": 1, "c": ""}, "d": None})]),
    ("functionary-v3.2", 'all\nHello, >>> world!>>>get_weather\n{"city": "Paris", "n": 2}>>>now\n{}', "", "Hello, >>> world!", [PARIS, NOW]),
    ("functionary-v3.2", 'get_weather\n{"city": "Paris", "n": 2}', "", "", [PARIS]),
    ("functionary-v3.2", 'all\nHello', "", "Hello", []),
    ("functionary-v3.2", 'just words', "", "just words", []),
    ("functionary-v3.2", '', "", "", []),
    ("muse", " to=self<|message|>I could <atem:invoke name=\"now\">.<|eom|><|start|>assistant to=user<|message|>Hi<|eom|><|start|>assistant to=now<|message|><atem:function_calls>\n<atem:invoke name=\"now\">\n</atem:invoke>\n</atem:function_calls><|eom|><|start|>assistant to=get_weather<|message|><atem:function_calls>\n<atem:invoke name=\"get_weather\">\n<atem:parameter name=\"city\">Paris</atem:parameter>\n<atem:parameter name=\"n\">2</atem:parameter>\n</atem:invoke>\n</atem:function_calls><|eot|>", 'I could <atem:invoke name="now">.', "Hi", [NOW, PARIS]),
    ("muse", " to=user<|message|>Write <atem:function_calls>.<|eot|>", "", "Write <atem:function_calls>.", []),
    ("hy3", "<think:opensource>t</think:opensource>ok<tool_calls:opensource>\n<tool_call:opensource>get_weather<tool_sep:opensource>\n<arg_key:opensource>city</arg_key:opensource>\n<arg_value:opensource>Paris</arg_value:opensource>\n<arg_key:opensource>n</arg_key:opensource>\n<arg_value:opensource>2</arg_value:opensource>\n</tool_call:opensource>\n<tool_call:opensource>now<tool_sep:opensource>\n</tool_call:opensource>\n</tool_calls:opensource>", "t", "ok", [PARIS, NOW]),
    ("minicpm5", 'ok <function name="get_weather"><param name="city"><![CDATA[</param> & <a>]]></param><param name="n">2</param></function>\n<function name="now"></function>', "", "ok", [("get_weather", {"city": "</param> & <a>", "n": 2}), NOW]),
    ("command-r-plus", 'Action:\n```json\n[{"tool_name": "get_weather", "parameters": {"city": "Paris", "n": 2}}]\n```', "", "", [PARIS]),
    ("apertus", '<|inner_prefix|>t<|inner_suffix|><|tools_prefix|>[{"now": {}}, {"get_weather": {"city": "Paris", "n": 2}}]<|tools_suffix|>', "t", "", [NOW, PARIS]),
    ("solar", '<|think|>t<|end|><|begin|>assistant<|tool_calls|><|tool_call:begin|>a1b2c3d4e5<|tool_call:name|>get_weather<|tool_call:args|>{"city": "Paris", "n": 2}<|tool_call:end|><|calls|>', "t", "", [PARIS]),
    ("solar", '<|think|>t<|end|><|begin|>assistant<|content|>Hi<|end|>', "t", "Hi", []),
    ("gigachat", 'Hi<|message_sep|>\n\nfunction call<|role_sep|>\n{"name": "now", "arguments": {}}', "", "Hi", [NOW]),
    ("gigachat-v3.1", '<|function_call|>{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}', "", "", [PARIS]),
    ("minimax-m1", '<tool_calls>\n{"name": "now", "arguments": {}}\n{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}\n</tool_calls>', "", "", [NOW, PARIS]),
    ("apriel", 'Here are my reasoning steps:\nfirst\n[BEGIN FINAL RESPONSE]\nHi', "Here are my reasoning steps:\nfirst", "Hi", []),
    ("kimi", '<|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{"city": "<|tool_call_begin|>", "n": 2}<|tool_call_begin|>functions.now:1<|tool_call_argument_begin|>{}', "", "", [("get_weather", {"city": "<|tool_call_begin|>", "n": 2}), NOW]),
    ("kimi", '<|tool_calls_section_begin|><|tool_call_begin|>functions.now:0<|tool_call_argument_begin|>{}<|tool_calls_section_end|>Hi', "", "Hi", [NOW]),
    ("hermes", '<tool_call>{"name": "now", "arguments": {}}\n<tool_call>{"name": "get_weather", "arguments": {"city": "Paris", "n": 2}}</tool_call>', "", "", [NOW, PARIS]),
    ("hermes", '<tool_call>{bad<tool_call>{"name": "now"}</tool_call>', "", "<tool_call>{bad", [NOW]),
    ("olmo3", "<think>t</think><function_calls>\nget_weather(city='Paris',\n  n=2)\nnow()\n</function_calls>", "t", "", [PARIS, NOW]),
    ("olmo3", "<function_calls>\nx = 1\n</function_calls>", "", "<function_calls>\nx = 1\n</function_calls>", []),
    ("pythonic", "[now()]\n[now()]", "", "", [NOW, NOW]),
    ("internlm2", 'ok<|action_start|><|plugin|>\n{"name": "get_weather", "parameters": {"city": "Paris", "n": 2}}\n<|action_end|>', "", "ok", [PARIS]),
    ("nemotron", '<TOOLCALL>[{"name": "now", "arguments": {}}]</TOOLCALL>', "", "", [NOW]),
]  # fmt: skip
CONTROLS = (
    "<|python_tag|>", "<|channel|>", "<|message|>", "<|end|>", "<|start|>", "<|call|>", "<|return|>", "<|constrain|>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>",
    "<|open|>", "<|close|>", "<|sep|>", "<|tool_call>", "<tool_call|>", "<|channel>", "<channel|>", '<|"|>', "｜DSML｜",
    "[TOOL_CALLS]", "[ARGS]", "[THINK]", "[/THINK]", "<|tool_call_start|>", "<|tool_call_end|>", "<|START_ACTION|>",
    "<|tool_call:begin|>", "<|tool_call:name|>", "<|tool_call:args|>", "<|tool_call:end|>", "<|begin|>", "<|content|>", "<|think|>", "<|calls|>",
    "<|tool_calls|>", "<|tools_prefix|>", "<|tools_suffix|>", "<|inner_prefix|>", "<|inner_suffix|>", "<|eom|>", "<|eot|>", "<|message_sep|>", "<|role_sep|>",
    "<tool_calls:opensource>", "<tool_sep:opensource>",
)  # fmt: skip


def pieces(text: str, controls: tuple[str, ...]) -> list[tuple[bool, str]]:
    """Returns pairs of (is it a control token?, text), in order."""
    out: list[tuple[bool, str]] = [(False, text)]
    for name in controls:
        out = [
            piece
            for is_control, part in out
            for piece in (
                [(True, part)]
                if is_control
                else [p for q in part.split(name) for p in ((False, q), (True, name))][:-1]
            )
        ]
    return [piece for piece in out if piece[1]]


def parser_of(name: str, controls: tuple[str, ...], thinking: bool = False):
    row = format_named(name)
    assert row is not None
    dialect = Dialect("<think></think>" if row.reasoning is None else row.reasoning.end + row.marks[0][0], Options(tool_format=name))  # fmt: skip
    dialect.reasoning = row.reasoning
    tools = Tools([], SCHEMAS, frozenset())
    return dialect.parser(Tags(controls), tools, thinking)


def read(name: str, parts: list[tuple[bool, str]], controls: tuple[str, ...], thinking=False):
    parser = parser_of(name, controls, thinking)
    events = []
    for is_control, text in parts:
        events += parser.control(text) if is_control else parser.feed(text)
    events += parser.finish()
    assert parser.held == 0
    calls: dict[int, list[str]] = {}
    for event in events:
        if event.kind == "call":
            assert event.index not in calls and event.id and event.name
            calls[event.index] = [event.name, ""]
        elif event.kind == "arguments":
            calls[event.index][1] += event.text
    texts = {
        kind: "".join(e.text for e in events if e.kind == kind) for kind in ("reasoning", "content")
    }
    return texts["reasoning"], texts["content"], [calls[i] for i in sorted(calls)]


@pytest.mark.parametrize("controls", [(), CONTROLS], ids=["text", "tokens"])
@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
def test_what_models_write(case, controls) -> None:
    name, text, reasoning, content, calls = case
    got = read(name, pieces(text, controls), controls)
    assert (got[0], got[1]) == (reasoning, content)
    assert [(n, json.loads(a)) for n, a in got[2]] == calls


def cut(parts: list[tuple[bool, str]], data: st.DataObject) -> list[tuple[bool, str]]:
    out = []
    for is_control, text in parts:
        while text:
            n = len(text) if is_control else data.draw(st.integers(1, min(len(text), 12)))
            out.append((is_control, text[:n]))
            text = text[n:]
    return out


@pytest.mark.slow
@pytest.mark.parametrize("controls", [(), CONTROLS], ids=["text", "tokens"])
@pytest.mark.parametrize("case", CASES, ids=[f"{c[0]}-{i}" for i, c in enumerate(CASES)])
@settings(max_examples=12, deadline=None)
@given(data=st.data())
def test_no_cut_changes_what_is_read(case, controls, data: st.DataObject) -> None:
    parts = pieces(case[1], controls)
    assert read(case[0], cut(parts, data), controls) == read(case[0], parts, controls)


ALPHABET = [
    "<tool_call>", "</tool_call>", '{"name": "now", "arguments": {}}', "<think>", "</think>", "<", "{", "}", '"', "\\", "[", "]",
    "(", ")", "now", "now()", "[now()]", "=", ",", " ", "\n", "x", "é", *CONTROLS, "<function=now>", "</function>", "<parameter=a>",
    '{"name": "get_weather", "arguments": {', '"city": "', '"n": 2', "<function=get_weather>\n", "<parameter=city>\n", "\n</parameter>",
    '<|"|>', "call:now{", "city:", "]<]minimax[>[", '<invoke name="now">', "<city>", "</city>", "<item>", "<![CDATA[", "]]>", '<param name="city">', "</param>",
    " to=now", '<atem:invoke name="now">', "[BEGIN FINAL RESPONSE]", '<function name="now">',
    "</parameter>", "get_weather", "city</arg_key>", "<arg_value>", "</arg_value>", "[ARGS]{", "<arg_key>", "</arg_key>", "functions.now:0", " to=functions.now",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [row.name for row in FORMATS])
@settings(max_examples=40, deadline=None)
@given(words=st.lists(st.sampled_from(ALPHABET), max_size=14), data=st.data())
def test_any_text_is_read_alike_however_it_is_cut(name: str, words, data: st.DataObject) -> None:
    parts = pieces("".join(words), CONTROLS)
    assert read(name, cut(parts, data), CONTROLS) == read(name, parts, CONTROLS)


# (format, what comes before the arguments, what they are, and their deltas, character by character)
STREAMED = [
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": ', '{"city": "Pa</tool_call>ris", "n": 2}', "}\n</tool_call>"),
    ("llama3", '{"name": "get_weather", "parameters": ', '{"city": "Paris", "n": 2}', "}"),
    ("mistral", "[TOOL_CALLS]get_weather[ARGS]", '{"city": "Paris", "n": 2}', ""),
    ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n", '{"city": "Paris", "n": 2}', "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
    ("gpt-oss", "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>", '{"city": "Paris", "n": 2}', "<|call|>"),
    ("solar", "<|tool_calls|><|tool_call:begin|>a1<|tool_call:name|>get_weather<|tool_call:args|>", '{"city": "Paris", "n": 2}', "<|tool_call:end|><|calls|>"),
]  # fmt: skip


def test_arguments_come_while_they_are_written() -> None:
    for name, before, arguments, after in STREAMED:
        parser = parser_of(name, ())
        events = [parser.feed(c) for c in before + arguments + after]
        begun = next(i for i, found in enumerate(events) if any(e.kind == "call" for e in found))
        assert begun <= len(before), name
        deltas = [e.text for found in events for e in found if e.kind == "arguments"]
        assert "".join(deltas) == arguments and len(deltas) > len(arguments) / 2, name
        assert parser.finish() == [] and parser.failures == 0


def test_long_texts_between_tags_come_while_they_are_written() -> None:
    text = 'line "one"\n\tline </two\n\n'
    for name, before, after in (
        ("qwen3-coder", "<tool_call>\n<function=get_weather>\n<parameter=city>\n", "\n</parameter>\n<parameter=n>\n2\n</parameter>\n</function>\n</tool_call>"),
        ("minicpm5", '<function name="get_weather"><param name="city"><![CDATA[', ']]></param><param name="n">2</param></function>'),
        ("muse", ' to=get_weather<|message|><atem:function_calls><atem:invoke name="get_weather"><atem:parameter name="city">', '</atem:parameter><atem:parameter name="n">2</atem:parameter></atem:invoke></atem:function_calls>'),
        ("gemma4", '<|tool_call>call:get_weather{city:<|"|>', '<|"|>,n:2}<tool_call|>'),
        ("minimax-m3", ']<]minimax[>[<tool_call>]<]minimax[>[<invoke name="get_weather">]<]minimax[>[<city>', "]<]minimax[>[</city>]<]minimax[>[<n>2]<]minimax[>[</n>]<]minimax[>[</invoke>]<]minimax[>[</tool_call>"),
        ("minimax", '<minimax:tool_call><invoke name="get_weather"><parameter name="city">x', '</parameter><parameter name="n">2</parameter></invoke></minimax:tool_call>'),
        ("glm", "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>", "</arg_value>\n<arg_key>n</arg_key><arg_value>2</arg_value>\n</tool_call>"),
    ):  # fmt: skip
        parser = parser_of(name, ())
        deltas = [e.text for c in before + text + after for e in parser.feed(c) if e.kind == "arguments"]  # fmt: skip
        city = json.loads("".join(deltas))
        assert city == {"city": "x" * before.endswith("x") + text, "n": 2}
        assert len(deltas) > len(text) / 2 and parser.finish() == [] and parser.failures == 0


@pytest.mark.parametrize(
    ("name", "text", "arguments", "content", "failures"),
    [
        ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"city": "Par', '{"city": "Par', "", 1),  # the limit
        ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"n": 1</tool_call>x', '{"n": 1', "x", 1),
        ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"n": 1}, "why": [{}]}</tool_call>x', '{"n": 1}', "x", 0),
        ("hermes", '<tool_call>{"name": "get_weather", "arguments": {"n": 1}} and</tool_call>x', '{"n": 1}', "andx", 1),
        ("hermes", '<tool_call>{"arguments": {"n": 1}, "name": "get_weather"}</tool_call>', '{"n": 1}', "", 0),
        ("qwen3-coder", "<tool_call><function=get_weather><parameter=city>a", '{"city": "a', "", 1),
        ("qwen3-coder", "<tool_call><function=get_weather><parameter=n>1</parameter><parameter=n>2</parameter></function></tool_call>", '{"n": 1}', "", 0),
        ("qwen3-coder", "<tool_call><function=get_weather></tool_call>", "{}", "", 0),
    ],
)  # fmt: skip
def test_calls_that_are_odd_or_end_early(name, text, arguments, content, failures) -> None:
    parser = parser_of(name, ())
    events = parser.feed(text) + parser.finish()
    assert "".join(e.text for e in events if e.kind == "arguments") == arguments
    assert "".join(e.text for e in events if e.kind == "content") == content
    assert parser.failures == failures and parser.held == 0
    assert [e.name for e in events if e.kind == "call"] == ["get_weather"]


def test_a_prompt_that_opened_the_tag() -> None:
    parts = [(False, "deep"), (False, " thought\n</thi"), (False, "nk>\n\nHi")]
    assert read("hermes", parts, (), thinking=True) == ("deep thought", "Hi", [])


def test_a_users_text_cannot_forge_a_token() -> None:
    """The letters of a tag are text where the tag is a token of the vocabulary."""
    parts = [(False, "[TOOL_CALLS]now[ARGS]{}")]
    assert read("mistral", parts, CONTROLS) == ("", "[TOOL_CALLS]now[ARGS]{}", [])


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("{% for m in messages %}<|im_start|>{% endfor %}", None),
        ("...<tool_call>...<function=x>...<parameter=y>", "qwen3-coder"),
        ("<tool_call>\n{{ tool | tojson }}", "hermes"),
        ("[TOOL_CALLS] [AVAILABLE_TOOLS]", "mistral-old"),
        ("<|channel|>analysis<|message|>", "gpt-oss"),
        ("<|python_tag|>", "llama3"),
        ("<|tool_call>call:", "gemma4"),
        ("'<|open|>' ~ '<|close|>' ~ '<|end_of_msg|>'", "kimi-k3"),
        ("set dsml_token = '｜DSML｜' ... + 'function_calls>'", "deepseek-v3.2"),
        ("set dsml_token = '｜DSML｜' ... + 'tool_calls>'", "deepseek-v4"),
        (">>>all", "functionary-v3.2"),
        ("]<]minimax[>[ <tool_call>", "minimax-m3"),
        ("<|start|> to=<|message|><atem:function_calls>", "muse"),
        ("'<tool_calls{}>' '<tool_sep{}>' '<arg_key{}>' '<arg_value{}>'", "hy3"),
        ("<tool_calls>[ ... [BEGIN FINAL RESPONSE]", "apriel"),
        ("<|message_sep|> function call", "gigachat"),
    ],
)  # fmt: skip
def test_a_template_tells_its_format(template: str, name: str | None) -> None:
    row = format_of(template)
    assert (row.name if row else None) == name


def test_tags_have_the_suffix_of_their_checkpoint() -> None:
    row = format_of("{% set HYTK = ':61c7' %}'<tool_calls{}>'.format(HYTK) '<tool_sep{}>'")
    assert row is not None and row.reasoning is not None
    assert row.call_begin == "<tool_call:61c7>" and row.value_end == "</arg_value:61c7>"
    assert row.reasoning.end == "</think:61c7>" and row.name == "hy3"
    plain = format_of("{% set HYTK = '' %} <tool_calls{}> <tool_sep{}>")
    assert plain is not None and plain.section_begin == "<tool_calls>"
