"""Completion in shells: ``eval "$(hrun completion bash)"``, the same with zsh, ``hrun completion fish | source``."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Collection, Iterator
from importlib import import_module

from hrun.cli.commands import PARSERS, SAME
from hrun.cli.common import Parser

SHELLS = ("bash", "zsh", "fish")


def make_parser() -> Parser:
    """All flags."""
    parser = Parser(prog="hrun completion", description=__doc__)
    parser.add_argument("shell", choices=SHELLS)
    return parser


def job(options: argparse.Namespace, words: Collection[str]) -> int:
    print(script(options.shell, words), end="")
    return 0


def script(shell: str, words: Collection[str]) -> str:
    """Returns the script that the shell reads.  ``words``: the commands of hrun."""
    if shell == "fish":
        return "\n".join(_fish(words)) + "\n"
    lead = ["autoload -U +X bashcompinit && bashcompinit"] if shell == "zsh" else []
    return "\n".join([*lead, *_bash(words)]) + "\n"


def flags_of(place: str) -> dict[str, list[str]]:
    """Flag -> the values it may have, empty where they are free or there are none."""
    module, _, function = place.partition(":")
    parser: argparse.ArgumentParser = getattr(import_module(module), function)()
    return {
        name: [str(c) for c in action.choices or ()]
        for action in parser._actions
        if action.help is not argparse.SUPPRESS
        for name in action.option_strings
    }


def _bash(commands: Collection[str]) -> Iterator[str]:
    yield "_hrun() {"
    yield '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}" flags= words='
    yield '  local command="${COMP_WORDS[0]##*/}"'
    yield '  if [ "$command" = hrun ]; then'
    yield f'    [ "$COMP_CWORD" = 1 ] && words={shlex.quote(" ".join(commands))}'
    yield '    [ "$COMP_CWORD" != 1 ] && command="hrun ${COMP_WORDS[1]}"'
    yield "  fi"
    yield '  case "$command" in'
    for name, place in PARSERS.items():
        names = [name, *(f"hrun {word}" for word, program in SAME.items() if program == name)]
        pattern = "|".join(shlex.quote(n) for n in names)
        if name != "hrun":  # whose other words are models: it comes last
            yield f"    {pattern}) flags={shlex.quote(' '.join(flags_of(place)))};;"
    yield f"    hrun|'hrun '*) flags={shlex.quote(' '.join(flags_of(PARSERS['hrun'])))};;"
    yield "  esac"
    yield '  case "$prev" in'
    seen: dict[str, str] = {}
    for place in PARSERS.values():
        for flag, values in flags_of(place).items():
            if values:
                seen.setdefault(flag, " ".join(values))
    for flag, few in seen.items():
        yield f'    {flag}) COMPREPLY=($(compgen -W {shlex.quote(few)} -- "$cur")); return;;'
    yield "  esac"
    yield '  if [ "${cur#-}" != "$cur" ]; then COMPREPLY=($(compgen -W "$flags" -- "$cur"))'
    yield '  else COMPREPLY=($(compgen -W "$words" -- "$cur") $(compgen -f -- "$cur")); fi'
    yield "}"
    yield f"complete -o filenames -F _hrun {' '.join(PARSERS)}"


def _fish(commands: Collection[str]) -> Iterator[str]:
    for word in commands:
        yield f"complete -c hrun -n __fish_use_subcommand -a {word}"
    for name, place in PARSERS.items():
        words = [word for word, program in SAME.items() if program == name]
        module, _, function = place.partition(":")
        for action in getattr(import_module(module), function)()._actions:
            if action.help is argparse.SUPPRESS or not action.option_strings:
                continue
            parts = [_fish_flag(flag) for flag in action.option_strings]
            if action.choices:
                parts.append("-xa " + shlex.quote(" ".join(map(str, action.choices))))
            elif action.nargs != 0:
                parts.append("-r")
            yield f"complete -c {name} {' '.join(parts)}"
            for word in words:
                yield f"complete -c hrun -n '__fish_seen_subcommand_from {word}' {' '.join(parts)}"


def _fish_flag(flag: str) -> str:
    if flag.startswith("--"):
        return f"-l {flag[2:]}"
    return f"-s {flag[1:]}" if len(flag) == 2 else f"-o {flag[1:]}"
