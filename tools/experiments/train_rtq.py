"""Trains and compares the codes of RTQ2 to RTQ6 (cpp/formats/rtq.h), decoded from a sliding window of k-bit codes.

A candidate is a sum of small tables.  Table i of 2^b entries is indexed by b bits, each the exclusive or of some bits of
the window (the last few codes, c0 the newest).  Training alternates a Viterbi search over blocks of 256 N(0,1)
values (state 0 before the block) with a least-squares fit of all tables together, from many starts with random
perturbations in between; the sums of small tables have many poor local optima, which is why single Lloyd runs mislead by
10 %.  Everything is seeded: the same arguments give the same tables on one machine type.

  python tools/experiments/train_rtq.py --bits 3            the comparison (README.md has its output)
  python tools/experiments/train_rtq.py --bits 3 --freeze   train the chosen code, round to int8, enter it in rtq_tables.json
  python tools/experiments/train_rtq.py --code NAME         one candidate

Needs numpy and a C++ compiler.  Relative MSE is printed with its standard error over blocks.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
BLOCK = 256
CHOSEN = {
    2: "2x16, (c0^c4)c1 c2c3",
    3: "3x8, c0^c3 c1 c2",
    4: "2x16, c0^c2 c1",
    5: "2x32, c0^c2 c1",
    6: "2x16, c0^c2 c1 of the lower four bits, 4 by the upper two",
}


def code_bits(*lags: int, k: int = 3) -> list[int]:
    """Masks of the k bits of the exclusive or of the codes c_lag."""
    return [sum(1 << (k * lag + bit) for lag in lags) for bit in range(k)]


def bits(*positions: int) -> list[int]:
    """Masks of single window bits; bit 0 is the lowest bit of the newest code."""
    return [1 << p for p in positions]


@dataclass(frozen=True)
class Candidate:
    """One code: its name and, per table, the masks of its index bits (lowest first).  `start` names a code with a smaller
    window and tables of the same sizes, whose trained tables are one more start.  `free`: so many of the upper bits of a code
    are read by its own value alone; the search takes the best of them without a state for it."""

    name: str
    tables: tuple[list[int], ...]
    start: str = ""
    k: int = 3
    free: int = 0

    @property
    def window_bits(self) -> int:
        """Of the bits that states are made of."""
        top = max(mask.bit_length() for table in self.tables for mask in table)
        return max(top if self.free == 0 else -(-top // self.k) * self.lower, 2 * self.lower)

    @property
    def lower(self) -> int:
        return self.k - self.free

    @property
    def states(self) -> int:
        return 1 << (self.window_bits - self.lower)

    def features(self) -> np.ndarray:
        """[1 << free + window_bits, table entries] one-hot rows: value of a window = features @ entries."""
        number = np.arange(1 << self.free + self.window_bits)
        window = number >> self.window_bits << self.lower  # the code's free bits
        for lag in range(self.window_bits // self.lower):
            code = number >> self.lower * lag & (1 << self.lower) - 1
            window |= code << self.k * lag
        columns = []
        for table in self.tables:
            index = sum(parity(window & mask) << i for i, mask in enumerate(table))
            columns.append(np.eye(1 << len(table))[index])
        return np.concatenate(columns, axis=1)


def parity(x: np.ndarray) -> np.ndarray:
    for shift in (8, 4, 2, 1):
        x = x ^ (x >> shift)
    return x & 1


def of_pairs(name: str, *tables: list[tuple[int, ...]]) -> Candidate:
    """A code of 2 bits; each table is read by several codes, the last in the lowest bits, each the xor of some lags."""
    return Candidate(
        name,
        tuple([m for lags in reversed(codes) for m in code_bits(*lags, k=2)] for codes in tables),
        k=2,
    )


def lower_bits(*lags: int) -> list[int]:
    """Masks of the lower four of the six bits of the exclusive or of the codes c_lag."""
    return code_bits(*lags, k=6)[:4]


def lower_four(name: str, own: Sequence[list[int]] = (), newest: Sequence[int] = ()) -> Candidate:
    """A code of 6 bits; the lower four go on as those of RTQ4 do, the upper two are read by tables of `own` or, bit by bit, by
    that of the newest code."""
    tables = (lower_bits(0, 2) + bits(*newest), lower_bits(1), *own)
    return Candidate(name, tables, k=6, free=2)


SUM_OF_THREE = "3x8, c0 c1 c2"
CANDIDATES = [
    Candidate(SUM_OF_THREE, (code_bits(0), code_bits(1), code_bits(2))),
    Candidate("4x8, c0 c1 c2 c3", (code_bits(0), code_bits(1), code_bits(2), code_bits(3))),
    Candidate("2x16, low and high 4 of 8 bits", (bits(0, 1, 2, 3), bits(4, 5, 6, 7))),
    Candidate(
        "3x16, nibbles at lags 0 1 2, 10 bits",
        (bits(0, 1, 2, 3), bits(3, 4, 5, 6), bits(6, 7, 8, 9)),
    ),
    Candidate(
        "3x16, low, middle, high 4 of 12 bits",
        (bits(0, 1, 2, 3), bits(4, 5, 6, 7), bits(8, 9, 10, 11)),
    ),
    Candidate("1x256, 8 bits", (bits(*range(8)),)),
    Candidate("1x512, 9 bits", (bits(*range(9)),)),
    Candidate("2x64, overlapping pairs of codes", (bits(*range(6)), bits(*range(3, 9)))),
    Candidate("2x8, c0^c2 c1", (code_bits(0, 2), code_bits(1))),
    Candidate("2x8, c0^c2^c3 c1^c2", (code_bits(0, 2, 3), code_bits(1, 2)), "2x8, c0^c2 c1"),
    Candidate("1x64, c0^c2^c3 and c1^c2", (code_bits(0, 2, 3) + code_bits(1, 2),)),
    Candidate("3x8, c0 c1 c2^c3", (code_bits(0), code_bits(1), code_bits(2, 3)), SUM_OF_THREE),
    Candidate("3x8, c0^c3 c1 c2", (code_bits(0, 3), code_bits(1), code_bits(2)), SUM_OF_THREE),
    Candidate(
        "3x8, c0^c3 c1 c1^c2", (code_bits(0, 3), code_bits(1), code_bits(1, 2)), SUM_OF_THREE
    ),
    of_pairs("4x4, c0^c4 c1 c2 c3", [(0, 4)], [(1,)], [(2,)], [(3,)]),
    of_pairs("3x16, c0c1 c1c2 c2c3", [(0,), (1,)], [(1,), (2,)], [(2,), (3,)]),
    of_pairs("2x16, (c0^c4)c1 c2c3", [(0, 4), (1,)], [(2,), (3,)]),
    of_pairs("2x16, (c0^c3)(c1^c4) c1c2", [(0, 3), (1, 4)], [(1,), (2,)]),
    of_pairs("2x16, (c0^c3)(c1^c4) c2c3", [(0, 3), (1, 4)], [(2,), (3,)]),
    of_pairs("2x16, (c0^c4)c2 c1c3", [(0, 4), (2,)], [(1,), (3,)]),
    of_pairs("2x16, (c0^c4)c3 c1c2", [(0, 4), (3,)], [(1,), (2,)]),
    of_pairs("3x16, (c0^c4)c1 c1c2 c2c3", [(0, 4), (1,)], [(1,), (2,)], [(2,), (3,)]),
    of_pairs("1x256, (c0^c4)c1c2c3", [(0, 4), (1,), (2,), (3,)]),
    of_pairs("2x16, (c0^c4)(c1^c5) c2c3", [(0, 4), (1, 5)], [(2,), (3,)]),
    of_pairs("2x16, (c0^c4)(c1^c5) c1c2", [(0, 4), (1, 5)], [(1,), (2,)]),
    of_pairs("3x16, (c0^c5)c1 c1c2 c3c4", [(0, 5), (1,)], [(1,), (2,)], [(3,), (4,)]),
    of_pairs("3x16, (c0^c4)(c1^c5) c2c3 c3c4", [(0, 4), (1, 5)], [(2,), (3,)], [(3,), (4,)]),
    of_pairs("2x64, (c0^c4)(c1^c5)c1 c2c3c4", [(0, 4), (1, 5), (1,)], [(2,), (3,), (4,)]),
    Candidate("2x16, c0 c1", (code_bits(0, k=4), code_bits(1, k=4)), k=4),
    Candidate("2x16, c0^c2 c1", (code_bits(0, 2, k=4), code_bits(1, k=4)), k=4),
    Candidate("2x16, c0^c2 c1^c2", (code_bits(0, 2, k=4), code_bits(1, 2, k=4)), k=4),
    Candidate(
        "3x16, c0^c2 c1 halves of both",
        (code_bits(0, 2, k=4), code_bits(1, k=4), bits(2, 3, 4, 5)),
        k=4,
    ),
    Candidate("1x256, (c0^c2)c1", (code_bits(0, 2, k=4) + code_bits(1, k=4),), k=4),
    Candidate(
        "3x16, c0^c3 c1 c2", (code_bits(0, 3, k=4), code_bits(1, k=4), code_bits(2, k=4)), k=4
    ),
    Candidate("2x32, c0^c2 c1", (code_bits(0, 2, k=5), code_bits(1, k=5)), k=5),
    lower_four("2x16, c0^c2 c1 of the lower four bits, 4 by the upper two", own=[bits(4, 5)]),
    lower_four("16 by c1, 64 by c0^c2 and the upper two", newest=[4, 5]),
    lower_four(
        "2x16, c0^c2 c1 of the lower four bits, 16 by c0^c2 and the upper two",
        own=[lower_bits(0, 2)[:2] + bits(4, 5)],
    ),
    lower_four(
        "2x16, c0^c2 c1 of the lower four bits, 16 by c1 and the upper two",
        own=[lower_bits(1)[:2] + bits(4, 5)],
    ),
]


def named(name: str) -> Candidate:
    return next(c for c in CANDIDATES if c.name == name)  # names differ between k


class PathSearch:
    """The compiled helper."""

    def __init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / "viterbi_stats.so"
            subprocess.run(
                [
                    "g++",
                    "-O3",
                    "-march=native",
                    "-ffp-contract=off",
                    "-shared",
                    "-fPIC",
                    str(HERE / "viterbi_stats.cpp"),
                    "-o",
                    str(library),
                ],
                check=True,
            )
            self._run = ctypes.CDLL(str(library)).viterbi_stats
        self._run.restype = ctypes.c_double

    def __call__(
        self, source: np.ndarray, value: np.ndarray, k: int, free: int = 0
    ) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
        """source float32 [blocks, 256], value [1 << free, windows of codes of k bits] -> squared error, count and sum per window, chosen windows."""
        windows = int(value.size)
        padded = np.empty(windows + 16, np.float32)
        start = (-padded.ctypes.data // 4) % 16  # 64-byte alignment
        aligned = padded[start : start + windows]
        aligned[:] = value
        source = np.ascontiguousarray(source, np.float32)
        count, total = np.zeros(windows), np.zeros(windows)
        chosen = np.zeros(source.shape, np.int32)
        address = [ctypes.c_void_p(a.ctypes.data) for a in (source, aligned, count, total, chosen)]
        error = self._run(
            address[0],
            ctypes.c_int64(source.shape[0]),
            source.shape[1],
            address[1],
            k,
            windows.bit_length() - 1 - free,
            1 << free,
            *address[2:],
        )
        return error, count, total, chosen


def gaussian(seed: int, blocks: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((blocks, BLOCK)).astype(np.float32)


Search = Callable[[np.ndarray, np.ndarray], tuple[float, np.ndarray, np.ndarray, np.ndarray]]


class Trainer:
    def __init__(self, search: PathSearch, candidate: Candidate, effort: float) -> None:
        self.search = lambda source, value: search(source, value, candidate.lower, candidate.free)
        self.features = candidate.features()
        self.sizes = [1 << len(t) for t in candidate.tables]
        big = candidate.states > 64
        fewer = 2 if candidate.free else 1  # more starts of less each: their luck counts most
        self.small_set = gaussian(1, (48 if big else 96) // fewer)
        self.large_set = gaussian(2, (256 if big else 512) // fewer)
        self.start = (
            Trainer(search, named(candidate.start), effort).train() if candidate.start else None
        )
        self.starts = round((24 if big else 60) * effort)
        self.hops = round((24 if big else 80) * effort)

    def lloyd(
        self, entries: np.ndarray, source: np.ndarray, rounds: int
    ) -> tuple[float, np.ndarray]:
        """Rounds of search and fit; the error is that of the last search, before its fit."""
        error = np.inf
        f = self.features
        for _ in range(rounds):
            error, count, total, _ = self.search(source, f @ entries)
            ridge = 1e-2 * np.eye(entries.size)  # the tables' common offsets are undetermined
            entries = np.linalg.solve(
                f.T @ (count[:, None] * f) + ridge, f.T @ total + 1e-2 * entries
            )
        return error / source.size, entries

    def train(self) -> np.ndarray:
        rng = np.random.default_rng(7)
        f = self.features
        best = (np.inf, np.zeros(f.shape[1]))
        if self.start is not None:
            best = self.lloyd(self.start, self.small_set, 10)
        for _ in range(self.starts):
            entries = rng.standard_normal(f.shape[1]) * rng.uniform(
                0.3, 1.5, len(self.sizes)
            ).repeat(self.sizes)
            value = f @ entries
            entries = np.linalg.lstsq(f, (value - value.mean()) / value.std(), rcond=None)[0]
            best = min(best, self.lloyd(entries, self.small_set, 10), key=lambda t: t[0])
        best = self.lloyd(best[1], self.large_set, 5)
        for _ in range(self.hops):
            entries = best[1] + rng.standard_normal(f.shape[1]) * rng.choice([0.03, 0.08, 0.2])
            _, entries = self.lloyd(entries, self.small_set, 4)
            best = min(best, self.lloyd(entries, self.large_set, 4), key=lambda t: t[0])
        entries = best[1]
        for i in range(8):  # fresh values, so that the fit is not to one sample
            _, entries = self.lloyd(
                entries, np.concatenate([self.large_set, gaussian(100 + i, len(self.large_set))]), 1
            )
        return entries

    def round_to_int(
        self, entries: np.ndarray, largest: int, stretch: float = 1.0
    ) -> tuple[np.ndarray, float]:
        """Integer entries whose sums stay within +-largest, and the scale: entries ~ integers / scale.

        Coordinate descent on the quadratic error of the search statistics, between searches.  A stretch above 1 makes steps
        finer, at the price of the farthest levels, which are brought within the bound."""
        f = self.features
        value = f @ entries
        entries = np.linalg.lstsq(f, value, rcond=None)[0]
        scale = stretch * (largest - 1) / np.abs(value).max()
        integers = np.round(entries * scale)
        for _ in range(6):
            _, count, total, _ = self.search(self.large_set, f @ integers / scale)
            gram, right = f.T @ (count[:, None] * f), f.T @ total * scale
            for _ in range(20):
                gradient = gram @ integers - right
                step = np.round(-gradient / np.maximum(np.diag(gram), 1e-9))
                gain = step * gradient + 0.5 * step**2 * np.diag(gram)
                i = int(np.argmin(gain))
                if gain[i] >= 0:
                    break
                integers[i] += step[i]
            if stretch == 1.0 and np.abs(f @ integers).max() > largest:
                scale *= 0.99
                integers = np.round(entries * scale)
            self.pull_in(integers, largest)
        return integers, scale

    def pull_in(self, integers: np.ndarray, largest: int) -> None:
        """Brings the sums within +-largest, the largest entry of the farthest sum first."""
        while np.abs(sums := self.features @ integers).max() > largest:
            parts = np.nonzero(self.features[np.abs(sums).argmax()])[0]
            integers[parts[np.abs(integers[parts]).argmax()]] -= np.sign(
                sums[np.abs(sums).argmax()]
            )

    def polish(self, integers: np.ndarray, scale: float, largest: int) -> tuple[np.ndarray, float]:
        """Small steps of the scale and of single entries, each kept if a search has less error for it, until none has."""
        f, source = self.features, self.large_set

        def error(at: float) -> float:
            return self.search(source, f @ integers / at)[0]

        best = np.inf
        while (now := error(scale)) < best:
            best = now
            for other in (0.985 * scale, 1.015 * scale):
                if (found := error(other)) < best:
                    best, scale = found, other
            for i in range(integers.size):
                for step in (1, -1):
                    integers[i] += step
                    if np.abs(f @ integers).max() <= largest and (found := error(scale)) < best:
                        best = found
                        break
                    integers[i] -= step
        return integers, scale


def measure(
    search: Search, value: np.ndarray, blocks: int, std: float = 1.0, fit_scale: bool = False
) -> tuple[float, float]:
    """Relative MSE on fresh N(0, std^2) blocks, and its standard error; fit_scale: two least-squares scale updates."""
    x = gaussian(999, blocks) * np.float32(std)
    scale = np.ones((blocks, 1), np.float32)
    errors = np.full(blocks, np.inf)
    for _ in range(3 if fit_scale else 1):
        z = value[search(x / scale, value)[3]]
        errors = np.minimum(errors, ((x - scale * z) ** 2).mean(axis=1))
        scale = ((x * z).sum(axis=1) / (z * z).sum(axis=1))[:, None].astype(np.float32)
    return float(errors.mean()) / std**2, float(errors.std() / np.sqrt(blocks)) / std**2


def compare(search: PathSearch, k: int, names: list[str], effort: float) -> None:
    print(
        "| code | window | states | MSE | block scale fitted | source 1.2 x wider | largest value |\n|---|---|---|---|---|---|---|"
    )
    for candidate in CANDIDATES:
        if candidate.name not in names if names else candidate.k != k:
            continue
        trainer = Trainer(search, candidate, effort)
        value = trainer.features @ trainer.train()
        (mse, noise), (fitted, _), (wide, _) = (
            measure(trainer.search, value, 512),
            measure(trainer.search, value, 512, fit_scale=True),
            measure(trainer.search, value, 512, std=1.2),
        )
        print(
            f"| {candidate.name} | {candidate.window_bits} | {candidate.states} | {mse:.5f} +- {noise:.5f} "
            f"| {fitted:.5f} | {wide:.5f} | {np.abs(value).max():.2f} |",
            flush=True,
        )


def freeze(compiled: PathSearch, k: int, effort: float) -> None:
    candidate = named(CHOSEN[k])
    trainer = Trainer(compiled, candidate, effort)
    search = trainer.search
    entries = trainer.train()
    blocks = 2048 if k < 5 else 512
    report: dict[str, object] = {
        "version": 1,
        "code": candidate.name,
        "mse_float": measure(search, trainer.features @ entries, blocks),
    }
    # 7 bits rather than 8: an unsigned 7-bit level times an int8 cannot saturate x86's pairwise int16 sums.
    for largest in (127, 63):
        # At 6 bits steps of one are no longer small beside the error.
        tried = [
            trainer.round_to_int(entries, largest, stretch)
            for stretch in ((1.0,) if k < 6 else (1.0, 1.1, 1.2, 1.3))
        ]
        integers, scale = min(
            tried, key=lambda t: search(trainer.large_set, trainer.features @ t[0] / t[1])[0]
        )
        if k == 6 and largest == 63:
            integers, scale = trainer.polish(integers, scale, largest)
        levels = trainer.features @ integers
        report[f"mse_at_most_{largest}"] = measure(search, levels / scale, blocks)
        report[f"mse_at_most_{largest}_scale_fitted"] = measure(
            search, levels / scale, blocks, fit_scale=True
        )
    source = gaussian(999, blocks)
    z = levels[search(source, levels / scale)[3]]
    report |= {
        "scale": scale,
        "level_rms": float(np.sqrt((z**2).mean())),
        "largest": int(np.abs(levels).max()),
    }
    report["index_bits"] = [list(masks) for masks in candidate.tables]
    report["tables"] = [
        t.astype(int).tolist() for t in np.split(integers, np.cumsum(trainer.sizes)[:-1])
    ]
    path = HERE / "rtq_tables.json"
    codes = json.loads(path.read_text()) | {f"rtq{k}": report}
    text = json.dumps(dict(sorted(codes.items())), indent=1)
    text = re.sub(
        r"\[[\s\d.,e-]+\]", lambda m: " ".join(m.group().split()), text
    )  # one line per list of numbers
    path.write_text(text + "\n")
    print(json.dumps(report))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bits", type=int, choices=sorted(CHOSEN), default=3)
    parser.add_argument(
        "--freeze",
        action="store_true",
        help="train the chosen code and enter it in rtq_tables.json",
    )
    parser.add_argument("--code", action="append", default=[], help="compare only this candidate")
    parser.add_argument(
        "--effort", type=float, default=1.0, help="factor on the number of starts and perturbations"
    )
    args = parser.parse_args()
    search = PathSearch()
    if args.freeze:
        freeze(search, args.bits, args.effort)
    else:
        compare(search, args.bits, args.code, args.effort)


if __name__ == "__main__":
    main()
