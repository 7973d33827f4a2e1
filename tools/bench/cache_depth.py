"""Measure what a long context costs with each type of cache: one token for each in turn, so that all meet the same machine.

    python tools/bench/cache_depth.py MODEL [--depths 0 4096] [--caches f16/f16 rtq4/rtq3] [-n 64] [-t 2] [--prefill 4096]
                                      [--when FILE] [--pretend]

Per token the median and the mean, which has its part of the coding of full blocks, and attention alone; ratios to the first
cache at the first depth.  --prefill also times a prompt of that length with each cache, alternating.  With --when the
caches are filled at once and the measurement begins as soon as FILE is there: filling needs no quiet machine.  With
--pretend only 256 tokens are read, and their second page is what all others hold: 32768 positions are there in a second,
and a token takes as long.  For long contexts:

    python tools/bench/random_model.py -o rtq3.gguf --format rtq3 --ctx 40960
    python tools/bench/cache_depth.py rtq3.gguf --depths 0 4096 16384 32768 --pretend -n 64
    llama-bench -m iq3_s.gguf -t 2 -p 0 -n 32 -d 16384 -fa 1 -ctk q8_0 -ctv q8_0
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hrun import _core

PRETEND_FROM = 256


@dataclass
class Case:
    """A context of this length in a cache of these types, and seconds per token."""

    cache: str
    depth: int
    session: _core.Session
    seconds: list[float] = field(default_factory=list)
    attention: list[float] = field(default_factory=list)


def open_session(model: _core.Model, cache: str, n_ctx: int) -> _core.Session:
    type_k, _, type_v = cache.partition("/")
    return _core.Session(model, n_ctx, type_k=type_k, type_v=type_v or type_k, n_batch=512)


def tokens_of(model: _core.Model, n: int) -> list[int]:
    """Any ids will do: the work does not depend on them."""
    return [(i * 7919 + 1) % model.n_vocab for i in range(n)]


def fill(model: _core.Model, session: _core.Session, depth: int, pretend: bool) -> None:
    session.forward(tokens_of(model, min(depth, PRETEND_FROM) if pretend else depth), logits="none")
    if pretend and depth > PRETEND_FROM:
        session.pretend(depth)


def measure_decoding(model: _core.Model, cases: Sequence[Case], n: int) -> None:
    for i in range(n):
        for case in cases:
            model.time_operations(True)  # from zero
            begin = time.perf_counter()
            case.session.forward([(i * 7919 + 1) % model.n_vocab], logits="last")
            case.seconds.append(time.perf_counter() - begin)
            times = {name: seconds for name, seconds, _ in model.operation_times()}
            case.attention.append(times.get("attention", 0.0))
    model.time_operations(False)
    first = {case.depth: case for case in reversed(cases)}  # of each depth
    print(
        "| context | cache | tok/s | median ms | mean ms | against the first | attention ms | "
        "tok/s to the first here | attention to it |"
    )
    print("|--:|---|--:|--:|--:|--:|--:|--:|--:|")
    for case in cases:
        median, mean = statistics.median(case.seconds), statistics.fmean(case.seconds)
        loss = ratio_of(cases[0].seconds, case.seconds) - 1
        here = first[case.depth]
        print(
            f"| {case.depth} | {case.cache} | {1 / median:.1f} | {1e3 * median:.2f} | {1e3 * mean:.2f} | {loss:+.1%} | "
            f"{1e3 * statistics.median(case.attention):.3f} | {ratio_of(here.seconds, case.seconds):.2f}x | "
            f"{ratio_of(case.attention, here.attention):.2f}x |"
        )


def ratio_of(a: Sequence[float], b: Sequence[float]) -> float:
    """The median of the ratios of pairs, which were measured one after the other."""
    return statistics.median(x / y for x, y in zip(a, b))


def measure_prefill(
    model: _core.Model, caches: Sequence[str], n_tokens: int, rounds: int = 3
) -> None:
    seconds: dict[str, list[float]] = {cache: [] for cache in caches}
    for _ in range(rounds):
        for cache, values in seconds.items():
            session = open_session(model, cache, n_tokens)
            begin = time.perf_counter()
            session.forward(tokens_of(model, n_tokens), logits="last")
            values.append(time.perf_counter() - begin)
    first = seconds[caches[0]]
    for cache, values in seconds.items():
        ratio = statistics.median(a / b for a, b in zip(first, values))
        print(
            f"prompt of {n_tokens} tokens, {cache}: {n_tokens / statistics.median(values):.0f} tok/s, {ratio:.3f}x {caches[0]}"
        )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--depths", type=int, nargs="+", default=[0, 4096])
    parser.add_argument("--caches", nargs="+", default=["f16/f16", "rtq4/rtq3"], metavar="K/V")
    parser.add_argument("-n", type=int, default=64, help="tokens of each")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--prefill", type=int, default=0, metavar="TOKENS")
    parser.add_argument("--pretend", action="store_true", help="do not read the contexts")
    parser.add_argument("--when", type=Path, metavar="FILE", help="measure as soon as it is there")
    args = parser.parse_args(argv)

    model = _core.Model.load(str(args.model), device="cpu", n_threads=args.threads)
    cases = []
    for depth in args.depths:
        for cache in args.caches:
            session = open_session(model, cache, depth + args.n)
            if depth:
                fill(model, session, depth, args.pretend)
            cases.append(Case(cache, depth, session))
    while args.when is not None and not args.when.exists():
        time.sleep(0.1)
    print(
        f"{args.threads} threads, read bandwidth {_core.read_bandwidth(args.threads) / 1e9:.1f} GB/s"
    )
    if cases:
        measure_decoding(model, cases, args.n)
    if args.prefill:
        measure_prefill(model, args.caches, args.prefill)


if __name__ == "__main__":
    main()
