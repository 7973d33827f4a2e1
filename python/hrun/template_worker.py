"""Renders chat templates, as a child process that may be killed: see chat_template.py.

Run as a script by :class:`hrun.chat_template.Worker`, without hrun's other modules.  Reads one JSON object per line from
standard input and answers each with one on standard output.  The first line answers with ``{"ready": true}``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

OUTPUT_CHARACTERS = 4 << 20
MEMORY_BYTES = 192 << 20  # on top of what the interpreter itself takes
MESSAGE_CHARACTERS = 500
NAME = "<template>"


class TooLong(Exception):
    """The output passed OUTPUT_CHARACTERS."""


def make_environment() -> Any:
    """The sandbox with what Hugging Face's templates may use."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %}`` marks the assistant's part for training; here its body is rendered as it is."""

        tags = {"generation"}

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    class Environment(ImmutableSandboxedEnvironment):
        # Arithmetic goes through call_binop, so that nothing is computed while the template is compiled.
        intercepted_binops = frozenset({"+", "-", "*", "/", "//", "%", "**"})

    def raise_exception(message: object = "") -> None:
        raise TemplateError(str(message)[: MESSAGE_CHARACTERS + 1])

    def strftime_now(pattern: str) -> str:
        from datetime import datetime

        return datetime.now().strftime(pattern)

    def tojson(
        value: Any,
        ensure_ascii: bool = False,
        indent: Any = None,
        separators: Any = None,
        sort_keys: bool = False,
    ) -> str:
        # jinja2's own escapes <, > and & for HTML.
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    environment = Environment(
        trim_blocks=True, lstrip_blocks=True, optimized=False, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = strftime_now
    return environment


def compile_template(environment: Any, source: str) -> Any:
    code = environment.compile(source, name=NAME, filename=NAME)
    return environment.template_class.from_code(environment, code, environment.make_globals(None))


def reads_parts(tree: Any) -> bool:
    """Does a template go through the parts of a message's content, under that name or one given to it?"""
    from jinja2 import nodes

    names = {"content"}

    def is_content(node: Any) -> bool:
        while isinstance(node, nodes.Filter) or (
            isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
        ):
            node = node.node
        if isinstance(node, nodes.CondExpr):
            return is_content(node.expr1) or is_content(node.expr2)
        if isinstance(node, nodes.Getitem):
            return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
        return (isinstance(node, nodes.Getattr) and node.attr == "content") or (
            isinstance(node, nodes.Name) and node.name in names
        )

    parameters = {
        macro.name: [argument.name for argument in macro.args]
        for macro in tree.find_all(nodes.Macro)
    }
    given = [
        (assigned.target.name, assigned.node)
        for assigned in tree.find_all(nodes.Assign)
        if isinstance(assigned.target, nodes.Name)
    ]
    for call in tree.find_all(nodes.Call):
        if isinstance(call.node, nodes.Name):
            given += zip(parameters.get(call.node.name, ()), call.args)
    for _ in range(4):  # names of names
        names |= {name for name, value in given if is_content(value)}
    return any(is_content(loop.iter) for loop in tree.find_all(nodes.For))


def flattened(messages: Any) -> Any:
    """Contents that are lists of text parts as one text, for templates that read no parts."""
    return [
        {**message, "content": "\n".join(texts)}
        if isinstance(message, dict) and (texts := _texts(message.get("content"))) is not None
        else message
        for message in messages
    ]


def _texts(content: Any) -> list[str] | None:
    """The texts of a list of text parts; None for all else."""
    if not isinstance(content, list):
        return None
    texts = [
        part.get("text") if isinstance(part, dict) and part.get("type") == "text" else part
        for part in content
    ]
    strings = [text for text in texts if isinstance(text, str)]
    return strings if len(strings) == len(texts) else None


def render(template: Any, variables: dict[str, Any]) -> str:
    parts: list[str] = []
    total = 0
    for part in template.generate(**variables):
        total += len(part)
        if total > OUTPUT_CHARACTERS:
            raise TooLong(f"the output passes {OUTPUT_CHARACTERS} characters")
        parts.append(part)
    return "".join(parts)


def describe(error: BaseException) -> tuple[str, int | None]:
    """A short message and the template's line, if one is to blame."""
    line = getattr(error, "lineno", None) if type(error).__module__.startswith("jinja2") else None
    if line is None:
        trace = error.__traceback__
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == NAME:
                line = trace.tb_lineno
            trace = trace.tb_next
    if isinstance(error, RecursionError):
        return "nested too deeply", line
    if isinstance(error, MemoryError):
        return "needs too much memory", line
    try:
        text = str(error)[: MESSAGE_CHARACTERS + 1]
    except Exception:
        text = "error without a printable message"
    if len(text) > MESSAGE_CHARACTERS:
        text = text[:MESSAGE_CHARACTERS] + "..."
    own = type(error).__module__.startswith("jinja2") or isinstance(error, TooLong)
    return text if own and text else f"{type(error).__name__}: {text}", line


def _limit() -> None:
    """No more memory than MEMORY_BYTES on top, no files, no children: a second wall behind the sandbox."""
    try:
        import resource
    except ImportError:  # not on Windows; there the parent's clock is the only limit
        return
    with open("/proc/self/statm") as statm:
        in_use = int(statm.read().split()[0]) * resource.getpagesize()
    for what, limit in (
        (resource.RLIMIT_AS, in_use + MEMORY_BYTES),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, 0),
    ):
        hard = resource.getrlimit(what)[1]
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(what, (soft, soft))


def _answer(request: dict[str, Any], compiled: dict[str, Any], environment: Any) -> dict[str, Any]:
    try:
        source, variables = request["source"], request["variables"]
        if source not in compiled:
            compiled.clear()
            compiled[source] = compile_template(environment, source)
        if any(
            isinstance(m, dict) and isinstance(m.get("content"), list)
            for m in variables.get("messages", ())
        ) and not reads_parts(environment.parse(source)):
            variables["messages"] = flattened(variables["messages"])
        return {"text": render(compiled[source], variables)}
    except (
        BaseException
    ) as error:  # a template may raise anything, SystemExit and MemoryError included
        message, line = describe(error)
        return {"error": message, "line": line}


def main() -> None:
    read, write = sys.stdin.buffer, sys.stdout.buffer
    sys.path[:] = json.loads(read.readline())["path"]
    # Everything that rendering may import later must be here: afterwards no file can be opened.
    import _strptime  # type: ignore[import-not-found]  # noqa: F401
    import datetime  # noqa: F401
    import html  # noqa: F401
    import traceback  # noqa: F401

    import jinja2.constants
    import jinja2.debug
    import jinja2.sandbox  # noqa: F401

    environment = make_environment()
    try:  # the first compilation and error load the rest
        render(
            compile_template(
                environment,
                "{% for x in y %}{{ x|tojson }}{% endfor %}{{ strftime_now('%Y') }}{{ 1 + '' }}",
            ),
            {"y": [1]},
        )
    except TypeError as error:
        describe(error)
    compiled: dict[str, Any] = {}
    reply: Callable[[dict[str, Any]], object] = lambda answer: (
        write.write(json.dumps(answer).encode() + b"\n"),
        write.flush(),
    )
    try:
        _limit()
    except (OSError, ValueError):  # a system without /proc, or stricter limits than ours
        pass
    reply({"ready": True})
    for line in read:
        reply(_answer(json.loads(line), compiled, environment))


if __name__ == "__main__":
    main()
