"""hrun-bench: tokens per second of a model, as llama-bench prints them, and how near the machine's limits that is."""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import os
import platform
import resource
import statistics
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import hrun
from hrun import _core
from hrun.cli.common import Parser, run
from hrun.cli.options import add_flags


@dataclass(frozen=True)
class Measurement:
    """One test of one model. Field names are llama-bench's; those after samples_ts are ours."""

    build_commit: str
    cpu_info: str
    backends: str
    model_filename: str
    model_type: str
    model_size: int  # bytes of all tensors
    model_n_params: int
    n_batch: int
    n_threads: int
    type_k: str
    type_v: str
    n_prompt: int
    n_gen: int
    n_depth: int
    test_time: str
    avg_ns: int
    stddev_ns: int
    avg_ts: float
    stddev_ts: float
    samples_ns: list[int] = field(repr=False)
    samples_ts: list[float] = field(repr=False)
    read_gbs: float | None = None  # weights read per second while generating, GB/s
    read_peak_gbs: float | None = None  # measured in this process, all threads
    int8_tops: float | None = None  # operations of the matrix products per second, 1e12
    int8_peak_tops: float | None = None
    operations: dict[str, float] | None = None  # share of the time by operation
    # The number of times that the system took a core from one of the threads, in all repetitions:
    # if it is high, threads shared a core.
    involuntary_switches: int = 0
    pinned: bool = False

    @property
    def test(self) -> str:
        name = f"pp{self.n_prompt}" if self.n_prompt else f"tg{self.n_gen}"
        return name + (f" @ d{self.n_depth}" if self.n_depth else "")


