"""Step 2: the kernel tests under compute-sanitizer: addresses, barriers, races, memory that nobody wrote.

    python tools/gpu_first_hour/2_sanitizer.py [--logs DIR] [--build DIR]

Needs the programs of step 1.  Any error of memcheck stops the day; "too slow" is no fault of a kernel, but it is no proof either.
"""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

from steps import Step, main

TESTS = ("primitives", "rope_kv", "quantize", "matmul", "sample", "attention", "matmul_weight")
TOOLS = ("memcheck", "synccheck", "racecheck", "initcheck")


def summary(text: str) -> str:
    """The sanitizer's own count."""
    found = re.findall(r"=+ ((?:ERROR|RACECHECK) SUMMARY.*)", text)
    return found[-1] if found else "no summary"


def steps(step: Step) -> None:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(sanitizer).exists():
        step.note("compute-sanitizer", False, "is not installed")
        return
    for tool in TOOLS:
        for test in TESTS:
            program = str(step.build / "tests/cpp" / f"gpu_{test}")
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", program]
            step.run(f"{tool}-{test}", command, 100, summary)


if __name__ == "__main__":
    sys.exit(main(str(__doc__).splitlines()[0], steps))
