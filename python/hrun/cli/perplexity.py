"""hrun-perplexity: how well a model predicts a text, and how far it is from another one.

  hrun-perplexity -m model.gguf -f text.txt
  hrun-perplexity -m f16.gguf  -f text.txt --kl-divergence-base base.bin
  hrun-perplexity -m rtq3.gguf --kl-divergence-base base.bin --kl-divergence

llama.cpp's definition: the text is cut into chunks of -c tokens; in each the first token is replaced by BOS if the model
adds one, and the second half is scored."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import hrun
from hrun.cli.common import Parser, add_model_options, load, run
from hrun.cli.options import add_flags, whole_number
from hrun.cli.scoring import Estimate, scored

_EPILOG = """\
The file of --kl-divergence-base is hrun's own: the tokens, and 16-bit log-probabilities of every scored position (2 bytes
per vocabulary entry and position; tokens more than 16 nats below the best count as one outcome).  llama.cpp's files of the same name are not read."""


def main(argv: Sequence[str] | None = None) -> int:
    return run("hrun-perplexity", _main, make_parser(), argv)


def make_parser() -> Parser:
    """All flags."""
    parser = Parser(prog="hrun-perplexity", description=__doc__, epilog=_EPILOG)
    add_model_options(parser)
    add = parser.add_argument
    add(
        "-f",
        "--file",
        metavar="TEXT",
        help="the text; not needed with --kl-divergence, whose base file has the tokens",
    )
    add_flags(
        parser, "ctx_size", type=whole_number(4), default=512, help="tokens per chunk (default 512)"
    )
    add(
        "--chunks",
        type=whole_number(-1),
        default=-1,
        metavar="N",
        help="score the first N chunks only",
    )
    add(
        "--kl-divergence-base",
        "--save-all-logits",
        metavar="FILE",
        help="write the probabilities to FILE, or read them with --kl-divergence",
    )
    add(
        "--kl-divergence",
        action="store_true",
        help="compare with the probabilities in --kl-divergence-base",
    )
    add_flags(parser, "version")
    return parser


def _main(options: argparse.Namespace) -> int:
    if options.kl_divergence and not options.kl_divergence_base:
        raise hrun.ArgumentError("--kl-divergence needs --kl-divergence-base FILE")
    if not options.kl_divergence and not options.file:
        raise hrun.ArgumentError("no text: give -f FILE")
    if options.kl_divergence:
        from hrun.cli.divergence import compare

        return compare(options)
    with load(options, options.ctx_size) as runtime:
        tokens = _tokens(runtime, Path(options.file))
        n_chunks = len(tokens) // options.ctx_size
        if options.chunks >= 0:
            n_chunks = min(n_chunks, options.chunks)
        writer = None
        if options.kl_divergence_base:
            from hrun.cli.divergence import BaseWriter

            writer = BaseWriter(
                Path(options.kl_divergence_base),
                runtime,
                tokens,
                options.ctx_size,
                n_chunks,
                Path(options.file),
            )
        try:
            estimate = Estimate()
            for block in scored(runtime, tokens, options.ctx_size, n_chunks):
                estimate.add(block.came)
                if writer:
                    writer.add(block.rows, block.came)
                if block.ends_chunk:
                    print(f"[{block.chunk + 1}]{estimate.perplexity:.4f},", end="", flush=True)
            print(f"\nFinal estimate: {estimate}")
            if writer:
                writer.finish()
        finally:
            if writer:
                writer.abandon()
    return 0


def _tokens(runtime: hrun.Runtime, path: Path) -> list[int]:
    text = path.read_bytes().decode("utf-8", "replace")
    tokens = runtime.tokenizer.encode(text, add_special=True)
    if len(tokens) < 2 * runtime.n_ctx:
        raise hrun.ArgumentError(
            f"{path} has {len(tokens)} tokens; perplexity at a context of {runtime.n_ctx} needs at least {2 * runtime.n_ctx}"
        )
    return tokens


if __name__ == "__main__":
    sys.exit(main())
