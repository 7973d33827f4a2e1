"""Build the documentation: python tools/build_docs.py [FOLDER]   (pip install mkdocs-material; hrun installed or on PYTHONPATH)

The pages of docs/, with what is generated beside them: all flags from the commands' parsers, the Python interface from its
docstrings, the table of architectures from the README, design and changes from their files.  Any warning is an error.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "docs"
OUTSIDE = re.compile(
    r"\[([^\]]*)\]\((?:\.\./)*((?:[A-Z]+\.md|LICENSE))(?:#[\w-]+)?\)"
)  # of the repository


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Command -> its parser."""
    from hrun.cli.commands import PARSERS

    out = {}
    for name, where in PARSERS.items():
        module, _, function = where.partition(":")
        out[name] = getattr(importlib.import_module(module), function)()
    return out


def flags_page() -> str:
    """Every flag of every command."""
    lines = ["# Flags", "", "Made from the commands' own definitions.", ""]
    for name, parser in parsers().items():
        lines += [f"## {name}", "", "```text", (parser.description or "").strip(), "```", ""]
        for group in parser._action_groups:
            shown = [a for a in group._group_actions if a.help is not argparse.SUPPRESS]
            if not shown:
                continue
            if group.title not in ("options", "positional arguments"):
                lines += [f"### {name}: {group.title}", ""]
            lines += ["| flag | |", "|---|---|"]
            for action in shown:
                lines.append(f"| {_flag(action)} | {_cell(_help(parser, action))} |")
            lines.append("")
    return "\n".join(lines)


def _flag(action: argparse.Action) -> str:
    value = ""
    if action.nargs != 0:
        choices = "{" + ",".join(map(str, action.choices)) + "}" if action.choices else None
        value = str(action.metavar or choices or action.dest.upper())
    names = ", ".join(f"`{name}`" for name in action.option_strings) or f"`{value}`"
    return _cell(names + (f" `{value}`" if value and action.option_strings else ""))


def _help(parser: argparse.ArgumentParser, action: argparse.Action) -> str:
    return parser._get_formatter()._expand_help(action) if action.help else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def chat_commands() -> str:
    """Rows of a table."""
    from hrun.cli.terminal import COMMANDS_HELP

    return "\n".join(f"| `{name}` | {_cell(meaning)} |" for name, meaning in COMMANDS_HELP.items())


def api_page() -> str:
    """Every public name of hrun, with its signature and docstring."""
    import hrun

    lines = ["# Python interface", "", "Made from the docstrings.", ""]
    for name in sorted(hrun.__all__):
        thing = getattr(hrun, name)
        lines += _described(f"hrun.{name}", thing, 2)
    return "\n".join(lines)


def _described(name: str, thing: Any, level: int) -> Iterator[str]:
    yield f"{'#' * level} {name}"
    yield ""
    if callable(thing):
        try:
            signature = str(inspect.signature(thing))
        except (ValueError, TypeError):
            signature = ""
        if signature and not (inspect.isclass(thing) and issubclass(thing, BaseException)):
            yield f"```python\n{name.rsplit('.', 1)[-1]}{_wrapped(signature)}\n```"
            yield ""
    if doc := inspect.getdoc(thing):
        yield doc.replace("<", "&lt;") + "\n"
    if inspect.isclass(thing):
        for member, value in vars(thing).items():
            raw = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            public = not member.startswith("_") and getattr(raw, "__doc__", None)
            if public and (inspect.isfunction(raw) or isinstance(raw, property)):
                yield from _described(f"{name}.{member}", raw, level + 1)


def _wrapped(signature: str) -> str:
    signature = signature.replace("'", "")
    return signature if len(signature) < 100 else signature.replace(", ", ",\n    ")


def prepare() -> None:
    """All pages in one folder."""
    pages = WORK / "pages"
    shutil.rmtree(WORK, ignore_errors=True)
    shutil.copytree(ROOT / "docs", pages)
    (pages / "design.md").write_text((ROOT / "DESIGN.md").read_text(encoding="utf-8"))
    (pages / "changes.md").write_text((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    (pages / "reference").mkdir(exist_ok=True)
    (pages / "reference" / "flags.md").write_text(flags_page())
    (pages / "reference" / "api.md").write_text(api_page())
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = re.search(r"\n(\| architecture \|.*?)\n\n", readme, re.S)
    assert table is not None, "the README has no table of architectures"
    for page in pages.rglob("*.md"):
        text = page.read_text(encoding="utf-8")
        text = text.replace("<!-- architectures -->", table[1])
        text = text.replace("<!-- chat commands -->", chat_commands())
        page.write_text(OUTSIDE.sub(r"\1 (`\2`)", text), encoding="utf-8")
    shutil.copy(ROOT / "docs" / "mkdocs.yml", WORK / "mkdocs.yml")
    (pages / "mkdocs.yml").unlink()


def main() -> int:
    prepare()
    site = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else WORK / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", str(WORK / "mkdocs.yml")]
    return subprocess.run([*command, "-d", str(site)], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
