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
from pathlib import Path
from typing import TYPE_CHECKING

import hrun
from hrun.cli.common import Parser, add_model_options, add_version, load, run, whole_number

if TYPE_CHECKING:
    import numpy as np

_EPILOG = """\
The file of --kl-divergence-base is hrun's own: the tokens, and 16-bit log-probabilities of every scored position (2 bytes
per vocabulary entry and position).  llama.cpp's files of the same name are not read."""


def main(argv: Sequence[str] | None = None) -> int:
    parser = Parser(prog="hrun-perplexity", description=__doc__, epilog=_EPILOG)
    add_model_options(parser)
    add = parser.add_argument
    add(
        "-f",
        "--file",
        metavar="TEXT",
        help="the text; not needed with --kl-divergence, whose base file has the tokens",
    )
    add(
        "-c",
        "--ctx-size",
        type=whole_number(4),
        default=512,
        metavar="N",
        help="tokens per chunk (default 512)",
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
    add_version(parser)
    return run("hrun-perplexity", _main, parser, argv)


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
                Path(options.kl_divergence_base), runtime, tokens, options.ctx_size, n_chunks
            )
        try:
            estimate = Estimate()
            for chunk, targets, rows in scored_rows(runtime, tokens, options.ctx_size, n_chunks):
                estimate.add(rows[range(len(targets)), targets])
                if writer:
                    writer.add(rows)
                print(f"[{chunk + 1}]{estimate.perplexity:.4f},", end="", flush=True)
            print(f"\nFinal estimate: {estimate}")
            if writer:
                writer.finish()
        finally:
            if writer:
                writer.abandon()
    return 0


class Estimate:
    """Perplexity and its standard error from log-probabilities of the tokens that came."""

    def __init__(self) -> None:
        self.count = 0
        self.sum = 0.0
        self.sum_of_squares = 0.0

    def add(self, log_probabilities: np.ndarray) -> None:
        self.count += len(log_probabilities)
        self.sum -= float(log_probabilities.sum())
        self.sum_of_squares += float((log_probabilities**2).sum())

    @property
    def mean(self) -> float:
        """Negative log-likelihood per token, in nats."""
        return self.sum / max(self.count, 1)

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.mean, 700.0))

    @property
    def error(self) -> float:
        """One standard error of the perplexity."""
        variance = self.sum_of_squares / max(self.count, 1) - self.mean**2
        return (max(variance, 0.0) / max(self.count - 1, 1)) ** 0.5 * self.perplexity

    def __str__(self) -> str:
        return f"PPL = {self.perplexity:.4f} +/- {self.error:.5f}"


def scored_rows(
    runtime: hrun.Runtime, tokens: Sequence[int], n_ctx: int, n_chunks: int
) -> Iterator[tuple[int, list[int], np.ndarray]]:
    """For each chunk: its number, the tokens that came, and float64 log-probabilities [n_ctx - 1 - n_ctx // 2, n_vocab]."""
    first = n_ctx // 2
    start = time.monotonic()
    for chunk in range(n_chunks):
        part = list(tokens[chunk * n_ctx : (chunk + 1) * n_ctx])
        targets = part[first + 1 :]
        if runtime.tokenizer.adds_bos and runtime.tokenizer.bos_id is not None:
            part[0] = runtime.tokenizer.bos_id
        yield chunk, targets, log_softmax(runtime.logits(part[:-1], start=first))
        if sys.stderr.isatty():
            left = (time.monotonic() - start) / (chunk + 1) * (n_chunks - chunk - 1)
            print(
                f"\r{chunk + 1}/{n_chunks} chunks, {left:.0f} s left \r",
                end="",
                file=sys.stderr,
                flush=True,
            )


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row, in double precision."""
    import numpy as np

    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return shifted


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
