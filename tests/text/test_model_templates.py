"""Chat templates in the forms that real models use, as transformers renders them: system messages, tools, thinking.

Written here from the documented prompt formats; transformers' own renderer is the oracle.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from hrun import ChatTemplateError
from hrun.chat_template import ChatTemplate

LLAMA3 = """{{- bos_token }}
{%- set date_string = date_string if date_string is defined else "26 Jul 2024" %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Cutting Knowledge Date: December 2023\\n" }}{{- "Today Date: " + date_string + "\\n\\n" }}
{%- if tools is not none %}
    {{- "You have access to the following functions.\\n\\n" }}
    {%- for t in tools %}{{- t | tojson(indent=4) }}{{- "\\n\\n" }}{%- endfor %}
{%- endif %}
{{- system_message }}{{- "<|eot_id|>" }}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}{{- raise_exception("This model only supports single tool-calls at once!") }}{%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", "parameters": ' }}{{- tool_call.arguments | tojson }}{{- "}<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}{{- message.content | tojson }}{%- else %}{{- message.content }}{%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""

QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n\\nYou may call one or more functions.\\n<tools>" }}
    {%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}{%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}{%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set content = message.content or '' %}{%- set reasoning_content = '' %}
        {%- if '</think>' in content %}
            {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index and reasoning_content %}
            {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
        {%- else %}{{- '<|im_start|>' + message.role + '\\n' + content }}{%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}{{- '\\n' }}{%- endif %}
                {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
                {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}{{- tool_call.arguments }}{%- else %}{{- tool_call.arguments | tojson }}{%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' }}{{- message.content }}{{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}"""

QWEN25 = """{%- if messages[0]['role'] == 'system' %}{{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}
{%- else %}{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}
{%- for message in messages %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) or (message.role == "assistant" and not message.tool_calls) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}{%- set system_message = messages[0]["content"] %}{%- set loop_messages = messages[1:] %}
{%- else %}{%- set loop_messages = messages %}{%- endif %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('After the optional system message, conversation roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- if message["role"] == "user" %}
        {%- if loop.last and system_message is defined %}{{- "[INST] " + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}{{- "[INST] " + message["content"] + "[/INST]" }}{%- endif %}
    {%- else %}{{- " " + message["content"]|trim + eos_token }}{%- endif %}
{%- endfor %}"""

GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}{% set role = message['role'] %}{% endif %}{{ '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}{% endfor %}{% if add_generation_prompt %}{{'<start_of_turn>model\\n'}}{% endif %}"""

PHI = """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

GPT_OSS = """{%- macro render_type(schema) -%}{%- if schema.type == "array" -%}{{- render_type(schema['items']) }}[]
{%- elif schema.type in ("integer", "number") -%}number{%- else -%}{{ schema.type }}{%- endif -%}{%- endmacro -%}
{%- macro system() -%}
{{- "You are ChatGPT, a large language model trained by OpenAI.\\nKnowledge cutoff: 2024-06\\n" }}
{{- "Current date: " + strftime_now("%Y")[:2] + "\\n\\nReasoning: " + (reasoning_effort if reasoning_effort is defined else "medium") + "\\n\\n" }}
{{- "# Valid channels: analysis, commentary, final. Channel must be included for every message." }}
{%- endmacro -%}
{{- "<|start|>system<|message|>" }}{{- system() }}{{- "<|end|>" }}
{%- if messages[0].role in ["developer", "system"] %}{%- set developer = messages[0].content %}{%- set rest = messages[1:] %}
{%- else %}{%- set developer = "" %}{%- set rest = messages %}{%- endif %}
{%- if developer or tools %}
    {{- "<|start|>developer<|message|>" }}{%- if developer %}{{- "# Instructions\\n\\n" + developer }}{%- endif %}
    {%- if tools %}{{- "\\n\\n# Tools\\n\\nnamespace functions {\\n" }}
        {%- for tool in tools %}{{- "type " + tool.function.name + " = (_: {" }}
            {%- for name, schema in tool.function.parameters.properties.items() %}{{- "\\n" + name }}{%- if name not in (tool.function.parameters.required or []) %}?{%- endif %}: {{ render_type(schema) }},{%- endfor %}
            {{- "\\n}) => any;\\n" }}
        {%- endfor %}{{- "}" }}
    {%- endif %}{{- "<|end|>" }}
{%- endif %}
{%- for message in rest %}
    {%- if message.role == "assistant" %}{{- "<|start|>assistant<|channel|>final<|message|>" + message.content + "<|end|>" }}
    {%- elif message.role == "user" %}{{- "<|start|>user<|message|>" + message.content + "<|end|>" }}{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- "<|start|>assistant" }}{%- endif %}"""

DEEPSEEK = """{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(system_prompt='') %}{%- for message in messages %}{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}{{'<｜User｜>' + message['content']}}{%- endif %}{%- if message['role'] == 'assistant' and message['content'] is not none %}{% set content = message['content'] %}{% if '</think>' in content %}{% set content = content.split('</think>')[-1] %}{% endif %}{{'<｜Assistant｜>' + content + '<｜end▁of▁sentence｜>'}}{%- endif %}{%- endfor -%}{% if add_generation_prompt %}{{'<｜Assistant｜><think>\\n'}}{% endif %}"""

COMMAND_R = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% if system_message != false %}{{ '<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>' + system_message + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% for message in loop_messages %}{% set content = message['content'] %}{% if message['role'] == 'user' %}{{ '<|START_OF_TURN_TOKEN|><|USER_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% elif message['role'] == 'assistant' %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' + content.strip() + '<|END_OF_TURN_TOKEN|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}{% endif %}"""

TEMPLATES = {
    "llama 3": LLAMA3,
    "qwen 3": QWEN3,
    "qwen 2.5": QWEN25,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "phi": PHI,
    "gpt-oss": GPT_OSS,
    "deepseek": DEEPSEEK,
    "command-r": COMMAND_R,
}

SYSTEM = {"role": "system", "content": "Be brief, «please»."}
USER = {"role": "user", "content": "  What is 2 < 3 & 'why'?\n"}
ANSWER = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nBecause."}
CALL = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 2}},
        }
    ],
}
RESULT = {"role": "tool", "name": "weather", "content": "12 °C"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "The weather <now>",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string"},
                    "days": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["city"],
            },
        },
    }
]

