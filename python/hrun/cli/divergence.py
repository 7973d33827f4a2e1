"""The distance between the predictions of two models: the base file of hrun-perplexity, and its statistics.

The base file: a line of JSON (format, context, vocabulary, chunks, whether the first token of a chunk is BOS), the tokens
as little-endian int32, then per scored position the lowest log-probability and the step (float32 each) and one uint16 per
vocabulary entry.  Log-probabilities more than 16 nats below the best are stored as 16 below, as llama.cpp does.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hrun
from hrun.cli.common import load
from hrun.cli.perplexity import Estimate, scored_rows
from hrun.errors import printable

_FORMAT = "hrun-logprobs-1"
_RANGE = 16.0  # nats
_HEADER_BYTES = 4096


class BaseWriter:
    """Writes under a temporary name; ``finish`` gives the file its name, ``abandon`` removes what is unfinished."""

    def __init__(
        self, path: Path, runtime: hrun.Runtime, tokens: Sequence[int], n_ctx: int, n_chunks: int
    ) -> None:
        self._path = path
        self._partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
        self._file = open(self._partial, "wb")
        header = {
            "format": _FORMAT,
            "n_ctx": n_ctx,
            "n_vocab": runtime.n_vocab,
            "n_chunks": n_chunks,
            "model": str(runtime.model_path),
        }
        self._file.write(json.dumps(header).encode() + b"\n")
        self._file.write(np.asarray(tokens[: n_chunks * n_ctx], "<i4").tobytes())

    def add(self, rows: np.ndarray) -> None:
        """The log-probabilities of one chunk, [positions, n_vocab]."""
        low = np.maximum(rows.min(axis=1), rows.max(axis=1) - _RANGE).astype("<f4")
        step = ((rows.max(axis=1) - low) / 65535).astype("<f4")
        codes = (
            np.rint((rows - low[:, None]) / np.maximum(step, 1e-30)[:, None])
            .clip(0, 65535)
            .astype("<u2")
        )
        for i in range(len(rows)):
            self._file.write(low[i].tobytes() + step[i].tobytes() + codes[i].tobytes())

    def finish(self) -> None:
        self._file.close()
        self._partial.replace(self._path)

    def abandon(self) -> None:
        """After finish(), nothing."""
        self._file.close()
        self._partial.unlink(missing_ok=True)


class BaseFile:
    """A base file, mapped.  Raises ModelFileError if it is none."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            line = file.readline(_HEADER_BYTES)
        try:
            header = json.loads(line)
            if header["format"] != _FORMAT:
                raise ValueError
            self.n_ctx, self.n_vocab, self.n_chunks = (
                int(header[k]) for k in ("n_ctx", "n_vocab", "n_chunks")
            )
        except (ValueError, KeyError, TypeError):
            raise hrun.ModelFileError(
                f"{path} is no file of hrun-perplexity --kl-divergence-base"
            ) from None
        self.rows = self.n_ctx - 1 - self.n_ctx // 2
        n_tokens = self.n_chunks * self.n_ctx
        row = np.dtype([("low", "<f4"), ("step", "<f4"), ("codes", "<u2", (max(self.n_vocab, 1),))])
        want = len(line) + 4 * n_tokens + row.itemsize * self.rows * self.n_chunks
        found = path.stat().st_size
        if self.n_ctx < 4 or self.n_vocab < 1 or self.n_chunks < 1 or found != want:
            raise hrun.ModelFileError(
                f"{path} has {found} bytes; {self.n_chunks} chunks of {self.n_ctx} take {want}"
            )
        self.tokens = np.fromfile(path, "<i4", n_tokens, offset=len(line)).tolist()
        self._data = np.memmap(
            path, row, "r", offset=len(line) + 4 * n_tokens, shape=(self.n_chunks, self.rows)
        )

    def chunk(self, number: int) -> np.ndarray:
        """float64 log-probabilities [positions, n_vocab]."""
        part = self._data[number]
        rows = part["low"][:, None].astype(np.float64) + part["step"][:, None] * part[
            "codes"
        ].astype(np.float64)
        # Rounding leaves the sum of the probabilities a little off 1, which would be the largest error of a divergence.
        return rows - np.log(np.exp(rows).sum(axis=1, keepdims=True))


@dataclass
class Comparison:
    """Per scored position: KL divergence, change of the probability of the token that came, equal favourites."""

    base: Estimate
    own: Estimate
    divergence: np.ndarray
    change: np.ndarray
    log_ratio: np.ndarray  # of the token that came: own - base, in nats
    same_top: np.ndarray


