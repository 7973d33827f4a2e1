"""Code that the steps of a GPU's first hour share: commands with limits and logs, and the table at
the end.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STEP_S = 570  # limit of a step, all commands together: under ten minutes with the start of Python


@dataclass
class Step:
    """Runs commands one after the other; each leaves a log and a row."""

    logs: Path
    build: Path
    environment: dict[str, str]
    started: float = field(default_factory=time.monotonic)
    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def left(self) -> float:
        """Seconds until the step has to end."""
        return STEP_S - (time.monotonic() - self.started)

    def run(
        self,
        name: str,
        command: list[str],
        limit_s: float,
        last: Callable[[str], str] = lambda text: (text.strip().splitlines() or [""])[-1],
        **environment: str,
    ) -> bool:
        """Returns whether the command ended with 0.  ``last``: the part of its output that the
        table shows.
        """
        log = self.logs / f"{name}.log"
        limit = min(limit_s, self.left())
        if limit < 5:
            self.rows.append((name, "not run", "", "no time was left"))
            return False
        start = time.monotonic()
        with log.open("w") as out:
            try:
                code = subprocess.run(
                    command,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    timeout=limit,
                    cwd=ROOT,
                    env={**os.environ, **self.environment, **environment},
                    check=False,
                ).returncode
                status = "ok" if code == 0 else f"exit {code}"
            except subprocess.TimeoutExpired:
                status = "too slow"
            except OSError as e:
                out.write(str(e))
                out.flush()
                status = "cannot run"
        text = log.read_text(errors="replace")
        self.rows.append((name, status, f"{time.monotonic() - start:.0f} s", last(text)[:90]))
        return status == "ok"

    def note(self, name: str, ok: bool, what: str) -> None:
        """A row of the step's own."""
        self.rows.append((name, "ok" if ok else "wrong", "", what[:90]))

    def finish(self) -> int:
        """Prints the table; 1 if a row is not ok."""
        width = max(len(row[0]) for row in self.rows) if self.rows else 0
        for name, status, seconds, what in self.rows:
            print(f"{name:{width}}  {status:10}  {seconds:>6}  {what}")
        print(f"logs: {self.logs}")
        return int(any(row[1] != "ok" for row in self.rows))


def main(what: str, steps: Callable[[Step], None]) -> int:
    """The exit status of a step: 0 all is well, 1 something is wrong, 2 there is no GPU to run on."""
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--logs", type=Path, default=Path(os.environ.get("OUT", "gpu-first-hour")))
    parser.add_argument("--build", type=Path, default=ROOT / "build/gpu")
    parser.add_argument("--emulated", type=Path, metavar="LIBRARY", help="the emulation in place of a card, to try the script itself")  # fmt: skip
    args = parser.parse_args()
    logs = args.logs.resolve()
    logs.mkdir(parents=True, exist_ok=True)
    environment = {"PYTHONPATH": str(ROOT / "python"), "HRUN_DEVICE": "cuda"}
    if args.emulated:
        environment["HRUN_CUDA_LIBRARY"] = str(args.emulated.resolve())
    step = Step(logs, args.build.resolve(), environment)
    if not args.emulated and not step.run(
        "card",
        [
            "nvidia-smi",
            "--query-gpu=name,driver_version,memory.free,compute_cap",
            "--format=csv,noheader",
        ],
        20,
    ):
        step.finish()
        print("no NVIDIA GPU answers here", file=sys.stderr)
        return 2
    steps(step)
    return step.finish()
