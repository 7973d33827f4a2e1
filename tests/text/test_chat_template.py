"""Chat templates: rendered as Hugging Face renders them, and hostile ones stopped in time, without effect."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hrun import ArgumentError, ChatTemplateError
from hrun.chat_template import ChatTemplate, Worker

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
HELLO = [{"role": "user", "content": "Hello"}]


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    """One child process for the module; every hostile template that kills it costs a new one."""
    worker = Worker()
    yield worker
    worker.stop()


def render(source: str, worker: Worker, messages: Any = HELLO, **variables: Any) -> str:
    template = ChatTemplate(source)
    if template._worker is not None:
        template._worker.stop()
        template._worker = worker
    return template.render(messages, **variables)


def both_ways(source: str, worker: Worker, messages: Any = HELLO, **variables: Any) -> str:
    here = ChatTemplate(source)
    assert here.in_process
    there = ChatTemplate(source)
    there._plain, there._worker = None, worker
    text = here.render(messages, **variables)
    assert there.render(messages, **variables) == text
    return text


def test_chatml(worker: Worker) -> None:
    assert both_ways(CHATML, worker) == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert (
        both_ways(CHATML, worker, add_generation_prompt=False)
        == "<|im_start|>user\nHello<|im_end|>\n"
    )


@pytest.mark.parametrize(
    ("source", "want"),
    [
        ("{% if true %}\n  a\n  {% endif %}\nb", "  a\nb"),  # trim_blocks, lstrip_blocks
        ("{{ bos_token }}|{{ eos_token }}|{{ missing }}", "<s>|</s>|"),
        ("{{ messages|tojson }}", '[{"role": "user", "content": "Grüße <b>&"}]'),
        ("{{ messages[0]|tojson(indent=1) }}", '{\n "role": "user",\n "content": "Grüße <b>&"\n}'),
        ("{% for m in messages %}{{ loop.index0 % 2 == 0 }}{% endfor %}", "True"),
        (
            "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "1",
        ),
        (
            "{% for x in range(9) %}{% if x == 2 %}{% continue %}{% endif %}{% if x == 4 %}{% break %}{% endif %}{{ x }}{% endfor %}",
            "013",
        ),
        ("{% macro hi(n) -%} hi {{ n }} {%- endmacro %}{{ hi('you') }}", "hi you"),
        ("{{ messages[0].content.split(' ')[0].strip() }}", "Grüße"),
        (
            "{% for m in messages %}{% generation %}{{ m.content[0] }}{% endgeneration %}{% endfor %}",
            "G",
        ),
        (
            "{{ messages|map(attribute='role')|join(',') }}{{ messages|selectattr('role','equalto','user')|list|length }}",
            "user1",
        ),
        ("{{ 2 ** 3 }}{{ '%s-%s' % ('a', 'b') }}{{ 'x' * 3 }}", "8a-bxxx"),
        ("{{ tools is none }}{{ enable_thinking is defined }}", "TrueFalse"),
    ],
)
def test_conventions(source: str, want: str, worker: Worker) -> None:
    messages = [{"role": "user", "content": "Grüße <b>&"}]
    assert render(source, worker, messages, bos_token="<s>", eos_token="</s>") == want


PARTS = [
    {"role": "user", "content": [{"type": "text", "text": "Hi"}, {"type": "text", "text": "you"}]}
]
LOOPS = {
    "a loop": "{% for m in messages %}{% for c in m.content %}<{{ c.text }}>{% endfor %}{% endfor %}",
    "by key": "{% for m in messages %}{% for c in m['content'] %}<{{ c['text'] }}>{% endfor %}{% endfor %}",
    "a name": "{% for m in messages %}{% set x = m.content %}{% set y = x %}{% for c in y %}<{{ c.text }}>{% endfor %}{% endfor %}",
    "a macro": "{% macro show(x) %}{% for c in x %}<{{ c.text }}>{% endfor %}{% endmacro %}{{ show(messages[0].content) }}",
    "a filter": "{% for m in messages %}{% for c in m.content|selectattr('type', 'equalto', 'text') %}<{{ c.text }}>{% endfor %}{% endfor %}",
}


@pytest.mark.parametrize("name", LOOPS)
def test_parts_for_templates_that_read_them(name: str, worker: Worker) -> None:
    assert render(LOOPS[name], worker, PARTS) == "<Hi><you>"


def test_parts_are_one_text_elsewhere(worker: Worker) -> None:
    want = "<|im_start|>user\nHi\nyou<|im_end|>\n<|im_start|>assistant\n"
    assert both_ways(CHATML, worker, PARTS) == want
    other = "{% for t in tools or [] %}{{ t }}{% endfor %}{% for m in messages %}{{ m['content']|trim }}{% endfor %}"
    assert render(other + "{% macro m() %}{% endmacro %}", worker, PARTS) == "Hi\nyou"
    assert both_ways(CHATML, worker, [{"role": "user", "content": ["Hi", "you"]}]) == want
    assert both_ways(CHATML, worker, [{"role": "user", "content": []}]).startswith(
        "<|im_start|>user\n<|im_end|>"
    )
    # Content that is no text is the template's own affair.
    odd = [{"role": "tool", "content": [{"name": "f"}]}]
    assert both_ways("{{ messages[0].content }}", worker, odd) == "[{'name': 'f'}]"


def test_strftime_now_and_extra_variables(worker: Worker) -> None:
    assert (
        render("{{ strftime_now('%Y')|int > 2000 }}{% macro m() %}{% endmacro %}", worker) == "True"
    )
    assert (
        render("{{ tools[0].name }}{% macro m() %}{% endmacro %}", worker, tools=[{"name": "f"}])
        == "f"
    )


def test_same_as_transformers() -> None:
    utils = pytest.importorskip(
        "transformers.utils.chat_template_utils", reason="transformers is not installed"
    )
    source = (
        "{%- if messages[0]['role'] == 'system' %}\n    {{- messages[0].content + '\\n' }}\n{%- endif %}\n"
        "{%- for m in messages %}\n    {%- if m.role != 'system' %}\n{{ loop.index }}: {{ m.content | trim }}"
        "\n    {%- endif %}\n{%- endfor %}\n{{ messages|tojson }}\n"
    )
    messages = [
        {"role": "system", "content": "Be <kind>."},
        {"role": "user", "content": "  Grüße \n"},
    ]
    want = utils._compile_jinja_template(source).render(
        messages=messages, add_generation_prompt=True
    )
    template = ChatTemplate(source)
    assert template.in_process
    assert template.render(messages) == want


# The hostile templates: those of one letter are variations of one attack.  Each must raise ChatTemplateError in time.
HOSTILE: dict[str, str] = {
    "T1 range": "{% for i in range(10**9) %}{% endfor %}",
    "T1 range literal": "{% for i in range(1000000000) %}{{ i }}{% endfor %}",
    "T2 nested ranges": "{% for i in range(25000) %}{% for j in range(25000) %}{% endfor %}{% endfor %}",
    "T3 self-calling macro": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "T3 growing macro": "{% macro f(x) %}{{ f(x ~ x) }}{% endmacro %}{{ f('ab') }}",
    "T3 recursive loop": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "T4 mutual macros": "{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ f() }}",
    "T5 parentheses 150": "{{ " + "(" * 150 + "1" + ")" * 149 + " }}",
    "T5 parentheses 60000": "{{ " + "(" * 60000 + "1" + ")" * 60000 + " }}",
    "T5 brackets": "{{ " + "[" * 5000 + "]" * 5000 + " }}",
    "T5 minus": "{{ " + "-" * 20000 + "1 }}",
    "T5 not": "{{ " + "not " * 20000 + "1 }}",
    "T6 nested ifs": "{% if 1 %}" * 10000 + "x" + "{% endif %}" * 10000,
    "T6 nested fors": "{% for x in messages %}" * 300 + "x" + "{% endfor %}" * 300,
    "T7 doubling": "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
    "T7 doubling lists": "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s }}",
    "T7 times": "{{ 'x' * 10**10 }}",
    "T7 times list": "{{ ([1] * 10**9)|length }}",
    "T7 power": "{{ 10 ** (10 ** 8) }}",
    "T7 sets": "{% set a0 = 'x' %}"
    + "".join(f"{{% set a{i + 1} = a{i} ~ a{i} %}}" for i in range(60))
    + "{{ a60 }}",
    "T7 shared list": "{% set ns = namespace(a=[1]) %}{% for i in range(60) %}{% set ns.a = [ns.a, ns.a] %}{% endfor %}{{ ns.a }}",
    "T7 json of json": "{{ messages" + "|tojson" * 60 + " }}",
    "T10 join": "{{ range(99999)|join('x' * 99999) }}",
    "T10 replace": "{{ ('x' * 99999)|replace('x', 'y' * 99999) }}",
    "T10 method replace": "{{ ('x' * 99999).replace('', 'y' * 99999) }}",
    "T10 sort": "{% for i in range(99999) %}{{ range(99999)|map('string')|sort|first }}{% endfor %}",
    "T10 center": "{{ 'x'|center(1000000000) }}",
    "T10 ljust": "{{ 'x'.ljust(1000000000) }}",
    "T10 format": "{{ '%1000000000d' % 1 }}",
    "T10 format method": "{{ '{:1000000000d}'.format(1) }}",
    "T10 indent": "{{ 'a\nb'|indent(1000000000) }}",
    "T10 batch": "{{ [1]|batch(1000000000, 1)|list|length }}",
    "T10 lipsum": "{{ lipsum(n=1000000) }}",
    "T10 round": "{{ 1.5|round(100000000, 'ceil') }}",
    "T12 wordwrap": "{% for i in range(99999) %}{{ ('a' * 9999)|wordwrap(1)|length }}{% endfor %}",
    "T12 striptags": "{% for i in range(99999) %}{{ ('<' * 99999)|striptags|length }}{% endfor %}",
    "T12 split": "{% for i in range(99999) %}{{ ('a ' * 99999).split()|length }}{% endfor %}",
}
REFUSED: dict[str, str] = {
    "T8 subclasses": "{{ [].__class__.__base__.__subclasses__()[0]() }}",
    "T8 lipsum": "{{ lipsum.__globals__['os'].popen('touch CANARY').read() }}",
    "T8 cycler": "{{ cycler.__init__.__globals__.os.system('touch CANARY') }}",
    "T8 attr": "{{ ([]|attr('__class__')).mro() }}",
    "T8 format": "{{ '{0.__class__.__init__.__globals__}'.format(namespace).x.y }}",
    "T8 format indirect": "{% set f = '{0.__class__}'.format %}{{ f(1).x.y }}",
    "T8 format_map": "{{ '{a.__class__}'.format_map({'a': 1}).x.y }}",
    "T8 map attribute": "{{ ([[]]|map(attribute='__class__')|list)[0].mro() }}",
    "T8 self": "{{ self.__init__.__globals__.x.y }}",
    "T8 function": "{{ raise_exception.__globals__['sys'].exit() }}",
    "T8 import": "{{ joiner.__init__.__globals__['__builtins__']['__import__']('os').system('touch CANARY') }}",
    "T9 include": "{% include '/etc/passwd' %}",
    "T9 import": "{% import '/etc/passwd' as p %}",
    "T9 from": "{% from 'os' import system %}",
    "T9 extends": "{% extends '/etc/passwd' %}",
    "T11 append": "{{ messages.append(1) }}",
    "T11 pop": "{{ messages[0].pop('role') }}",
    "T11 update": "{{ messages[0].update({'role': 'x'}) }}",
    "T13 unknown tag": "{% frobnicate %}",
    "T13 unterminated tag": "{% if",
    "T13 unterminated block": "{% if 1 %}",
    "T13 unterminated string": "{{ 'a }}",
    "T13 unterminated comment": "{# a",
    "T13 unknown filter": "{{ 1|frobnicate }}",
    "T13 unknown test": "{{ 1 is frobnicate }}",
    "T13 undefined": "{{ a.b.c }}",
    "T13 not a number": "{{ 'a' + 1 }}",
    "T13 NUL": "{{ '\0' }}{{ a.b.c }}",
    "T15 long exception": "{{ raise_exception('x' * 2**20) }}",
    "T15 escape codes": "{{ raise_exception('\x1b[2J') }}",
}


@pytest.mark.parametrize(
    "name",
    [
        *(
            pytest.param(n, marks=[] if n.startswith("T1 ") else [pytest.mark.slow])
            for n in HOSTILE
        ),
        *REFUSED,
    ],
)
def test_hostile_templates(
    name: str, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (HOSTILE | REFUSED)[name].replace("CANARY", str(tmp_path / "canary"))
    with worker._lock:  # below, a rendering is measured, not the start of an interpreter
        if worker._process is None or worker._process.poll() is not None:
            worker._start()
        if not worker._ready:
            worker._ready = worker._exchange(None, 20) is not None
    messages = [{"role": "user", "content": "Hello"}]
    start = time.monotonic()
    with pytest.raises(ChatTemplateError) as caught:
        render(source, worker, messages)
    seconds = time.monotonic() - start
    message = str(caught.value)
    assert seconds < 1.5, (
        message
    )  # the limit is 0.9 s; the rest is for a machine that does other things too
    assert len(message) < 700 and message.isprintable()
    assert messages == HELLO
    assert list(tmp_path.iterdir()) == []


def test_the_child_lives_on_after_a_refusal_and_comes_back_after_a_kill(worker: Worker) -> None:
    for source in (REFUSED["T13 undefined"], HOSTILE["T2 nested ranges"]):
        with pytest.raises(ChatTemplateError):
            render("{% macro m() %}{% endmacro %}" + source, worker)
        assert render("{% macro m() %}ok{% endmacro %}{{ m() }}", worker) == "ok"


def test_the_child_ends_with_its_template() -> None:
    template = ChatTemplate("{% macro m() %}ok{% endmacro %}{{ m() }}")
    assert template.render(HELLO) == "ok"
    assert template._worker is not None and template._worker._process is not None
    process = template._worker._process
    del template
    gc.collect()
    assert process.poll() is not None


def test_an_interrupted_rendering_does_not_shift_the_replies(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("hrun.chat_template._wait", interrupt)
        worker.ask('{"source": "first", "variables": {}}')
    assert worker.ask('{"source": "second", "variables": {}}') == {"text": "second"}


def test_the_child_can_open_no_file_and_start_no_process(worker: Worker) -> None:
    """Even a template that got out of the sandbox would find nothing to use."""
    if worker._process is None:
        render("{% macro m() %}{% endmacro %}", worker)
    assert worker._process is not None
    limits = Path(f"/proc/{worker._process.pid}/limits")
    if not limits.exists():
        pytest.skip("no /proc")
    rows = {line[:25].strip(): line[26:].split()[0] for line in limits.read_text().splitlines()[1:]}
    assert rows["Max open files"] == "0"
    assert rows["Max file size"] == "0"
    assert int(rows["Max address space"]) < 1 << 30


@pytest.mark.parametrize(
    ("source", "line"),
    [("a\nb{{ x.y.z }}", 2), ("\n\n{% if %}", 3), ("{{ raise_exception('no') }}", 1)],
)
def test_errors_name_the_line(source: str, line: int, worker: Worker) -> None:
    for prefix in ("", "{% macro m() %}{% endmacro %}"):  # here, and in the child
        with pytest.raises(ChatTemplateError, match=f"line {line}: ") as caught:
            render(prefix + source, worker)
        assert caught.value.line == line


def test_messages_that_are_no_json() -> None:
    template = ChatTemplate(CHATML)
    cycle: dict[str, Any] = {"role": "user"}
    cycle["content"] = [cycle]
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    for content in (
        cycle,
        {"role": "user", "content": deep},
        {"role": "user", "content": object()},
    ):
        with pytest.raises(ArgumentError):
            template.render([content])
    template.close()


def test_deep_json_that_fits(worker: Worker) -> None:
    """T14: a tool's schema 400 levels deep is shown, or refused; it never hangs."""
    deep: Any = 1
    for _ in range(400):
        deep = {"a": deep}
    source = "{{ tools|tojson }}{% macro m() %}{% endmacro %}"
    try:
        assert len(render(source, worker, tools=deep)) > 400 * 6
    except ChatTemplateError as error:
        assert "deep" in str(error)


