"""The distance between the predictions of two models: the base file of hrun-perplexity, and its statistics.

The base file: a line of JSON (format, context, vocabulary, chunks), the tokens as little-endian int32, then a row per
scored position, of float32 and int32: the lowest log-probability kept, the step, the probability of all that is not kept,
the log-probability of the token that came, the best token; and one uint16 per vocabulary entry, 0 for a token that is not
kept, else 1 + (log-probability - lowest) / step.  Tokens more than 16 nats below the best are not kept: in a divergence they
are one outcome.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import hrun
from hrun.cli.common import load
from hrun.cli.scoring import Estimate, Mean, scored
from hrun.convert.data_file import DataFile
from hrun.errors import printable
from hrun.outputs import PartialFile

_FORMAT = "hrun-logprobs-2"
_RANGE = 16.0  # nats
_STEPS = 65534
_HEADER_BYTES = 4096


def _row(n_vocab: int) -> np.dtype:
    return np.dtype([("low", "<f4"), ("step", "<f4"), ("rest", "<f4"), ("came", "<f4"), ("best", "<i4"),
                     ("codes", "<u2", (n_vocab,))])  # fmt: skip


class BaseWriter:
    """Writes under a temporary name; ``finish`` gives the file its name, ``abandon`` removes what is unfinished."""

    def __init__(
        self,
        path: Path,
        runtime: hrun.Runtime,
        tokens: Sequence[int],
        n_ctx: int,
        n_chunks: int,
        text: Path,
    ) -> None:
        self._partial = PartialFile(path, [runtime.model_path, text])
        self._file = open(self._partial.path, "wb")
        header = {
            "format": _FORMAT,
            "n_ctx": n_ctx,
            "n_vocab": runtime.n_vocab,
            "n_chunks": n_chunks,
            "model": str(runtime.model_path),
        }
        self._file.write(json.dumps(header).encode() + b"\n")
        self._file.write(np.asarray(tokens[: n_chunks * n_ctx], "<i4").tobytes())

    def add(self, rows: np.ndarray, came: np.ndarray) -> None:
        """Log-probabilities of the next positions, [positions, n_vocab], and of the tokens that came."""
        out = np.empty(len(rows), _row(rows.shape[1]))
        best = rows.max(axis=1)
        low = np.maximum(rows.min(axis=1), best - _RANGE)
        kept = rows >= low[:, None]
        out["low"], out["step"] = low, np.maximum(best - low, 1e-3) / _STEPS
        out["rest"] = np.exp(rows).sum(axis=1, where=~kept)
        out["came"] = came
        out["best"] = rows.argmax(axis=1)
        codes = np.rint((rows - out["low"][:, None]) / out["step"][:, None])
        out["codes"] = np.where(kept, codes.clip(0, _STEPS) + 1, 0)
        self._file.write(out.tobytes())

    def finish(self) -> None:
        self._file.close()
        self._partial.finish()

    def abandon(self) -> None:
        """Discards the file; does nothing after finish()."""
        try:
            self._file.close()
        except OSError:  # a full disk, again
            pass
        self._partial.discard()


@dataclass(frozen=True)
class BaseRows:
    """Some positions: log_p, p float64 [n, n_vocab], p 0 where a token is not kept; rest, came, best [n]."""

    log_p: np.ndarray
    p: np.ndarray
    rest: np.ndarray
    came: np.ndarray
    best: np.ndarray

    def divergence(self, log_q: np.ndarray) -> np.ndarray:
        """Returns the KL divergence of each position, in nats; all tokens that are not kept count
        as one outcome.
        """
        kept = self.p > 0
        terms = (self.log_p - log_q) * self.p
        other = np.exp(log_q).sum(axis=1, where=~kept)
        tiny = np.finfo(np.float64).tiny
        ratio = np.log(np.maximum(self.rest, tiny)) - np.log(np.maximum(other, tiny))
        out: np.ndarray = terms.sum(axis=1) + self.rest * ratio
        return out


class BaseFile:
    """A base file.  Raises ModelFileError if it is none, or was changed while being read."""

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
        except (ValueError, KeyError, TypeError, OverflowError):
            raise hrun.ModelFileError(
                f"{path} is no file of this version's hrun-perplexity --kl-divergence-base"
            ) from None
        self.n_rows = self.n_ctx - 1 - self.n_ctx // 2  # scored rows of a chunk
        sizes = (self.n_ctx, self.n_vocab, self.n_chunks)
        n_tokens = self.n_chunks * self.n_ctx
        self._data_at = len(line) + 4 * n_tokens
        self._row_bytes = 20 + 2 * self.n_vocab
        want = self._data_at + self._row_bytes * self.n_rows * self.n_chunks
        found = path.stat().st_size
        if self.n_ctx < 4 or min(sizes) < 1 or max(sizes) > 1 << 31 or found != want:
            raise hrun.ModelFileError(
                f"{path} has {found} bytes; {self.n_chunks} chunks of {self.n_ctx} take {want}"
            )
        self._path = path
        self._file = DataFile(path, str(path))
        self.tokens = self._file.read(len(line), (n_tokens,), "<i4").tolist()

    def rows(self, chunk: int, first: int, n: int) -> BaseRows:
        """`n` positions of a chunk from `first` on."""
        at = self._data_at + self._row_bytes * (chunk * self.n_rows + first)
        data = self._file.read(at, (n,), _row(self.n_vocab))
        codes = data["codes"]
        log_p = codes.astype(np.float64)
        log_p -= 1
        log_p *= data["step"][:, None]
        log_p += data["low"][:, None]
        with np.errstate(all="ignore"):
            p = np.where(codes > 0, np.exp(log_p), 0.0)
            # Rounding leaves the sum a little off, which would be the largest error of a divergence.
            scale = (1 - data["rest"].astype(np.float64)) / p.sum(axis=1)
        if not ((data["rest"] >= 0) & (scale > 0) & np.isfinite(scale)).all():
            raise hrun.ModelFileError(
                f"{self._path}: row {first} or later of chunk {chunk} is no distribution"
            )
        p *= scale[:, None]
        log_p += np.log(scale)[:, None]
        return BaseRows(
            log_p, p, data["rest"].astype(np.float64), data["came"].astype(np.float64), data["best"]
        )


class Comparison:
    """Running figures of a comparison; per scored position where percentiles are wanted."""

    def __init__(self) -> None:
        self.base, self.own = Estimate(), Estimate()
        self.log_ratio = Mean()  # of the token that came: base - own, in nats
        self.divergence = Mean()
        self.same_top = Mean()
        self._divergences: list[np.ndarray] = []
        self._changes: list[np.ndarray] = []

    def add(self, base: BaseRows, rows: np.ndarray, came: np.ndarray) -> None:
        """Log-probabilities of the model for the positions of `base`, and of the tokens that came."""
        self.base.add(base.came)
        self.own.add(came)
        self.log_ratio.add(base.came - came)
        self.same_top.add((rows.argmax(axis=1) == base.best).astype(np.float64))
        self._divergences.append(base.divergence(rows))
        self.divergence.add(self._divergences[-1])
        self._changes.append(np.exp(came) - np.exp(base.came))

    @property
    def divergences(self) -> np.ndarray:
        return np.concatenate(self._divergences)

    @property
    def changes(self) -> np.ndarray:
        """The changes of the probability of the token that came."""
        return np.concatenate(self._changes)


def compare(options: argparse.Namespace) -> int:
    """hrun-perplexity --kl-divergence."""
    base = BaseFile(Path(options.kl_divergence_base))
    n_chunks = base.n_chunks if options.chunks < 0 else min(base.n_chunks, options.chunks)
    if n_chunks == 0:
        raise hrun.ArgumentError("there are no chunks to compare")
    with load(options, base.n_ctx) as runtime:
        if runtime.n_vocab != base.n_vocab:
            raise hrun.ArgumentError(
                f"{printable(options.kl_divergence_base)} is of a vocabulary of {base.n_vocab} tokens, "
                f"the model has {runtime.n_vocab}"
            )
        print(
            "chunk             PPL               ln(PPL(Q)/PPL(base))          KL Divergence              Same top p"
        )
        result = Comparison()
        for block in scored(runtime, base.tokens, base.n_ctx, n_chunks):
            result.add(base.rows(block.chunk, block.first, len(block.rows)), block.rows, block.came)
            if block.ends_chunk:
                print(_progress(block.chunk + 1, result), flush=True)
    print(_report(result))
    return 0


def _progress(chunk: int, c: Comparison) -> str:
    return (
        f"{chunk:4}  {c.own.perplexity:12.4f} ± {c.own.error:9.4f}   "
        f"{c.log_ratio.mean:10.5f} ± {c.log_ratio.error:9.5f}   "
        f"{c.divergence.mean:10.5f} ± {c.divergence.error:9.5f}   "
        f"{100 * c.same_top.mean:6.3f} ± {100 * c.same_top.error:.3f} %"
    )


def _report(c: Comparison) -> str:
    ratio, kld, change = c.log_ratio, c.divergences, c.changes
    quotient = float(np.exp(ratio.mean))
    lines = [
        "",
        "====== Perplexity statistics ======",
        f"Mean PPL(Q)                   : {c.own.perplexity:10.6f} ± {c.own.error:10.6f}",
        f"Mean PPL(base)                : {c.base.perplexity:10.6f} ± {c.base.error:10.6f}",
        f"Mean ln(PPL(Q)/PPL(base))     : {ratio.mean:10.6f} ± {ratio.error:10.6f}",
        f"Mean PPL(Q)/PPL(base)         : {quotient:10.6f} ± {quotient * ratio.error:10.6f}",
        f"Mean PPL(Q)-PPL(base)         : {c.own.perplexity - c.base.perplexity:10.6f}",
        "",
        "====== KL divergence statistics ======",
        f"Mean    KLD: {c.divergence.mean:10.6f} ± {c.divergence.error:10.6f}",
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
        f"Same top p: {100 * c.same_top.mean:6.3f} ± {100 * c.same_top.error:5.3f} %",
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
