"""hrun-edit: change the metadata of a GGUF file, replace its chat template, split it or join it.  Weights stay as they are.

hrun-edit model.gguf -o new.gguf --set general.name="My model" --remove general.url
hrun-edit model.gguf --in-place --chat-template-file template.jinja
hrun-edit model.gguf --split 40G -o parts/model          parts/model-00001-of-00003.gguf, ...
hrun-edit model-00001-of-00003.gguf --join -o model.gguf
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hrun.cli.common import Parser, run
from hrun.cli.options import add_flags, file_size
from hrun.errors import ArgumentError

_EPILOG = """\
A value has the type that its key has already (an array is a JSON list); of a new key it is a JSON number, true, false or
a string.  A file is written whole or not at all, and must load as the one before did.  hrun-inspect shows what a file holds."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run("hrun-edit", _main, make_parser(), argv)


def make_parser() -> Parser:
    """All flags."""
    parser = Parser(prog="hrun-edit", description=__doc__, epilog=_EPILOG)
    add = parser.add_argument
    add("file", metavar="FILE", type=Path, help="the model, or the first of its files")
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument(
        "-o", "--output", metavar="OUT", type=Path, help="file to write; with --split the beginning of the names"
    )  # fmt: skip
    where.add_argument(
        "--in-place", action="store_true", help="replace FILE, in one step when the new one is complete"
    )  # fmt: skip
    add("--set", action="append", default=[], metavar="KEY=VALUE", help="may be repeated")
    add("--remove", action="append", default=[], metavar="KEY", help="may be repeated")
    add_flags(parser, "chat_template_file", type=Path)
    shape = parser.add_mutually_exclusive_group()
    shape.add_argument(
        "--split", metavar="SIZE", type=file_size, help="into files of at most so much, as 800M or 40G"
    )  # fmt: skip
    shape.add_argument("--join", action="store_true", help="all files of a split model into one")
    add_flags(parser, "version")
    return parser


def _main(options: argparse.Namespace) -> int:
    from hrun.convert.edit import Changes, Opened, template_of, write_edited, write_parts

    pairs = {}
    for text in options.set:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ArgumentError(f"--set {text}: expected KEY=VALUE")
        pairs[key] = value
    template = template_of(options.chat_template_file) if options.chat_template_file else None
    changes = Changes(pairs, options.remove, template)
    source = Opened(options.file)
    if options.split and options.in_place:
        raise ArgumentError("--split writes files of other names: give -o")
    if len(source.paths) > 1 and not (options.join or options.split):
        raise ArgumentError(
            f"{options.file} is one of {len(source.paths)} files: add --join or --split SIZE"
        )
    if options.split:
        paths = write_parts(source, options.output, changes, options.split)
    else:
        if options.in_place and len(source.paths) > 1:
            raise ArgumentError("--join writes one file of another name: give -o")
        paths = [options.file if options.in_place else options.output]
        write_edited(source, paths[0], changes, options.in_place)
    for path in paths:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