def test_output_is_capped(worker: Worker) -> None:
    source = "{% for i in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}"
    with pytest.raises(ChatTemplateError, match="output passes"):
        render(source, worker)


def test_source_is_capped() -> None:
    with pytest.raises(ChatTemplateError, match="characters long"):
        ChatTemplate("x" * (1 << 20))


# A few shapes that must not be taken for plain.
@pytest.mark.parametrize("name", HOSTILE)
def test_nothing_hostile_is_rendered_in_this_process(name: str) -> None:
    template = ChatTemplate(HOSTILE[name])
    template.close()
    assert not template.in_process


def test_a_large_conversation_goes_to_the_child() -> None:
    template = ChatTemplate(CHATML)
    assert template.in_process and template._worker is None
    text = template.render([{"role": "user", "content": "x" * 100_000}])
    assert template._worker is not None and len(text) > 100_000
    template.close()
    assert template._worker._process is None


def test_cost_of_a_plain_template_is_bounded() -> None:
    """The cost is the template's size times messages times their characters.  A costly template
    goes to the child, which has a clock.
    """
    source = "{% for m in messages %}" + "{% if messages|string is none %}{% endif %}" * 45
    template = ChatTemplate(source + "{% endfor %}x")
    assert template.in_process
    few = [{"role": "u", "content": "x" * 10}] * 20
    assert template.render(few) == "x" and template._worker is None
    start = time.monotonic()
    with pytest.raises(ChatTemplateError, match=r"not finished after 0\.9 seconds"):
        template.render([{"role": "u", "content": "x" * 10}] * 800)
    assert time.monotonic() - start < 5
    template.close()
    chat = ChatTemplate(CHATML)
    chat.render([{"role": "user", "content": "x" * 300}] * 60)  # a long chat stays here
    assert chat._worker is None


