"""hrun-perplexity: how well a model predicts a text, and how far it is from another one.

  hrun-perplexity -m model.gguf -f text.txt
  hrun-perplexity -m f16.gguf  -f text.txt --kl-divergence-base base.bin
  hrun-perplexity -m rtq3.gguf --kl-divergence-base base.bin --kl-divergence

llama.cpp's definition: the text is cut into chunks of -c tokens; in each the first token is replaced by BOS if the model
adds one, and the second half is scored."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import hrun
from hrun.cli.common import Parser, add_model_options, load, run
from hrun.cli.options import add_flags, whole_number

if TYPE_CHECKING:
    import numpy as np

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


class Mean:
    """Mean of values that come in pieces, and one standard error of it."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.sum_of_squares = 0.0

    def add(self, values: np.ndarray) -> None:
        self.count += len(values)
        self.sum += float(values.sum(dtype=float))
        self.sum_of_squares += float((values * values).sum(dtype=float))

    @property
    def mean(self) -> float:
        return self.sum / max(self.count, 1)

    @property
    def error(self) -> float:
        variance = self.sum_of_squares / max(self.count, 1) - self.mean**2
        return float((max(variance, 0.0) / max(self.count - 1, 1)) ** 0.5)


class Estimate:
    """Perplexity and its standard error from log-probabilities of the tokens that came."""

    def __init__(self) -> None:
        self.loss = Mean()  # negative log-likelihood per token, in nats

    def add(self, log_probabilities: np.ndarray) -> None:
        self.loss.add(-log_probabilities)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss.mean, 700.0))

    @property
    def error(self) -> float:
        """One standard error of the perplexity."""
        return self.loss.error * self.perplexity

    def __str__(self) -> str:
        return f"PPL = {self.perplexity:.4f} +/- {self.error:.5f}"


@dataclass(frozen=True)
class Block:
    """Some scored positions of a chunk: of each, float64 log-probabilities of all tokens [n, n_vocab], the token that came,
    and that token's log-probability."""

    chunk: int
    first: int  # counted from the chunk's first scored position
    rows: np.ndarray
    targets: list[int]
    ends_chunk: bool

    @property
    def came(self) -> np.ndarray:
        return self.rows[range(len(self.targets)), self.targets]


def scored(
    runtime: hrun.Runtime, tokens: Sequence[int], n_ctx: int, n_chunks: int
) -> Iterator[Block]:
    """The second half of each chunk, n_ctx - 1 - n_ctx // 2 positions, in blocks of at most 64 MiB of logits."""
    from hrun.predictions import blocks, log_softmax, logit_rows

    half = n_ctx // 2
    start = time.monotonic()
    for chunk in range(n_chunks):
        part = list(tokens[chunk * n_ctx : (chunk + 1) * n_ctx])
        targets = part[half + 1 :]
        if runtime.tokenizer.adds_bos and runtime.tokenizer.bos_id is not None:
            part[0] = runtime.tokenizer.bos_id
        step = logit_rows(runtime.n_vocab)
        for at in range(half, n_ctx - 1, step):
            logits = runtime.logits(part[: min(at + step, n_ctx - 1)], start=at)
            for some in blocks(len(logits), runtime.n_vocab):
                first = at - half + some.start
                rows = log_softmax(logits[some])
                wanted = targets[first : first + len(rows)]
                yield Block(chunk, first, rows, wanted, first + len(rows) == len(targets))
            del logits  # before the next ones are made
        if sys.stderr.isatty():
            left = (time.monotonic() - start) / (chunk + 1) * (n_chunks - chunk - 1)
            print(
                f"\r{chunk + 1}/{n_chunks} chunks, {left:.0f} s left \r",
                end="",
                file=sys.stderr,
                flush=True,
            )


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
