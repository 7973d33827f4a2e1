"""Time every matmul kernel: formats x tiers x shapes, beside what the machine can do, measured in the same process.

    python tools/bench/kernels.py [--formats rtq3 q4_k ...] [--tiers avx512 ...] [--shapes 8192x2048 2048x8192] [--tokens 1 4 512]
                                  [-t 2] [--megabytes 64]

One token reads the weights: GB/s and percent of the read bandwidth (above 100 % where the caches hold the matrix; a shape's
rows are multiplied until it has --megabytes).  Many tokens compute: GOPS and percent of the tier's int8 peak, both over the
matrix product with the quantization of its input.  First the cost of waking and joining the threads once.
"""

from __future__ import annotations

import argparse

import numpy as np
from random_model import random_rows

from hrun import _core

BENCHED = [
    "rtq2",
    "rtq3",
    "rtq4",
    "rtq5",
    "rtq6",
    "itq3_s",
    "q8_0",
    "q4_0",
    "q4_k",
    "q5_k",
    "q6_k",
    "iq4_xs",
    "q3_k",
    "q2_k",
    "iq3_s",
    "iq3_xxs",
    "iq2_s",
    "iq2_xs",
    "iq2_xxs",
    "iq1_m",
    "iq1_s",
    "tq2_0",
    "tq1_0",
    "f16",
]


def shape(text: str) -> tuple[int, int]:
    """'8192x2048': rows, columns."""
    rows, _, cols = text.partition("x")
    if not (rows.isdecimal() and cols.isdecimal()):
        raise argparse.ArgumentTypeError(f"'{text}' is not ROWSxCOLUMNS")
    return int(rows), int(cols)


def main(argv: list[str] | None = None) -> None:
    known = {f.name: f for f in _core.formats() if f.encodable or not f.is_float}
    tiers = [t.name for t in _core.cpu_tiers() if t.available]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--formats", nargs="+", choices=known, default=[f for f in BENCHED if f in known]
    )
    parser.add_argument(
        "--tiers", nargs="+", choices=tiers, default=[t for t in tiers if t != "scalar"]
    )
    parser.add_argument("--shapes", nargs="+", type=shape, default=[(8192, 2048), (2048, 8192)])
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 4, 512])
    parser.add_argument(
        "--megabytes", type=int, default=64, help="of weights, at least, where one token reads them"
    )
    parser.add_argument("-t", "--threads", type=int, default=0)
    args = parser.parse_args(argv)

    threads = args.threads or _core.default_thread_count()
    bandwidth = _core.read_bandwidth(threads)
    print(
        f"{threads} threads; a loop over all of them costs {1e6 * _core.testing.barrier_seconds(threads):.2f} µs; "
        f"read bandwidth {bandwidth / 1e9:.1f} GB/s"
    )
    print(
        "| format | tier | rows x columns | tokens | ms | GB/s | of bandwidth | GOPS | of int8 peak |"
    )
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    for tier in args.tiers:
        peak = _core.int8_peak(threads, tier)
        for name in args.formats:
            for rows, cols in args.shapes:
                if not known[name].row_ok(cols):
                    continue
                row_bytes = known[name].row_bytes(cols)
                for tokens in args.tokens:
                    repeats = -(-args.megabytes * 2**20 // (rows * row_bytes)) if tokens <= 8 else 1
                    x = np.random.default_rng(2).standard_normal((tokens, cols), dtype=np.float32)
                    n = rows * repeats
                    seconds, read = _core.testing.time_matmul(
                        tier, name, random_rows(name, cols, n, size=1.0), n, x, threads
                    )
                    rate, operations = read / seconds, 2 * n * cols * tokens / seconds
                    print(
                        f"| {name} | {tier} | {rows}x{cols} | {tokens} | {1e3 * seconds / repeats:.3f} | {rate / 1e9:.1f} | "
                        f"{100 * rate / bandwidth:.0f} % | {operations / 1e9:.0f} | {100 * operations / peak:.0f} % |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
