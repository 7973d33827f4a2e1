"""Measure one Runtime that serves many at once: the figures that batching promises, with their bars.

    python tools/bench/serve_batch.py MODEL [-t 2] [--streams 1 2 4 8 16] [-n 64] [-r 3] [--parts batch prefix gap]
                                      [--llama-batched-bench PATH --theirs iq3_s.gguf q4_k.gguf]
                                      [--before PATH]

Models of equal shape come from tools/bench/random_model.py.  Parts:

batch   tokens per second of 1 to 16 streams, each read by a thread of its own, and whether their tokens are those of the
        prompts alone; with llama-batched-bench its rates in the same rounds, alternating
prefix  the first token of a prompt most of which is cached, against an uncached one
gap     the gaps between one stream's tokens while another client's long prompt is read, against idle ones
single  with --before, the python directory of another build: hrun.cli.bench of both, alternating

Medians over the rounds.  Absolute figures drift with the machine: quote the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hrun import Runtime

PROMPT = 16  # tokens of each stream's prompt in part batch


@dataclass
class Stream:
    """One client: what it asked for, what came, and when."""

    prompt: list[int]
    n_tokens: int
    asked: float = 0.0
    times: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    error: BaseException | None = None

    def read(self, runtime: Runtime) -> None:
        self.asked = time.perf_counter()
        try:
            for piece in runtime.generate(
                self.prompt, max_tokens=self.n_tokens, ignore_eos=True, temperature=0.0, stream=True
            ):
                if piece.token is not None:
                    self.times.append(time.perf_counter())
                    self.tokens.append(piece.token)
        except BaseException as e:
            self.error = e

    @property
    def first_token_seconds(self) -> float:
        return self.times[0] - self.asked

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.times, self.times[1:])]


def prompt(runtime: Runtime, n_tokens: int, seed: int) -> list[int]:
    """Random token ids: no two prompts begin alike."""
    draw = random.Random(seed)
    return [
        draw.randrange(min(300, runtime.n_vocab // 2), runtime.n_vocab) for _ in range(n_tokens)
    ]


def run_streams(runtime: Runtime, streams: Sequence[Stream]) -> None:
    """Runs all streams at once, each in a thread of its own."""
    threads = [threading.Thread(target=stream.read, args=(runtime,)) for stream in streams]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for stream in streams:
        if stream.error is not None:
            raise stream.error


def rate(streams: Sequence[Stream]) -> float:
    """Tokens per second from the first token of all to the last."""
    begin = min(stream.times[0] for stream in streams)
    end = max(stream.times[-1] for stream in streams)
    return (sum(len(stream.times) for stream in streams) - 1) / max(end - begin, 1e-9)


def verdict(holds: bool) -> str:
    return "holds" if holds else "MISSED"


def measure_batch(runtime: Runtime, args: argparse.Namespace) -> None:
    alone: dict[int, list[int]] = {}
    rates: dict[int, list[float]] = {n: [] for n in args.streams}
    theirs: dict[Path, dict[int, list[float]]] = {
        model: {n: [] for n in args.streams} for model in args.theirs
    }
    for seed in range(max(args.streams)):  # warms up, and says what the tokens should be
        stream = Stream(prompt(runtime, PROMPT, seed), args.n)
        run_streams(runtime, [stream])
        alone[seed] = stream.tokens
    equal = True
    for _ in range(args.rounds):
        for n in args.streams:
            streams = [Stream(prompt(runtime, PROMPT, seed), args.n) for seed in range(n)]
            run_streams(runtime, streams)
            rates[n].append(rate(streams))
            equal &= all(stream.tokens == alone[seed] for seed, stream in enumerate(streams))
        for model in args.theirs:
            for n, value in llama_rates(args, model).items():
                theirs[model][n].append(value)

    median = {n: statistics.median(values) for n, values in rates.items()}
    least = min(args.streams)
    print(
        f"| streams | tok/s | against {least} |"
        + "".join(f" llama.cpp {model.stem} tok/s | ratio |" for model in args.theirs)
    )
    print("|--:|--:|--:|" + "--:|--:|" * len(args.theirs))
    for n in args.streams:
        row = f"| {n} | {median[n]:.1f} | {median[n] / median[least]:.2f}x |"
        for model in args.theirs:
            value = statistics.median(theirs[model][n])
            row += f" {value:.1f} | {median[n] / value:.2f}x |"
        print(row)
    print(f"tokens equal to those of each prompt alone: {'yes' if equal else 'NO'}")
    for n, bar in ((8, 5), (16, 6)):
        if least == 1 and n in median:
            print(f"bar: {n} streams at least {bar}x one: {verdict(median[n] >= bar * median[1])}")
    if not equal:
        raise SystemExit("a stream's tokens depend on the others")


def llama_rates(args: argparse.Namespace, model: Path) -> dict[int, float]:
    """Tokens per second of decoding, by number of sequences."""
    command = [
        str(args.llama_batched_bench), "-m", str(model), "-t", str(args.threads), "-ngl", "0",
        "-c", str(max(args.streams) * (PROMPT + args.n)), "-npp", str(PROMPT), "-ntg", str(args.n),
        "-npl", ",".join(map(str, args.streams)), "--output-format", "jsonl",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {row["pl"]: row["speed_tg"] for row in rows}


def measure_prefix(runtime: Runtime, args: argparse.Namespace) -> None:
    n = min(2048, runtime.n_ctx - 1)
    shared = n * 2000 // 2048
    ratios, fresh, cached = [], [], []
    for i in range(args.rounds):
        first = prompt(runtime, n, 1000 + i)
        second = first[:shared] + prompt(runtime, n - shared, 2000 + i)
        seconds = []
        for ids in (first, second):
            stream = Stream(ids, 1)
            run_streams(runtime, [stream])
            seconds.append(stream.first_token_seconds)
        fresh.append(seconds[0])
        cached.append(seconds[1])
        ratios.append(seconds[1] / seconds[0])
    ratio = statistics.median(ratios)
    print(
        f"prompt of {n} tokens, {shared} of them cached: first token after {statistics.median(cached) * 1e3:.0f} ms, uncached "
        f"{statistics.median(fresh) * 1e3:.0f} ms: {ratio:.1%}"
    )
    print(f"bar: at most 5%: {verdict(ratio <= 0.05)}")


def measure_gap(runtime: Runtime, args: argparse.Namespace) -> None:
    n_prompt = min(4096, runtime.n_ctx // 2)
    idle, steps, longest, late = [], [], [], []
    for i in range(args.rounds):
        # The stream is long enough to outlast the other's prompt; the rest of it is cancelled.
        stream = Stream(prompt(runtime, PROMPT, 3000 + i), runtime.n_ctx - n_prompt - PROMPT)
        reader = threading.Thread(target=stream.read, args=(runtime,))
        reader.start()
        while len(stream.times) < args.n + 1 and reader.is_alive():
            time.sleep(0.001)
        other = Stream(prompt(runtime, n_prompt, 4000 + i), 1)
        run_streams(runtime, [other])
        runtime.cancel()
        reader.join()
        if stream.error is not None:
            raise stream.error
        between = [
            gap
            for gap, at in zip(stream.gaps, stream.times[1:])
            if other.asked < at - gap and at < other.times[0]
        ]
        before = [gap for gap, at in zip(stream.gaps, stream.times[1:]) if at < other.asked]
        idle.append(statistics.median(before))
        # Each token of the stream is a step; without one it stood still for all of that time.
        steps.append(other.first_token_seconds / (len(between) + 1))
        longest.append(max(between, default=other.first_token_seconds))
        late.append(sorted(between)[len(between) * 99 // 100] if between else longest[-1])
    gap, step, worst, most = (statistics.median(values) for values in (idle, steps, longest, late))
    print(
        f"gaps of a stream: idle {gap * 1e3:.1f} ms; while a prompt of {n_prompt} tokens is read at most {worst * 1e3:.1f} ms "
        f"(99 of 100 at most {most * 1e3:.1f}), with {step * 1e3:.1f} ms a step"
    )
    print(f"bar: at most twice the idle gap and one step: {verdict(worst <= 2 * gap + step)}")


def measure_single(args: argparse.Namespace) -> None:
    here = str(Path(__file__).resolve().parents[2] / "python")
    rates: dict[str, list[dict[str, float]]] = {str(args.before): [], here: []}
    command = [
        sys.executable, "-m", "hrun.cli.bench", "-m", str(args.model), "--no-peaks", "-dev", "cpu",
        "-p", "512", "-n", str(args.n), "-t", str(args.threads), "-r", "1", "-o", "json",
    ]  # fmt: skip
    for _ in range(args.rounds):
        for path, runs in rates.items():
            done = subprocess.run(
                command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
            )
            if done.returncode:
                raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
            rows = json.loads(done.stdout)
            runs.append({"pp" if row["n_prompt"] else "tg": row["avg_ts"] for row in rows})
    before, after = rates.values()
    for test, name in (("tg", "decode"), ("pp", "prefill of 512 tokens")):
        ratio = statistics.median(a[test] / b[test] for a, b in zip(after, before))
        print(
            f"one sequence, {name}: {statistics.median(a[test] for a in after):.1f} tok/s, {ratio:.3f}x the build before"
        )
        print(f"bar: not slower by more than 1%: {verdict(ratio >= 0.99)}")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("-n", type=int, default=64, help="tokens of each stream")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--parts", nargs="+", choices=["batch", "prefix", "gap"], default=["batch", "prefix", "gap"]
    )
    parser.add_argument("--llama-batched-bench", type=Path)
    parser.add_argument("--theirs", nargs="+", type=Path, default=[])
    parser.add_argument("--before", type=Path, help="the python directory of another build")
    args = parser.parse_args(argv)
    if args.theirs and args.llama_batched_bench is None:
        parser.error("--theirs needs --llama-batched-bench")

    with Runtime(args.model, n_ctx=args.ctx, n_threads=args.threads, device=args.device) as runtime:
        for part in args.parts:
            {"batch": measure_batch, "prefix": measure_prefix, "gap": measure_gap}[part](
                runtime, args
            )
    if args.before is not None:
        measure_single(args)


if __name__ == "__main__":
    main()
