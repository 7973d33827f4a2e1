"""hrun-ladder: several types of one model in a folder, each measured against the source, with a table, a plot and a model card.

hrun-ladder path/to/checkpoint --types rtq3,rtq4,q4_k_m,q8_0 -o folder
hrun-ladder path/to/checkpoint --types rtq3,rtq4,q4_k_m,q8_0 -o folder --upload USER/MODEL
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from hrun._core import __version__, formats
from hrun.cli.common import EXIT_ERROR, Parser, run
from hrun.cli.options import add_flags, whole_number
from hrun.errors import ArgumentError

if TYPE_CHECKING:
    from hrun.convert import Source

_EPILOG = """\
What calibration sees is collected once, for the first RTQ type, and used for all of them.  Files that are in the folder
already are measured and not made again, so that a run that was ended goes on.  An upload takes the files, the card, its plot and
its figures to Hugging Face in one commit."""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    return run("hrun-ladder", _main, make_parser(), argv)


def make_parser() -> Parser:
    """All flags."""
    parser = Parser(prog="hrun-ladder", description=__doc__, epilog=_EPILOG)
    add = parser.add_argument
    add("source", metavar="SRC", type=Path, help="Hugging Face folder, or a GGUF file")
    add("--types", required=True, metavar="TYPE,...", help="as hrun-convert --type has them")
    add(
        "-o",
        "--output",
        required=True,
        metavar="FOLDER",
        type=Path,
        help="made where it is not there",
    )
    add_flags(parser, "calibrate", "preset")
    add(
        "--text",
        metavar="TEXT",
        type=Path,
        help="what the files are measured on (default: passages that ship with hrun)",
    )
    add(
        "--chunks",
        type=whole_number(-1),
        default=-1,
        metavar="N",
        help="measure on the first N chunks only",
    )
    add(
        "--upload",
        metavar="USER/MODEL",
        help="then to this repository of Hugging Face, made where it is not there (needs huggingface_hub)",
    )
    add("--private", action="store_true", help="make the repository a private one")
    add_flags(
        parser,
        "dry_run",
        help="say which files would be made, with their sizes, and uploaded; write nothing",
    )
    add_flags(parser, "threads", "version")
    return parser


def _main(options: argparse.Namespace) -> int:
    from hrun.cli.convert import default_output
    from hrun.cli.convert import main as convert
    from hrun.convert import open_source
    from hrun.convert.calibrate import part_file
    from hrun.convert.compare import TextReader
    from hrun.convert.ladder import CARD_FILES, command_line, measure, text_chunks, write_card
    from hrun.convert.plan import find_type
    from hrun.outputs import scratch_folder

    kinds = [find_type(word.strip()) for word in options.types.split(",")]
    if len(set(kinds)) < len(kinds):
        raise ArgumentError(f"--types {options.types}: names a type twice")
    if options.private and not options.upload:
        raise ArgumentError("--private is about --upload USER/MODEL")
    source = open_source(options.source)
    paths = {
        kind: options.output / default_output(options.source, source.name, kind).name
        for kind in kinds
    }
    if options.dry_run:
        return _dry_run(options, source, paths)
    upload = None
    if options.upload:
        from hrun.cli.hub_upload import Upload

        upload = Upload(options.upload, options.private)
    options.output.mkdir(parents=True, exist_ok=True)
    coded = {info.name for info in formats() if info.trellis}
    commands, rungs = [], []
    with ExitStack() as stack:
        scratch = stack.enter_context(scratch_folder(options.output))
        file = part_file(source, scratch, options.threads)
        chunks = text_chunks(file.path, options.text, options.chunks)
        if not chunks:
            raise ArgumentError(f"{options.text}: too short to measure on")
        reference = None
        moments = options.output / "moments.hrun"
        for kind, path in paths.items():
            words: list[object] = [options.source, "-o", path, "--type", kind, "--no-check"]
            if kind in coded and options.preset:
                words += ["--preset", options.preset]
            if kind in coded and options.preset != "fast":
                if moments.exists():
                    words += ["--moments", moments]
                else:
                    words += ["--calibrate", options.calibrate or "auto", "--save-moments", moments]
            commands.append(command_line(["hrun-convert", *words]))
            if options.threads:
                words += ["-t", options.threads]
            if path.exists():
                print(f"hrun-ladder: {path} is there", file=sys.stderr)
            elif convert([str(word) for word in words]):
                return EXIT_ERROR
            reference = reference or TextReader(file, chunks, scratch)
            rung = measure(reference, kind, path, chunks, scratch, options.threads)
            reference.release()  # the next conversion needs the memory
            rungs.append(rung)
            print(
                f"{kind}: {rung.bytes / 1e6:.1f} MB, KL divergence {rung.divergence:.4f}",
                flush=True,
            )
        moments.unlink(missing_ok=True)
    where = "passages that ship with hrun" if options.text is None else options.text.name
    n_tokens = sum(len(chunk) for chunk in chunks)
    write_card(options.output, source, rungs, f"{where}, {n_tokens} tokens", commands)
    print(options.output / "README.md")
    if upload is not None:
        names = [*(rung.file for rung in rungs), *CARD_FILES]
        message = f"{', '.join(kind.upper() for kind in kinds)} by hrun {__version__}"
        print(upload.send(options.output, names, message))
    return 0


def _dry_run(options: argparse.Namespace, source: Source, paths: dict[str, Path]) -> int:
    from hrun.convert import PlanOptions, make_plan
    from hrun.convert.ladder import CARD_FILES
    from hrun.convert.table import size_text

    for kind, path in paths.items():
        if path.exists():
            print(f"{path}: {size_text(path.stat().st_size)}, is there")
        else:
            n_bytes = make_plan(source, PlanOptions(kind)).data_bytes
            print(f"{path}: about {size_text(n_bytes)}, would be made")
    for name in CARD_FILES:
        print(f"{options.output / name}: would be made")
    if options.upload:
        kind = "private repository" if options.private else "repository"
        print(f"all of them would go to the {kind} {options.upload} of Hugging Face")
    return 0


if __name__ == "__main__":
    sys.exit(main())