CONVERSATIONS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "one question": ([USER], {}),
    "system": ([SYSTEM, USER, ANSWER, {"role": "user", "content": "And?"}], {}),
    "no prompt for an answer": ([USER, ANSWER], {"add_generation_prompt": False}),
    "no thinking": ([USER], {"enable_thinking": False}),
    "effort": ([USER], {"reasoning_effort": "high"}),
    "tools": ([SYSTEM, USER], {"tools": TOOLS}),
    "tool call": ([USER, CALL, RESULT], {"tools": TOOLS}),
}


# Constructs that the templates of real models are made of, one each; rendered with the conversation
# "everything".
CONSTRUCTS = {
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}{{ x is defined }}{% endif %}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if m.role == 'tool' %}{% continue %}{% endif %}{% if loop.index0 > 3 %}{% break %}{% endif %}{{ m.role }}{% endfor %}",
    "neighbours": "{% for m in messages %}{{ loop.previtem.role if loop.previtem is defined }}<{{ loop.nextitem.role if not loop.last }}{{ loop.cycle('a', 'b') }}{{ loop.revindex }}{% endfor %}",
    "filtered loop": "{% for m in messages if m.role != 'system' %}{{ loop.index }}{{ m.role }}{% else %}none{% endfor %}",
    "macro with defaults": "{% macro f(a, b='x') %}{{ a ~ b ~ varargs|length ~ kwargs.items()|list }}{% endmacro %}{{ f(1) }}{{ f(1, 2, 4) }}{{ f(a=3, b=none, c=5) }}",
    "recursive macro": "{% macro walk(v, n=0) %}{% if v is mapping %}{% for k, w in v|dictsort %}{{ '\\n' ~ '  ' * n ~ k }}{{ walk(w, n + 1) }}{% endfor %}{% elif v is iterable and v is not string %}[{% for w in v %}{{ walk(w, n) }}{{ ', ' if not loop.last }}{% endfor %}]{% else %}{{ v|tojson }}{% endif %}{% endmacro %}{{ walk(tools) }}",
    "call block": "{% macro box(n) %}<{{ caller(n) }}>{% endmacro %}{% call(k) box(3) %}{{ k * 2 }}{{ messages|length }}{% endcall %}",
    "filter and set blocks": "{% set text %}{% filter upper %}{{ messages[0].content }}{% endfilter %}{% endset %}{{ text|length }}{{ text }}",
    "slices and unpacking": "{% for m in messages[1:][::-1] %}{{ m.role[:2] }}{% endfor %}{% set a, b = 1, 2 %}{{ a + b }}{{ messages[-1].role }}{{ (messages|list)[:-1]|length }}",
    "json": "{{ tools|tojson }}{{ tools|tojson(indent=2) }}{{ tools[0]|tojson(sort_keys=true, separators=(',', ':')) }}{{ messages[0].content|tojson(ensure_ascii=true) }}",
    "attributes": "{{ messages|map(attribute='role')|unique|join('|') }}{{ messages|selectattr('role', 'in', ['user', 'tool'])|list|length }}{{ messages|rejectattr('tool_calls', 'defined')|list|length }}{{ messages|groupby('role')|map('first')|list }}",
    "dictionaries": "{% for k, v in tools[0].function.parameters.items() %}{{ k }}={{ v }};{% endfor %}{{ tools[0].function|items|list|length }}{{ dict(a=1, **{'b': 2}) }}{{ tools[0].function.get('x', 'no') }}{{ tools[0]['function'].keys()|list }}",
    "strings": "{{ messages[0].content.strip().replace('«', '<').split(' ') }}{{ 'a-b'.partition('-') }}{{ 'x'.join(['a', 'b']) }}{{ '%s: %d' % ('n', 3) }}{{ '{}-{x}'.format(1, x=2) }}{{ 'abc'.find('c') }}{{ 'Ab'|lower|title|capitalize }}{{ 'ß'.upper().isalpha() }}{{ ' a\\nb '|indent(2, true) }}",
    "tests": "{{ 1 is number }}{{ 'a' is string }}{{ none is none }}{{ x is undefined }}{{ true is boolean }}{{ [] is sequence }}{{ {} is mapping }}{{ 3 is odd }}{{ 1 is sameas 1 }}{{ 'a' in 'abc' }}{{ 1.5 is float }}{{ true is true }}{{ 'f' is callable }}{{ 4 is divisibleby 2 }}",
    "undefined": "{{ missing|default('d') }}{{ missing.x if missing }}{{ messages[0].nothing or 'none' }}{{ (messages[0].nothing|default('', true))|length }}{{ not missing }}",
    "numbers": "{{ 7 // 2 }}{{ 7 / 2 }}{{ -7 % 3 }}{{ 2 ** 5 }}{{ 3.0 }}{{ 1e20 }}{{ 10|float }}{{ '3'|int + 1 }}{{ 2.5|round }}{{ [3, 1, 2]|sort|sum }}{{ [1, 2]|max }}{{ 1 < 2 < 3 }}",
    "namespaces": "{% set ns = namespace(a=1, list=[]) %}{% for m in messages %}{% set ns.a = ns.a + loop.index %}{% set ns.list = ns.list + [m.role] %}{% endfor %}{{ ns.a }}{{ ns.list }}",
    "white space": "  {%- if true -%}  a {%+ if true %} b {% endif %}\n  {# c #}\n d\n\n{%- endif %}\n{% raw %}{{ x }}{% endraw %}\n",
    "batches": "{% for row in messages|batch(2, 'x') %}{{ row|length }}{% endfor %}{{ messages|slice(2)|map('length')|list }}{{ range(2, 8, 3)|list }}{{ joiner(',')() }}{{ cycler('a', 'b').next() }}",
    "reasoning": "{% for m in messages %}{{ m.reasoning_content }}|{{ m.thinking }}|{{ m.reasoning }};{% endfor %}",
    "escapes": "{{ '<a href=\"x\">&'|e }}{{ '<b>'|safe }}{{ '<c>'|urlencode }}{{ '\\u00e9\\x41\\t' }}",
    "time": "{{ strftime_now('%d %b %Y')|length }}{{ strftime_now('%Y-%m-%d')[:2] }}",
    "refusal": "{% if messages|length > 1 %}{{ raise_exception('No: ' ~ messages|length) }}{% endif %}",
}
THOUGHTS = [
    {"role": "assistant", "content": "4", "reasoning": "2 + 2"},
    {"role": "assistant", "content": "5", "thinking": "2 + 3", "reasoning_content": "3 + 2"},
    {"role": "assistant", "content": "6", "reasoning_content": "3 + 3"},
]
CONVERSATIONS["everything"] = ([SYSTEM, USER, CALL, RESULT, *THOUGHTS, USER], {"tools": TOOLS})
TEMPLATES |= CONSTRUCTS