@pytest.mark.slow
def test_every_filter_and_test_of_jinja_works_in_the_child(worker: Worker) -> None:
    """No filter or test loads a module later, when files cannot be opened any more."""
    import jinja2

    for name in sorted(jinja2.filters.FILTERS):
        for value in ("'<b>a &amp; b</b>'", "[1, 2]", "{'a': 1}", "1.5", "messages"):
            try:
                render(f"{{{{ {value}|{name} }}}}{{{{ ()|batch(1) }}}}", worker)
            except ChatTemplateError as error:
                assert "OSError" not in str(error) and "ImportError" not in str(error), name
                assert "ModuleNotFoundError" not in str(error), name
    for call in ("range(3)", "lipsum(1)", "cycler(1).next()", "joiner()()", "namespace(a=1).a"):
        try:
            render(f"{{{{ {call} }}}}", worker)
        except ChatTemplateError as error:
            assert "OSError" not in str(error), call
    assert render("{{ '<b>a &amp; b</b>'|striptags }}{{ ()|batch(1) }}", worker)[:5] == "a & b"


@pytest.mark.parametrize("host", [None, "", "/bin/false"])
def test_python_inside_another_program(monkeypatch: pytest.MonkeyPatch, host: str | None) -> None:
    """There, sys.executable is absent, or is the program itself, which must not be run."""
    monkeypatch.setattr(sys, "executable", host)
    worker = Worker()
    try:
        assert worker._process is not None
        assert Path(worker._process.args[0]).name.startswith("python")  # type: ignore[index]
    finally:
        worker.stop()