def cpu_name() -> str:
    """The processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def time_once(
    model: _core.Model, args: argparse.Namespace, n_prompt: int, n_gen: int, depth: int
) -> tuple[int, dict[str, float]]:
    """Nanoseconds for one prompt of n_prompt tokens, or for n_gen single tokens, after `depth` tokens of context; and, if
    asked for, the seconds of each operation."""
    n_ctx = max(depth + n_prompt + n_gen, 1)
    session = _core.Session(
        model, n_ctx, type_k=args.cache_type_k, type_v=args.cache_type_v, n_batch=args.batch_size
    )
    # Any ids will do: the work does not depend on them.
    tokens = [(i * 7919 + 1) % model.n_vocab for i in range(n_ctx)]
    if depth:
        session.forward(tokens[:depth], logits="none")
    model.time_operations(args.ops)
    start = time.perf_counter_ns()
    if n_prompt:
        session.forward(tokens[depth : depth + n_prompt], logits="last")
    for i in range(n_gen):
        session.forward([tokens[depth + i]], logits="last")
    ns = time.perf_counter_ns() - start
    return ns, {name: seconds for name, seconds, _ in model.operation_times()}


def measure(
    model: _core.Model,
    args: argparse.Namespace,
    n_prompt: int,
    n_gen: int,
    depth: int,
    peaks: tuple[float, float] | None,
) -> Measurement:
    """Warm up once, then time args.repetitions runs."""
    if not args.no_warmup:
        time_once(model, args, n_prompt, min(n_gen, 1), 0)
    switches = -resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    runs = [time_once(model, args, n_prompt, n_gen, depth) for _ in range(args.repetitions)]
    switches += resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    ns = [n for n, _ in runs]
    rates = [1e9 * (n_prompt + n_gen) / n for n in ns]
    mean = statistics.fmean(rates)
    ours: dict[str, Any] = {}
    if peaks:
        if n_gen:
            ours = {"read_gbs": model.bytes_per_token * mean / 1e9, "read_peak_gbs": peaks[0]}
        else:
            ours = {
                "int8_tops": 2 * model.weights_multiplied(n_prompt) / n_prompt * mean / 1e12,
                "int8_peak_tops": peaks[1],
            }
    if args.ops:
        total = 1e-9 * sum(ns)
        shares = {
            name: sum(seconds.get(name, 0.0) for _, seconds in runs) / total for name in runs[0][1]
        }
        ours["operations"] = {**shares, "other": 1.0 - sum(shares.values())}
    return Measurement(
        build_commit=_core.__version__,
        cpu_info=cpu_name(),
        backends=model.description,
        model_filename=str(model.path),
        model_type=args.model_type,
        model_size=model.bytes,
        model_n_params=model.n_params,
        n_batch=args.batch_size,
        n_threads=model.n_threads,
        type_k=args.cache_type_k,
        type_v=args.cache_type_v,
        n_prompt=n_prompt,
        n_gen=n_gen,
        n_depth=depth,
        test_time=datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ"),
        avg_ns=round(statistics.fmean(ns)),
        stddev_ns=round(statistics.stdev(ns)) if len(ns) > 1 else 0,
        avg_ts=mean,
        stddev_ts=statistics.stdev(rates) if len(rates) > 1 else 0.0,
        samples_ns=ns,
        samples_ts=rates,
        involuntary_switches=switches,
        pinned=args.pin,
        **ours,
    )


def threads_of_this_process() -> set[int]:
    return {int(task) for task in os.listdir("/proc/self/task")}


@contextlib.contextmanager
def pinned(others: set[int]) -> Iterator[None]:
    """Puts this thread and the others on a CPU of their own each.  Raises ArgumentError where there
    are too few.
    """
    allowed = os.sched_getaffinity(0)
    threads = [threading.get_native_id(), *sorted(others)]
    if len(threads) > len(allowed):
        raise hrun.ArgumentError(f"--pin: {len(threads)} threads on {len(allowed)} CPUs")
    try:
        for thread, cpu in zip(threads, sorted(allowed)):
            os.sched_setaffinity(thread, {cpu})
        yield
    finally:
        os.sched_setaffinity(0, allowed)  # the next model's threads begin with it


def measured_peaks(model: _core.Model) -> tuple[float, float] | None:
    """GB/s read (on a GPU: copied) and int8 TOPS of the device that the whole model is on; None where it is on two."""
    if ";" in model.description:
        return None
    if not model.description.startswith("cpu"):
        _, copy, int8, _ = _core.device_peaks(model.description.split(",")[0])
        return copy / 1e9, int8 / 1e12
    return _core.read_bandwidth(model.n_threads) / 1e9, _core.int8_peak(model.n_threads) / 1e12


def above_a_peak(row: Measurement) -> bool:
    return any(share > 1 for share in shares_of_peaks(row).values())


def shares_of_peaks(row: Measurement) -> dict[str, float]:
    """Returns the shares that the measured values are of their peaks, by the name of the peak."""
    pairs = {"read_peak_gbs": row.read_gbs, "int8_peak_tops": row.int8_tops}
    return {
        name: value / max(getattr(row, name), 1e-9)
        for name, value in pairs.items()
        if value is not None
    }


def with_peaks(row: Measurement, peaks: tuple[float, float]) -> Measurement:
    """The row with peaks that were measured again, where they are higher."""
    again = dict(zip(("read_peak_gbs", "int8_peak_tops"), peaks))
    return replace(row, **{n: max(getattr(row, n), again[n]) for n in shares_of_peaks(row)})


def _of_limit(value: float, peak: float, unit: str, digits: int) -> str:
    """A share of what the machine can do is at most 100 %: beyond, the limit was measured too low, or is not one (a model that
    stays in the cache)."""
    if value > peak:
        return f"{value:.{digits}f} {unit}, above the {peak:.{digits}f} measured as the limit"
    return f"{value:.{digits}f} of {peak:.{digits}f} {unit} = {100 * value / peak:.0f} %"


def render(rows: list[Measurement], kind: str) -> str:
    """The table in Markdown, or everything in JSON or CSV."""
    if kind == "json":
        return json.dumps([asdict(r) for r in rows], indent=2)
    if kind == "csv":
        out = io.StringIO()
        writer = csv.DictWriter(out, asdict(rows[0]).keys())
        writer.writeheader()
        writer.writerows(asdict(r) for r in rows)
        return out.getvalue().rstrip("\n")
    head = [
        "model",
        "size",
        "params",
        "backend",
        "threads",
        "test",
        "t/s",
        "of the machine's limit",
    ]
    lines = ["| " + " | ".join(head) + " |", "|---|--:|--:|---|--:|--:|--:|---|"]
    for r in rows:
        limit = ""
        if r.read_gbs is not None and r.read_peak_gbs is not None:
            limit = _of_limit(r.read_gbs, r.read_peak_gbs, "GB/s", 1)
        elif r.int8_tops is not None and r.int8_peak_tops is not None:
            limit = _of_limit(r.int8_tops, r.int8_peak_tops, "TOPS", 2)
        cells = [
            r.model_type,
            f"{r.model_size / 2**20:.2f} MiB",
            f"{r.model_n_params / 1e6:.2f} M",
            r.backends,
            str(r.n_threads),
            r.test,
            f"{r.avg_ts:.2f} ± {r.stddev_ts:.2f}",
            limit,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    if rows[0].operations is not None:
        names = list(dict.fromkeys(name for r in rows for name in r.operations or {}))
        lines += [
            "",
            "Share of the time, %:",
            "",
            "| " + " | ".join(["test", "threads", *names]) + " |",
            "|---|" + "--:|" * (len(names) + 1),
        ]
        for r in rows:
            shares = [f"{100 * (r.operations or {}).get(name, 0.0):.1f}" for name in names]
            lines.append("| " + " | ".join([r.test, str(r.n_threads), *shares]) + " |")
    return "\n".join(lines)


def numbers(text: str) -> list[int]:
    """'512' or '128,512'."""
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number or a list of numbers") from None
    if any(v < 0 for v in values):
        raise argparse.ArgumentTypeError(f"'{text}' has a negative number")
    return values


def model_type(path: str) -> str:
    """Returns the architecture and the most frequent format by bytes, as 'llama rtq3'."""
    file = _core.GGUFFile(path)
    share: dict[str, int] = {}
    for tensor in file.tensors:
        share[tensor.format] = share.get(tensor.format, 0) + tensor.n_bytes
    return f"{file.metadata.get('general.architecture', '?')} {max(share, key=share.__getitem__, default='empty')}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()

    def job(args: argparse.Namespace) -> int:
        if args.repetitions < 1 or args.batch_size < 1:
            parser.error("-r and -b must be at least 1")
        if not any(args.n_prompt) and not any(args.n_gen):
            parser.error("nothing to measure: -p and -n are 0")
        rows = _measurements(args)
        print(render(rows, args.output))
        seen = ", ".join(f"{r.involuntary_switches} ({r.test}, -t {r.n_threads})" for r in rows)
        print(f"Involuntary context switches: {seen}", file=sys.stderr)
        return 0

    return run("hrun-bench", job, parser, argv)


def make_parser() -> Parser:
    """All flags."""
    parser = Parser(prog="hrun-bench", description=__doc__)
    add_flags(parser, "model")
    parser.add_argument(
        "-p",
        "--n-prompt",
        type=numbers,
        default=[512],
        help="prompt lengths (default: 512; 0: none)",
    )
    parser.add_argument(
        "-n",
        "--n-gen",
        type=numbers,
        default=[128],
        help="tokens to generate (default: 128; 0: none)",
    )
    parser.add_argument(
        "-d",
        "--n-depth",
        type=numbers,
        default=[0],
        help="tokens of context before the test (default: 0)",
    )
    add_flags(parser, "batch_size")
    add_flags(
        parser,
        "threads",
        type=numbers,
        default=[0],
        metavar="N[,N...]",
        help="thread counts (default: physical cores)",
    )
    add_flags(parser, "device", "list_devices", "gpu_layers")
    add_flags(parser, "cache_type_k", "cache_type_v", type=_core.kv_format)
    parser.add_argument("-r", "--repetitions", type=int, default=5)
    parser.add_argument("-o", "--output", choices=["md", "json", "csv"], default="md")
    add_flags(parser, "rotation", choices=["activation", "activation-float", "weight"])
    parser.add_argument(
        "--ops", action="store_true", help="also show the share of each operation in the time"
    )
    parser.add_argument("--no-warmup", action="store_true")
    parser.add_argument(
        "--pin", action="store_true", help="keep each thread on a CPU of its own while measuring"
    )
    parser.add_argument(
        "--no-peaks",
        action="store_true",
        help="do not measure the machine's read bandwidth and int8 peak",
    )
    add_flags(parser, "version")
    return parser


def _measurements(args: argparse.Namespace) -> list[Measurement]:
    path = args.model or str(hrun.demo_model_path())
    args.model_type = model_type(path)
    out: list[Measurement] = []
    for threads in args.threads:
        before = threads_of_this_process()
        model = _core.Model.load(
            path,
            device=args.device,
            n_gpu_layers=args.gpu_layers,
            n_threads=threads,
            rotated_matmul=args.rotation,
        )
        workers = threads_of_this_process() - before
        peaks = None if args.no_peaks else measured_peaks(model)
        rows = []
        with pinned(workers) if args.pin else contextlib.nullcontext():
            for depth in args.n_depth:
                rows += [measure(model, args, p, 0, depth, peaks) for p in args.n_prompt if p]
                rows += [measure(model, args, 0, n, depth, peaks) for n in args.n_gen if n]
        if any(map(above_a_peak, rows)) and (again := measured_peaks(model)):
            rows = [with_peaks(row, again) for row in rows]
        out += rows
    return out


if __name__ == "__main__":
    sys.exit(main())
