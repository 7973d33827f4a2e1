"""The command hrun: its first word is a command or a model; without one it is the chat of :mod:`hrun.cli.chat`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

import hrun
from hrun.cli.common import EXIT_USAGE, Parser, complain, run

# Words of other programs, and what they are here.
_OTHER_WORDS = {
    "chat": "run", "start": "run", "generate": "run", "ps": "list", "models": "list", "delete": "rm", "remove": "rm",
    "uninstall": "rm", "download": "pull", "get": "pull", "install": "pull", "info": "show", "server": "serve",
    "quantize": "convert", "export": "convert", "create": "convert", "benchmark": "bench", "ppl": "perplexity", "embedding": "embed", "embeddings": "embed",
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """The exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0].startswith("-"):
        return _chat(words)
    first, rest = words[0], words[1:]
    if first in COMMANDS:
        return COMMANDS[first](rest)
    from hrun.cli import models

    if first in _OTHER_WORDS:
        complain("hrun", f"'{first}' is no command; did you mean hrun {_OTHER_WORDS[first]}?")
        return EXIT_USAGE
    if not models.looks_like_a_model(first) and (meant := models.near(first, list(COMMANDS))):
        complain("hrun", f"'{first}' is no command and no model{meant} hrun help lists both")
        return EXIT_USAGE
    return _chat(words)


def _chat(words: list[str]) -> int:
    from hrun.cli.chat import main as chat

    return chat(words)


def _run(words: list[str]) -> int:
    if not words:
        complain(
            "hrun", "hrun run MODEL [PROMPT]: which model? hrun list shows those on this machine"
        )
        return EXIT_USAGE
    return _chat(words)


def _help(words: list[str]) -> int:
    if words and words[0] in COMMANDS and words[0] not in ("help", "run"):
        return COMMANDS[words[0]](["--help"])
    return _chat(["--help"])


def _pull(words: list[str]) -> int:
    from hrun.cli import models

    parser = Parser(prog="hrun pull", description="Download a model from Hugging Face.")
    parser.add_argument("model", metavar="USER/MODEL[:TYPE]", help="or a short name")

    def job(options: object) -> int:
        path = models.resolve(options.model)  # type: ignore[attr-defined]
        print(path)
        return 0

    return run("hrun pull", job, parser, words)


def _list(words: list[str]) -> int:
    from hrun.cli import models

    parser = Parser(
        prog="hrun list",
        description="The GGUF models in the cache of Hugging Face, and their sizes.",
    )

    def job(_: object) -> int:
        demo = hrun.demo_model_path()
        rows = [("demo", models.shown_size(demo.stat().st_size), "comes with hrun")]
        rows += [
            (m.name, models.shown_size(m.size), models.shown_age(m.used))
            for m in models.kept_models()
        ]
        wide = max(len(row[0]) for row in rows)
        for name, size, used in [("NAME", "SIZE", "USED"), *rows]:
            print(f"{name:{wide}}  {size:>9}  {used}")
        return 0

    return run("hrun list", job, parser, words)


def _rm(words: list[str]) -> int:
    from hrun.cli import models

    parser = Parser(prog="hrun rm", description="Delete downloaded models.")
    parser.add_argument("model", nargs="+", metavar="MODEL", help="a name as hrun list shows it")

    def job(options: object) -> int:
        for word in options.model:  # type: ignore[attr-defined]
            kept = models.find_kept(word)
            print(f"removed {kept.name}, {models.shown_size(models.remove(kept))}")
        return 0

    return run("hrun rm", job, parser, words)


def _on_file(words: list[str], download: bool, flag: str | None = "-m") -> list[str]:
    """The words with a model in front replaced by the flag and its file."""
    from hrun.cli import models

    if not words or words[0].startswith("-"):
        return words
    found = str(models.resolve(words[0], download))
    return [*([flag] if flag else []), found, *words[1:]]


def _forwarded(
    name: str, module: str, download: bool = True, flag: str | None = "-m"
) -> Callable[[list[str]], int]:
    def forward(words: list[str]) -> int:
        from importlib import import_module

        try:
            words = _on_file(words, download, flag)
        except hrun.Error as error:
            return complain(f"hrun {name}", str(error))
        code: int = import_module(module).main(words)
        return code

    return forward


def _convert(words: list[str]) -> int:
    from hrun.cli.convert import main as convert

    return convert(words)


def _completion(words: list[str]) -> int:
    from hrun.cli.completion import job, make_parser

    return run("hrun completion", lambda o: job(o, list(COMMANDS)), make_parser(), words)


COMMANDS: dict[str, Callable[[list[str]], int]] = {
    "run": _run,
    "pull": _pull,
    "list": _list,
    "ls": _list,
    "rm": _rm,
    "show": _forwarded("show", "hrun.cli.inspect", download=False, flag=None),
    "serve": _forwarded("serve", "hrun.serve"),
    "convert": _convert,
    "bench": _forwarded("bench", "hrun.cli.bench"),
    "perplexity": _forwarded("perplexity", "hrun.cli.perplexity"),
    "ladder": _forwarded("ladder", "hrun.cli.ladder", download=False, flag=None),
    "embed": _forwarded("embed", "hrun.cli.embed"),
    "edit": _forwarded("edit", "hrun.cli.edit", download=False, flag=None),
    "completion": _completion,
    "help": _help,
}


if __name__ == "__main__":
    sys.exit(main())
