"""Compare hrun-bench with a llama-bench binary on one machine in one run, alternating.

    python tools/bench/against_llama_cpp.py --llama-bench PATH --ours rtq3.gguf q4_k.gguf --theirs iq3_s.gguf q4_k.gguf [-t 2] [-r 3]
                                              [--device cuda]

Models of equal shape come from tools/bench/random_model.py.  Every round runs each contestant once; the table has medians
over the rounds, and each of ours against each of theirs.  Absolute figures drift with the machine: quote the ratios.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from pathlib import Path


def rates(command: list[str]) -> dict[str, float]:
    """{"pp": tokens per second, "tg": ...} from a benchmark's JSON; "switches": how often it lost a core against its will."""
    switches = -resource.getrusage(resource.RUSAGE_CHILDREN).ru_nivcsw
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    switches += resource.getrusage(resource.RUSAGE_CHILDREN).ru_nivcsw
    found = {"pp" if row["n_prompt"] else "tg": row["avg_ts"] for row in json.loads(done.stdout)}
    return found | {"switches": switches}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--llama-bench", type=Path, required=True)
    parser.add_argument("--ours", nargs="+", type=Path, required=True, help="models for hrun-bench")
    parser.add_argument(
        "--theirs", nargs="+", type=Path, required=True, help="models for llama-bench"
    )
    parser.add_argument("-t", "--threads", default="2")
    parser.add_argument(
        "--device",
        default="cpu",
        help="of hrun; llama.cpp gets all layers on its GPU unless this is cpu",
    )
    parser.add_argument("-p", default="512")
    parser.add_argument("-n", default="64")
    parser.add_argument("-r", "--rounds", type=int, default=3)
    args = parser.parse_args()

    sizes = ["-p", args.p, "-n", args.n, "-t", args.threads, "-r", "1", "-o", "json"]
    commands = {
        ("hrun", m.stem): [
            sys.executable,
            "-m",
            "hrun.cli.bench",
            "-m",
            str(m),
            "--no-peaks",
            "-dev",
            args.device,
            *sizes,
        ]
        for m in args.ours
    }
    commands |= {
        ("llama.cpp", m.stem): [
            str(args.llama_bench),
            "-m",
            str(m),
            "-ngl",
            "0" if args.device == "cpu" else "99",
            *sizes,
        ]
        for m in args.theirs
    }
    measured: dict[tuple[str, str], list[dict[str, float]]] = {name: [] for name in commands}
    for _ in range(args.rounds):
        for name, command in commands.items():
            measured[name].append(rates(command))
    median = {
        name: {
            test: statistics.median(run[test] for run in runs) for test in ("pp", "tg", "switches")
        }
        for name, runs in measured.items()
    }

    theirs = [name for name in commands if name[0] == "llama.cpp"]
    print(
        f"| | decode tok/s | prefill {args.p} tok/s | involuntary switches |"
        + "".join(f" decode, prefill against llama.cpp {m} |" for _, m in theirs)
    )
    print("|---|--:|--:|--:|" + "--:|" * len(theirs))
    for name in commands:
        row = f"| {name[0]} {name[1]} | {median[name]['tg']:.1f} | {median[name]['pp']:.0f} | {median[name]['switches']:.0f} |"
        for other in theirs:
            if name[0] == "hrun":
                row += f" {median[name]['tg'] / median[other]['tg']:.2f}x, {median[name]['pp'] / median[other]['pp']:.2f}x |"
            else:
                row += " |"
        print(row)


if __name__ == "__main__":
    main()