def compare(options: argparse.Namespace) -> int:
    """hrun-perplexity --kl-divergence."""
    base = BaseFile(Path(options.kl_divergence_base))
    n_chunks = base.n_chunks if options.chunks < 0 else min(base.n_chunks, options.chunks)
    with load(options, base.n_ctx) as runtime:
        if runtime.n_vocab != base.n_vocab:
            raise hrun.ArgumentError(
                f"{printable(options.kl_divergence_base)} is of a vocabulary of {base.n_vocab} tokens, "
                f"the model has {runtime.n_vocab}"
            )
        print(
            "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Same top p"
        )
        own_estimate, base_estimate = Estimate(), Estimate()
        parts: list[tuple[np.ndarray, ...]] = []
        for chunk, targets, rows in scored_rows(runtime, base.tokens, base.n_ctx, n_chunks):
            reference = base.chunk(chunk)
            came = (range(len(targets)), targets)
            own, theirs = rows[came], reference[came]
            own_estimate.add(own)
            base_estimate.add(theirs)
            parts.append((
                (np.exp(reference) * (reference - rows)).sum(axis=1),
                np.exp(own) - np.exp(theirs),
                own - theirs,
                rows.argmax(axis=1) == reference.argmax(axis=1),
            ))  # fmt: skip
            result = Comparison(
                base_estimate, own_estimate, *(np.concatenate(column) for column in zip(*parts))
            )
            print(_progress(chunk + 1, result), flush=True)
    if not parts:
        raise hrun.ArgumentError("there are no chunks to compare")
    print(_report(result))
    return 0


def _progress(chunk: int, c: Comparison) -> str:
    ratio, kld = -c.log_ratio, c.divergence
    top, top_error = _share(c.same_top)
    return (
        f"{chunk:4}  {c.own.perplexity:12.4f} ± {c.own.error:9.4f}   {ratio.mean():10.5f} ± {_error(ratio):9.5f}   "
        f"{kld.mean():10.5f} ± {_error(kld):9.5f}   {100 * top:6.3f} ± {100 * top_error:.3f} %"
    )


def _report(c: Comparison) -> str:
    ratio, kld, change = -c.log_ratio, c.divergence, c.change
    top, top_error = _share(c.same_top)
    quotient = float(np.exp(ratio.mean()))
    lines = [
        "",
        "====== Perplexity statistics ======",
        f"Mean PPL(Q)                   : {c.own.perplexity:10.6f} ± {c.own.error:10.6f}",
        f"Mean PPL(base)                : {c.base.perplexity:10.6f} ± {c.base.error:10.6f}",
        f"Mean ln(PPL(Q)/PPL(base))     : {ratio.mean():10.6f} ± {_error(ratio):10.6f}",
        f"Mean PPL(Q)/PPL(base)         : {quotient:10.6f} ± {quotient * _error(ratio):10.6f}",
        f"Mean PPL(Q)-PPL(base)         : {c.own.perplexity - c.base.perplexity:10.6f}",
        "",
        "====== KL divergence statistics ======",
        f"Mean    KLD: {kld.mean():10.6f} ± {_error(kld):10.6f}",
        f"Maximum KLD: {kld.max():10.6f}",
        *(f"{name:7} KLD: {np.percentile(kld, q):10.6f}" for name, q in _PERCENTILES),
        f"Minimum KLD: {kld.min():10.6f}",
        "",
        "====== Token probability statistics ======",
        f"Mean    Δp: {100 * change.mean():6.3f} ± {100 * _error(change):5.3f} %",
        f"Maximum Δp: {100 * change.max():6.3f}%",
        *(f"{name:7} Δp: {100 * np.percentile(change, q):6.3f}%" for name, q in _PERCENTILES),
        f"Minimum Δp: {100 * change.min():6.3f}%",
        f"RMS Δp    : {100 * float(np.sqrt((change**2).mean())):6.3f} ± {100 * _rms_error(change):5.3f} %",
        f"Same top p: {100 * top:6.3f} ± {100 * top_error:5.3f} %",
    ]
    return "\n".join(lines)


_PERCENTILES = (("99.9%", 99.9), ("99.0%", 99.0), ("95.0%", 95.0), ("90.0%", 90.0), ("Median", 50.0), ("10.0%", 10.0),
                ("5.0%", 5.0), ("1.0%", 1.0), ("0.1%", 0.1))  # fmt: skip


def _error(values: np.ndarray) -> float:
    """One standard error of the mean."""
    return float(values.std() / max(len(values) - 1, 1) ** 0.5)


def _rms_error(values: np.ndarray) -> float:
    mean_square = float((values**2).mean())
    return 0.0 if mean_square == 0 else 0.5 * _error(values**2) / mean_square**0.5


def _share(flags: np.ndarray) -> tuple[float, float]:
    share = float(flags.mean())
    return share, (share * (1 - share) / max(len(flags) - 1, 1)) ** 0.5
