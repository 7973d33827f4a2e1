"""Hold a Qwen 3.5 with random weights (width 2048, 24 layers, three of four recurrent) to the bars of recurrent layers.

    python tools/bench/recurrent.py FOLDER [--llama-bench PATH] [--ours rtq3 rtq4] [--theirs q3_k q4_0 q4_k iq4_nl] [-t 2] [-r 5]
                                     [--cache rtq4/rtq3]

Models are made in FOLDER where they are not there yet (0.6 to 0.9 GB each).  Bars: recurrent layers' operations and
convolutions take at most 12 % of decoding and 20 % of a prompt; a token behind 16384 positions takes at most 1.25 of one at the
beginning, alternating; against llama.cpp's fastest format of 3 or 4 bits at least 2 times its decoding and 1.5 times its prompts,
alternating (ratios; absolute figures drift with the machine).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from against_llama_cpp import rates

from hrun import _core

DEPTH, PROMPT, TOKENS = 16384, 512, 32
SHAPE = "--recurrent --embd 2048 --ff 6144 --layers 24 --heads 8 --kv-heads 2 --vocab 32000 --ctx 32768".split()


def model_of(folder: Path, form: str) -> Path:
    path = folder / f"qwen35-{form}.gguf"
    if not path.exists():
        script = Path(__file__).with_name("random_model.py")
        unfinished = path.with_suffix(".part")
        command = [sys.executable, str(script), "-o", str(unfinished), "--format", form, *SHAPE]
        subprocess.run([*command, "--head-format", "q6_k"], check=True)
        unfinished.rename(path)
    return path


def timed(
    model: _core.Model, session: _core.Session, tokens: list[int]
) -> tuple[float, dict[str, float]]:
    """Seconds of a pass, and the share of each operation."""
    model.time_operations(True)  # from zero
    begin = time.perf_counter()
    session.forward(tokens, logits="last")
    seconds = time.perf_counter() - begin
    shares = {name: part / seconds for name, part, _ in model.operation_times()}
    model.time_operations(False)
    return seconds, shares


def tokens_of(model: _core.Model, n: int, first: int = 0) -> list[int]:
    """Any ids will do: the work does not depend on them."""
    return [((first + i) * 7919 + 1) % model.n_vocab for i in range(n)]


def verdict(value: float, bar: float, at_most: bool) -> str:
    return "kept" if (value <= bar if at_most else value >= bar) else "MISSED"


def own_bars(path: Path, threads: int, rounds: int, cache: str) -> None:
    model = _core.Model.load(str(path), n_threads=threads)
    type_k, _, type_v = cache.partition("/")
    types = {"type_k": type_k, "type_v": type_v or type_k}
    deep = _core.Session(model, DEPTH + rounds * TOKENS + 1, **types)
    deep.forward(tokens_of(model, DEPTH), logits="none")
    shallow = _core.Session(model, rounds * TOKENS + 1, **types)
    decode: list[tuple[float, float]] = []
    shares: list[dict[str, float]] = []
    prompts: list[dict[str, float]] = []
    for i in range(rounds * TOKENS):
        first, parts = timed(model, shallow, tokens_of(model, 1, i))
        decode.append((first, timed(model, deep, tokens_of(model, 1, i))[0]))
        shares.append(parts)
    for _ in range(rounds):
        prompts.append(timed(model, _core.Session(model, PROMPT), tokens_of(model, PROMPT))[1])
    at_start, at_depth = (statistics.median(column) for column in zip(*decode))
    for what, found, bar in (("decoding", shares, 0.12), (f"a prompt of {PROMPT}", prompts, 0.20)):
        median = {name: statistics.median(s.get(name, 0.0) for s in found) for name in found[0]}
        rest = ", ".join(f"{n} {100 * v:.1f}" for n, v in median.items() if v >= 0.005)
        share = median.get("recurrent", 0.0)
        print(
            f"| {path.stem} | recurrent part of {what} | {100 * share:.1f} % | at most {100 * bar:.0f} % | "
            f"{verdict(share, bar, True)} | {rest} |"
        )
    print(
        f"| {path.stem} | a token at {DEPTH} against one at 0, {cache} | {at_depth / at_start:.2f}x | at most 1.25x | "
        f"{verdict(at_depth / at_start, 1.25, True)} | {1e3 * at_start:.1f} and {1e3 * at_depth:.1f} ms |",
        flush=True,
    )


def against(folder: Path, args: argparse.Namespace) -> None:
    sizes = ["-p", str(PROMPT), "-n", str(TOKENS), "-t", str(args.threads)]
    common = [*sizes, "-r", "1", "-o", "json"]
    own = [sys.executable, "-m", "hrun.cli.bench", "--no-peaks", "-m"]
    commands = {("hrun", f): [*own, str(model_of(folder, f)), *common] for f in args.ours}
    for form in args.theirs:
        commands["llama.cpp", form] = [
            *(str(args.llama_bench), "-ngl", "0", "-m", str(model_of(folder, form))),
            *common,
        ]
    runs: dict[tuple[str, str], list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            runs[name].append(rates(command))
    medians = {
        name: {test: statistics.median(run[test] for run in found) for test in ("tg", "pp")}
        for name, found in runs.items()
    }
    for test, what, bar in (("tg", "decoding", 2.0), ("pp", "prompts", 1.5)):
        best = {
            side: max((name for name in medians if name[0] == side), key=lambda n: medians[n][test])
            for side in ("hrun", "llama.cpp")
        }
        ours, theirs = (medians[best[side]][test] for side in ("hrun", "llama.cpp"))
        all_rates = ", ".join(f"{' '.join(n)} {m[test]:.1f}" for n, m in medians.items())
        print(
            f"| {best['hrun'][1]} | {what} against llama.cpp's {best['llama.cpp'][1]} | {ours / theirs:.2f}x | "
            f"at least {bar}x | {verdict(ours / theirs, bar, False)} | tokens/s: {all_rates} |",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--llama-bench", type=Path)
    parser.add_argument("--ours", nargs="+", default=["rtq3", "rtq4"])
    parser.add_argument("--theirs", nargs="+", default=["q3_k", "q4_0", "q4_k", "iq4_nl"])
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--rounds", type=int, default=5)
    parser.add_argument("--cache", default="f16/f16", help="types of keys and values")
    parser.add_argument("--only-make", action="store_true", help="make the models and stop")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    for form in [*args.ours, *(args.theirs if args.llama_bench else [])]:
        model_of(args.folder, form)
    if args.only_make:
        return
    print("| model | what | measured | bar | | share of each operation in %, or the figures |")
    print("|---|---|--:|--:|---|---|")
    for form in args.ours:
        own_bars(model_of(args.folder, form), args.threads, args.rounds, args.cache)
    if args.llama_bench:
        against(args.folder, args)


if __name__ == "__main__":
    main()
