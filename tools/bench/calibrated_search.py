"""Weights per second and output error of the calibrated search, for numbers of survivors.

    python tools/bench/calibrated_search.py [--formats rtq3 rtq4] [--survivors 24 144] [--cols 576] [--rows 64]
    python tools/bench/calibrated_search.py --source model.gguf --moments moments.npz --tensors blk.3.ffn_down.weight

The moments are those of a file that `hrun-convert --save-moments` wrote, and the rows the first of each tensor of the source; without a
source, random rows against correlated inputs.  Each search goes through the same rows in turn, some times; the fastest of its runs counts,
in processor time of one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from hrun import _core
from hrun.convert import open_source
from hrun.convert.moments import MomentFile


def made_up(cols: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows, and moments of inputs that are smooth along the columns and of uneven power."""
    random = np.random.default_rng(0)
    x = random.standard_normal((4 * cols, cols + 8), dtype=np.float32)
    x = sum(x[:, i : i + cols] for i in range(8)) * random.lognormal(0, 1, cols)
    moments = (x.T @ x / len(x)).astype(np.float32)
    return random.standard_normal((rows, cols)).astype(np.float32), moments[None]


def problems(args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    if args.source is None:
        for cols in args.cols:
            yield f"{cols} columns", *made_up(cols, args.rows)
        return
    tensors = {t.name: t for t in open_source(args.source).tensors}
    moments = MomentFile(args.moments)
    for name in args.tensors:
        found = moments.of(name)
        if found is None:
            raise SystemExit(f"{args.moments}: nothing about {name}")
        yield name, tensors[name].read_rows(0, min(args.rows, tensors[name].rows)), found.values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--formats", nargs="+", default=["rtq3", "rtq4"])
    parser.add_argument("--survivors", nargs="+", type=int, default=[24, 144])
    parser.add_argument("--cols", nargs="+", type=int, default=[576])
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--source", type=Path)
    parser.add_argument("--moments", type=Path)
    parser.add_argument("--tensors", nargs="+", default=[])
    parser.add_argument("--scale", type=float, default=1.02)
    parser.add_argument("--damping", type=float, default=0.005)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    print("| what | format | survivors | weights/s, M | relative error |\n|---|---|---|--:|--:|")
    for what, weights, moments in problems(args):
        start = time.perf_counter()
        factor = _core.InputFactor.make(moments, weights.shape[1], args.damping)
        print(f"| {what} | factor | | {time.perf_counter() - start:.2f} s | |")
        for name in args.formats:
            times: dict[int, float] = {}
            errors: dict[int, float] = {}
            for _ in range(args.runs):
                for n in args.survivors:
                    start = time.process_time()
                    _, cost, energy = _core.encode_calibrated(name, weights, factor, n, args.scale)
                    spent = time.process_time() - start
                    times[n] = min(spent, times.get(n, spent))
                    errors[n] = cost.sum() / energy.sum()
            for n in args.survivors:
                speed = weights.size / times[n] / 1e6
                print(
                    f"| {what} | {name} | {n} | {speed:.3f} | {errors[n]:.6f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
