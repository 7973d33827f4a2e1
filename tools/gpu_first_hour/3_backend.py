"""Step 3: the whole backend against the CPU: tests, graphs across a border, sessions in threads, a full card.

    python tools/gpu_first_hour/3_backend.py [--logs DIR]

Graphs are off in the first run of the tests and on in the second.  Wrong with graphs only: a value that was recorded as an argument
and should be read from memory.  Different from run to run: a race, so back to step 2 with that kernel.
"""

from __future__ import annotations

import sys

from steps import Step, main

DEMO = "from hrun import demo_model_path; path = str(demo_model_path())\n"
BORDER = f"""
import os, sys
import numpy as np
from hrun import _core
{DEMO}
def steps(graphs):
    os.environ["HRUN_CUDA_GRAPHS"] = graphs
    session = _core.Session(_core.Model.load(path, device="cuda"), 512)
    return np.concatenate([session.forward([(7 * i) % 4000], "last") for i in range(int(sys.argv[1]))])
a, b = steps("1"), steps("0")
print(f"{{len(a)}} tokens, {{(a != b).any(axis=1).sum()}} differ with and without graphs")
sys.exit(not np.array_equal(a, b))
"""
THREADS = f"""
import sys, threading, time
from hrun import _core
{DEMO}
model = _core.Model.load(path, device="cuda")
session = _core.Session(model, 256)
stop, made = time.monotonic() + float(sys.argv[1]), [0]
def churn():
    while time.monotonic() < stop:
        other = _core.Session(model, 128)
        other.forward([1, 2, 3], "last")
        del other
        made[0] += 1
thread = threading.Thread(target=churn)
thread.start()
tokens = 0
while time.monotonic() < stop:
    if tokens % 200 == 199:
        session.truncate(0)
    session.forward([tokens % 4000], "last")
    tokens += 1
thread.join()
print(f"{{tokens}} tokens beside {{made[0]}} sessions made and dropped")
"""
FULL = f"""
import sys
from hrun import _core
from hrun.errors import OutOfMemoryError
{DEMO}
model = _core.Model.load(path, device="cuda")
kept, positions, refused = [], 1 << 22, 0
while positions >= 64:
    try:
        kept.append(_core.Session(model, positions))
    except OutOfMemoryError:
        refused += 1
        positions //= 2
try:
    kept[-1].forward(list(range(60)), "all")
except OutOfMemoryError:
    refused += 1
del kept
rows = _core.Session(model, 64).forward([1, 2, 3], "all")
print(f"{{refused}} sessions refused on a full card, and it went on")
sys.exit(refused == 0)
"""


def steps(step: Step) -> None:
    pytest = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    emulated = "HRUN_CUDA_LIBRARY" in step.environment
    if not emulated:
        tests = [*pytest, "-m", "gpu", "-k", "not sanitizer"]
        plain = {"HRUN_CUDA_GRAPHS": "0", "HRUN_CUDA_OVERLAP": "0", "HRUN_CUDA_BULK": "0"}
        plain["HRUN_CUDA_WARPGROUPS"] = "0"
        step.run("tests, no graphs", [*tests, "-x"], 200, **plain)
        step.run("tests, graphs", tests, 200)
    few = emulated  # a token takes a second there
    step.run("graphs", [sys.executable, "-c", BORDER, "6" if few else "400"], 120)
    step.run("threads", [sys.executable, "-c", THREADS, "5" if few else "30"], 90)
    room = {"HRUN_EMULATED_BYTES": "200000000"} if emulated else {}
    step.run("full card", [sys.executable, "-c", FULL], 120, **room)


if __name__ == "__main__":
    sys.exit(main(str(__doc__).splitlines()[0], steps))
