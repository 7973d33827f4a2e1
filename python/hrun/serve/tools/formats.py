"""The forms in which families of models write tool calls and thoughts.
Each family has one row, which the parser and the prompt follow.

A row is chosen by marks in the model's chat template.  To add a family, add a row.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True)
class Reasoning:
    """The tags around what a model thinks."""

    begin: str
    end: str
    spoken: bool = (
        False  # the beginning is a sentence of the model's, and the first of its thoughts
    )


@dataclass(frozen=True)
class Channels:
    """Answers that are messages: ``header``, words that say what the message is, ``message``, and the text."""

    header: str
    before: tuple[str, ...]  # words of messages that others follow; the first ones are thoughts
    answer: str  # words of the answer
    call: str  # words of a call, before the tool's name
    start: str  # begins another message; the role follows
    end: str  # ends a message that another one follows
    last: tuple[str, ...]  # other tags that end a message
    message: str = "<|message|>"
    call_end: str = ""  # ends the answer; where it is empty, another message may follow a call
    typed: bool = False  # the header may say that the text is JSON

    @property
    def ends(self) -> tuple[str, ...]:
        """Tags that end a message."""
        return (self.end, *self.last)

    @property
    def thoughts(self) -> tuple[str, str]:
        """The text around thoughts that are shown as the model wrote them."""
        return f"{self.header}{self.before[0]}{self.message}".lstrip(), self.end


@dataclass(frozen=True)
class ToolFormat:
    """One way to write calls.

    ``payload`` says what stands between ``call_begin`` and ``call_end``:

    - "json": an object, or a list of them, with the name under one of ``name_keys``, the arguments under one of ``args_keys``;
    - "named": a name, ``name_end``, then the arguments as JSON up to the end tag;
    - "tagged": a name, then parameters, each ``key_begin`` NAME ``key_end`` VALUE ``value_end``;
    - "nested": a name, then parameters, each ``namespace`` <NAME> VALUE ``namespace`` </NAME>, objects and lists in the same way;
    - "quoted": a name, then an object whose texts stand between marks, ``{city:<|"|>Paris<|"|>,n:2}``;
    - "pythonic": a list of calls as Python has them, ``[f(a=1), g(b="x")]``.

    ``section_begin`` and ``section_end`` surround all calls and carry nothing; so do the tags of ``silent`` in an answer.
    ``opened``: the beginning of a tag, with which the prompt ends and which the answer completes.
    ``attributes``: keys, or names too, end with a quote, and attributes follow that say whether a value is a text.
    An empty ``call_end`` means that a call ends with its JSON.  ``bare``: calls may come without a tag, as the whole answer.
    Without ``name_keys`` an object's only key is the name: ``{"f": {"a": 1}}``.  With ``channels`` the arguments are the text of
    a message, or stand there in the row's tags.  Tags that are control tokens in a model's vocabulary count as such tokens only.
    """

    name: str
    marks: tuple[tuple[str, ...], ...] = ()  # a template with all marks of one group has the format
    payload: str = "json"
    call_begin: str = ""
    call_end: str = ""
    section_begin: str = ""
    section_end: str = ""
    name_keys: tuple[str, ...] = ("name",)
    args_keys: tuple[str, ...] = ("arguments", "parameters")
    id_keys: tuple[str, ...] = ("id", "tool_call_id")
    name_prefix: str = ""  # before each name, e.g. "functions."
    name_end: str = ""
    key_begin: str = ""
    key_end: str = ""
    value_begin: str = ""
    value_end: str = ""
    namespace: str = ""
    attributes: str = ""  # of a key: "string" (string="true"), "type" (type="number")
    name_attribute: str = ""  # of a name: "index" (index="1")
    silent: tuple[str, ...] = ()
    opened: str = ""
    by_macros: bool = False  # the template puts tags together, so that none of them stands in it
    # Each tag ends with a suffix, which differs by checkpoint: (the row's, the template's variable that has the model's).
    suffix: tuple[str, str] | None = None
    function_end: str = ""  # closes what name_end opened, before call_end
    padded: bool = False  # values between tags stand on lines of their own
    index_after_name: bool = False  # "functions.NAME:0"
    id_begin: str = ""  # between a name and its call's id
    id_end: str = ""  # between an id and its call's name
    ends_thoughts: bool = (
        False  # a call that begins in thoughts ends them: the model forgets the tag now and then
    )
    bare: bool = False
    listed: bool = False  # one tag for a list of calls
    lines: bool = False  # calls of one tag are lines, without brackets around them
    cdata: bool = False  # a text may stand in <![CDATA[ and ]]>
    channels: Channels | None = None
    id_characters: int = 24
    id_prefix: str = "call_"
    reasoning: Reasoning | None = None


THINK = Reasoning("<think>", "</think>")

HERMES = ToolFormat(
    "hermes",
    marks=(("<tool_call>",),),
    call_begin="<tool_call>",
    call_end="</tool_call>",
    reasoning=THINK,
)

DEEPSEEK_V3_2 = ToolFormat(
    "deepseek-v3.2",
    marks=(("｜DSML｜", "function_calls>"),),
    payload="tagged",
    section_begin="<｜DSML｜function_calls>",
    section_end="</｜DSML｜function_calls>",
    call_begin='<｜DSML｜invoke name="',
    name_end='">',
    call_end="</｜DSML｜invoke>",
    key_begin='<｜DSML｜parameter name="',
    key_end=">",
    attributes="string",
    value_end="</｜DSML｜parameter>",
    reasoning=THINK,
)

# The more particular before the more general: the first row whose marks are in the template counts.
FORMATS: tuple[ToolFormat, ...] = (
    ToolFormat(
        "gpt-oss",
        marks=(("<|channel|>", "<|message|>"),),
        channels=Channels(
            header="<|channel|>",
            before=("analysis", "commentary"),
            answer="final",
            call="commentary to=functions.",
            start="<|start|>",
            end="<|end|>",
            last=("<|call|>", "<|return|>"),
            call_end="<|call|>",
            typed=True,
        ),
    ),
    ToolFormat(
        "muse",
        marks=(("<atem:function_calls>",),),
        payload="tagged",
        channels=Channels(
            header=" ",
            before=("to=self",),
            answer="to=user",
            call="to=",
            start="<|start|>",
            end="<|eom|>",
            last=("<|eot|>",),
        ),
        section_begin="<atem:function_calls>",
        section_end="</atem:function_calls>",
        call_begin='<atem:invoke name="',
        name_end='">',
        call_end="</atem:invoke>",
        key_begin='<atem:parameter name="',
        key_end='">',
        value_end="</atem:parameter>",
    ),
    ToolFormat(
        "gemma4",
        marks=(("<|tool_call>call:",),),
        payload="quoted",
        call_begin="<|tool_call>call:",
        call_end="<tool_call|>",
        reasoning=Reasoning("<|channel>thought", "<channel|>"),
        silent=("<|channel>thought\n<channel|>", "<|channel>", "<channel|>"),
    ),
    ToolFormat(
        "kimi-k3",
        marks=(("<|open|>", "<|close|>", "<|end_of_msg|>"),),
        payload="tagged",
        section_begin="<|open|>tools<|sep|>",
        section_end="<|close|>tools<|sep|>",
        call_begin='<|open|>call tool="',
        name_end="<|sep|>",
        name_attribute="index",
        call_end="<|close|>call<|sep|>",
        key_begin='<|open|>argument key="',
        key_end="<|sep|>",
        attributes="type",
        value_end="<|close|>argument<|sep|>",
        silent=("<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>"),
        reasoning=Reasoning("<|open|>think<|sep|>", "<|close|>think<|sep|>"),
        ends_thoughts=True,
        by_macros=True,
    ),
    DEEPSEEK_V3_2,
    replace(
        DEEPSEEK_V3_2,
        name="deepseek-v4",
        marks=(("｜DSML｜", "tool_calls>"),),
        section_begin="<｜DSML｜tool_calls>",
        section_end="</｜DSML｜tool_calls>",
        ends_thoughts=True,
    ),
    ToolFormat(
        "deepseek",
        marks=(("<｜tool▁calls▁begin｜>", "```json"),),
        payload="named",
        section_begin="<｜tool▁calls▁begin｜>",
        section_end="<｜tool▁calls▁end｜>",
        call_begin="<｜tool▁call▁begin｜>function<｜tool▁sep｜>",
        name_end="\n```json\n",
        call_end="<｜tool▁call▁end｜>",
        reasoning=THINK,
    ),
    ToolFormat(
        "deepseek-v3.1",
        marks=(("<｜tool▁calls▁begin｜>",),),
        payload="named",
        section_begin="<｜tool▁calls▁begin｜>",
        section_end="<｜tool▁calls▁end｜>",
        call_begin="<｜tool▁call▁begin｜>",
        name_end="<｜tool▁sep｜>",
        call_end="<｜tool▁call▁end｜>",
        reasoning=THINK,
    ),
    ToolFormat(
        "hy3",
        marks=(("<tool_calls{}>", "<tool_sep{}>"), ("<tool_sep:opensource>",)),
        payload="tagged",
        section_begin="<tool_calls:opensource>",
        section_end="</tool_calls:opensource>",
        call_begin="<tool_call:opensource>",
        name_end="<tool_sep:opensource>",
        call_end="</tool_call:opensource>",
        key_begin="<arg_key:opensource>",
        key_end="</arg_key:opensource>",
        value_begin="<arg_value:opensource>",
        value_end="</arg_value:opensource>",
        reasoning=Reasoning("<think:opensource>", "</think:opensource>"),
        by_macros=True,
        suffix=(":opensource", "HYTK"),
    ),
    ToolFormat(
        "glm",
        marks=(("<arg_key>", "<arg_value>"),),
        payload="tagged",
        call_begin="<tool_call>",
        call_end="</tool_call>",
        key_begin="<arg_key>",
        key_end="</arg_key>",
        value_begin="<arg_value>",
        value_end="</arg_value>",
        ends_thoughts=True,
        reasoning=THINK,
    ),
    ToolFormat(
        "qwen3-coder",
        marks=(("<tool_call>", "<function=", "<parameter="),),
        payload="tagged",
        call_begin="<tool_call>",
        call_end="</tool_call>",
        name_prefix="<function=",
        name_end=">",
        key_begin="<parameter=",
        key_end=">",
        value_end="</parameter>",
        function_end="</function>",
        padded=True,
        ends_thoughts=True,
        reasoning=THINK,
    ),
    ToolFormat(
        "seed",
        marks=(("<seed:tool_call>",),),
        payload="tagged",
        call_begin="<seed:tool_call>",
        call_end="</seed:tool_call>",
        name_prefix="<function=",
        name_end=">",
        key_begin="<parameter=",
        key_end=">",
        value_end="</parameter>",
        function_end="</function>",
        reasoning=Reasoning("<seed:think>", "</seed:think>"),
    ),
    ToolFormat(
        "minicpm5",
        marks=(('<function name="function-name"><param name=',),),
        payload="tagged",
        call_begin='<function name="',
        name_end='">',
        call_end="</function>",
        key_begin='<param name="',
        key_end='">',
        value_end="</param>",
        cdata=True,
        reasoning=THINK,
    ),
    ToolFormat(
        "functionary",
        marks=(("<function=example_function_name>",),),
        payload="named",
        call_begin="<function=",
        name_end=">",
        call_end="</function>",
    ),
    ToolFormat(
        "functionary-v3.2",
        marks=((">>>all",),),
        payload="named",
        call_begin=">>>",
        name_end="\n",
        silent=(">>>all\n",),
        opened=">>>",
    ),
    ToolFormat(
        "minimax-m3",
        marks=(("]<]minimax[>[",),),
        payload="nested",
        namespace="]<]minimax[>[",
        section_begin="]<]minimax[>[<tool_call>",
        section_end="]<]minimax[>[</tool_call>",
        call_begin=']<]minimax[>[<invoke name="',
        name_end='">',
        call_end="]<]minimax[>[</invoke>",
        reasoning=Reasoning("<mm:think>", "</mm:think>"),
    ),
    ToolFormat(
        "minimax",
        marks=(("<minimax:tool_call>",),),
        payload="tagged",
        section_begin="<minimax:tool_call>",
        section_end="</minimax:tool_call>",
        call_begin='<invoke name="',
        name_end='">',
        call_end="</invoke>",
        key_begin='<parameter name="',
        key_end='">',
        value_end="</parameter>",
        reasoning=THINK,
    ),
    ToolFormat(
        "kimi",
        marks=(("<|tool_calls_section_begin|>",),),
        payload="named",
        section_begin="<|tool_calls_section_begin|>",
        section_end="<|tool_calls_section_end|>",
        call_begin="<|tool_call_begin|>",
        name_prefix="functions.",
        name_end="<|tool_call_argument_begin|>",
        call_end="<|tool_call_end|>",
        index_after_name=True,
        ends_thoughts=True,
        reasoning=THINK,
    ),
    ToolFormat(
        "mistral",
        marks=(("[TOOL_CALLS]", "[ARGS]"),),
        payload="named",
        call_begin="[TOOL_CALLS]",
        id_begin="[CALL_ID]",
        name_end="[ARGS]",
        id_prefix="",
        id_characters=9,
        reasoning=Reasoning("[THINK]", "[/THINK]"),
    ),
    ToolFormat(
        "mistral-old",
        marks=(("[TOOL_CALLS]",),),
        call_begin="[TOOL_CALLS]",
        listed=True,
        id_prefix="",
        id_characters=9,
    ),
    ToolFormat(
        "command-r",
        marks=(("<|START_ACTION|>",),),
        call_begin="<|START_ACTION|>",
        listed=True,
        call_end="<|END_ACTION|>",
        name_keys=("tool_name", "name"),
        args_keys=("parameters", "arguments"),
        reasoning=Reasoning("<|START_THINKING|>", "<|END_THINKING|>"),
    ),
    ToolFormat(
        "command-r-plus",
        marks=(
            ("json-formatted list of actions", "\nAction:"),
            ("json-formatted list of actions", "\\nAction:"),
        ),
        call_begin="Action:\n```json\n",
        listed=True,
        call_end="```",
        name_keys=("tool_name", "name"),
        args_keys=("parameters", "arguments"),
    ),
    ToolFormat(
        "apertus",
        marks=(("<|tools_prefix|>",),),
        call_begin="<|tools_prefix|>",
        listed=True,
        call_end="<|tools_suffix|>",
        name_keys=(),
        reasoning=Reasoning("<|inner_prefix|>", "<|inner_suffix|>"),
    ),
    ToolFormat(
        "solar",
        marks=(("<|tool_call:begin|>", "<|tool_call:args|>"),),
        payload="named",
        section_begin="<|tool_calls|>",
        section_end="<|calls|>",
        call_begin="<|tool_call:begin|>",
        id_end="<|tool_call:name|>",
        name_end="<|tool_call:args|>",
        call_end="<|tool_call:end|>",
        id_prefix="",
        id_characters=10,
        silent=("<|begin|>assistant", "<|content|>", "<|end|>"),
        reasoning=Reasoning("<|think|>", "<|end|>"),
    ),
    ToolFormat(
        "gigachat-v3.1",
        marks=(("<|function_call|>",),),
        call_begin="<|function_call|>",
    ),
    ToolFormat(
        "gigachat",
        marks=(("<|message_sep|>", "function call"),),
        call_begin="<|message_sep|>\n\nfunction call<|role_sep|>\n",
    ),
    ToolFormat(
        "minimax-m1",
        marks=(('<tool_calls>\\n{"name": <tool-name>',), ('<tool_calls>\n{"name": <tool-name>',)),
        call_begin="<tool_calls>",
        listed=True,
        lines=True,
        call_end="</tool_calls>",
    ),
    ToolFormat(
        "lfm2",
        marks=(("<|tool_call_start|>",), ("List of tools: [", "keep_past_thinking")),
        payload="pythonic",
        call_begin="<|tool_call_start|>",
        call_end="<|tool_call_end|>",
    ),
    ToolFormat(
        "olmo3",
        marks=(("<function_calls>",),),
        payload="pythonic",
        call_begin="<function_calls>",
        lines=True,
        call_end="</function_calls>",
        reasoning=THINK,
    ),
    ToolFormat(
        "internlm2",
        marks=(("<|action_start|>", "<|plugin|>"),),
        call_begin="<|action_start|><|plugin|>",
        call_end="<|action_end|>",
        args_keys=("parameters", "arguments"),
    ),
    ToolFormat(
        "granite",
        marks=(("<|tool_call|>", "granite"), ("<|tool_call|>", "Granite")),
        call_begin="<|tool_call|>",
        listed=True,
        reasoning=THINK,
    ),
    ToolFormat(
        "phi4-mini",
        marks=(("<|tool_call|>",),),
        call_begin="<|tool_call|>",
        listed=True,
        call_end="<|/tool_call|>",
    ),
    ToolFormat(
        "functools",
        marks=(("functools[",),),
        call_begin="functools",
        listed=True,
    ),
    ToolFormat(
        "apriel",
        marks=(("<tool_calls>[",),),
        call_begin="<tool_calls>",
        listed=True,
        call_end="</tool_calls>",
        reasoning=Reasoning("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]", spoken=True),
    ),
    ToolFormat(
        "nemotron",
        marks=(("<TOOLCALL>",),),
        call_begin="<TOOLCALL>",
        listed=True,
        call_end="</TOOLCALL>",
        reasoning=THINK,
    ),
    HERMES,
    ToolFormat(
        "pythonic",
        marks=(("[func_name1(",), ("func_name1(params_name1=",)),
        payload="pythonic",
        bare=True,
    ),
    ToolFormat(
        "llama3",
        marks=(("<|python_tag|>",), ('{"name": function name, "parameters":',)),
        call_begin="<|python_tag|>",
        args_keys=("parameters", "arguments"),
        bare=True,
    ),
)
_FIELDS = tuple(field.name for field in fields(ToolFormat))
_REASONING = tuple(dict.fromkeys(row.reasoning for row in FORMATS if row.reasoning is not None))


def format_named(name: str) -> ToolFormat | None:
    """The row of that name."""
    return next((row for row in FORMATS if row.name == name), None)


def format_of(template: str) -> ToolFormat | None:
    """The row whose marks a chat template has."""
    for row in FORMATS:
        if any(all(mark in template for mark in group) for group in row.marks):
            return _suffixed(row, template)
    return None


def _suffixed(row: ToolFormat, template: str) -> ToolFormat:
    """The row with the suffix that the template names."""
    if row.suffix is None:
        return row
    usual, variable = row.suffix
    found = re.search(rf"\b{variable}\s*=\s*(['\"])([^'\"]*)\1", template)
    if found is None:
        return row

    def changed(value: Any) -> Any:
        if isinstance(value, Reasoning):
            return Reasoning(changed(value.begin), changed(value.end), value.spoken)
        return value.replace(f"{usual}>", f"{found[2]}>") if isinstance(value, str) else value

    return replace(row, **{name: changed(getattr(row, name)) for name in _FIELDS})


def reasoning_of(template: str) -> Reasoning | None:
    """The tags of what a model thinks, where its template knows any."""
    row = format_of(template)
    if row is not None and row.reasoning is not None:
        if row.by_macros or row.reasoning.end in template:
            return row.reasoning
    return next((tags for tags in _REASONING if tags.end in template), None)


def reads_tools(template: str) -> bool:
    """Does a chat template write the tools into the prompt by itself?"""
    return "tools" in template