def real_templates() -> list[Path]:
    return (
        sorted(Path(os.environ["HRUN_TEMPLATES"]).glob("*.jinja"))
        if os.environ.get("HRUN_TEMPLATES")
        else []
    )


def compare(source: str) -> tuple[int, int]:
    """Conversations that both renderers take, and that both refuse; fails where they differ."""
    from transformers.utils.chat_template_utils import render_jinja_template

    template = ChatTemplate(source)
    taken = refused = 0
    try:
        for case, (messages, arguments) in CONVERSATIONS.items():
            given = {
                "add_generation_prompt": True,
                "bos_token": "<s>",
                "eos_token": "</s>",
                **arguments,
            }
            rest = {k: v for k, v in given.items() if k not in ("tools", "add_generation_prompt")}
            try:
                want = render_jinja_template(
                    [messages],
                    tools=given.get("tools"),
                    chat_template=source,
                    add_generation_prompt=given["add_generation_prompt"],
                    **rest,
                )[0][0]
            except Exception:  # the template refuses this conversation
                with pytest.raises(ChatTemplateError):
                    template.render(messages, **given)
                refused += 1
                continue
            assert template.render(messages, **given) == want, case
            taken += 1
    finally:
        template.close()
    return taken, refused


@pytest.mark.parametrize("name", TEMPLATES)
def test_rendered_as_transformers_renders_it(name: str) -> None:
    pytest.importorskip("transformers", reason="transformers is not installed")
    taken, refused = compare(TEMPLATES[name])
    assert taken >= 3 or (name == "refusal" and refused)


def test_the_templates_of_a_folder() -> None:
    """HRUN_TEMPLATES names a folder of real models' templates, *.jinja; they are not part of this repository."""
    pytest.importorskip("transformers", reason="transformers is not installed")
    paths = real_templates()
    if not paths:
        pytest.skip("HRUN_TEMPLATES names no folder with *.jinja files")
    different = []
    for path in paths:
        try:
            compare(path.read_text())
        except (AssertionError, ChatTemplateError) as error:
            different.append(f"{path.name}: {error}")
    assert not different, different
