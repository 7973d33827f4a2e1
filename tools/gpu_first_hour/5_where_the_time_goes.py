"""Step 5: where the time goes: Nsight Compute on the kernels of a token and of a prompt.

    python tools/gpu_first_hour/5_where_the_time_goes.py [--logs DIR]

Needs the model of step 4.  In order: memory throughput; use of the pipes (integer ALU above 80 %: fewer instructions; below 60 % with
"long scoreboard" on top: more bytes in flight); stalls at barriers; bank conflicts; the tensor pipe of the tiles.
"""

from __future__ import annotations

import shutil
import sys

from steps import Step, main

CODE = """
import sys
from hrun import _core
session = _core.Session(_core.Model.load(sys.argv[1], device="cuda"), 1024, n_batch=512)
if sys.argv[2] == "prompt":
    session.forward(list(range(512)), "last")
for i in range(4):
    session.forward([i], "last")
"""


def steps(step: Step) -> None:
    ncu = shutil.which("ncu") or "/usr/local/cuda/bin/ncu"
    model = str(step.logs / "shape-8b.gguf")
    for name, kernels, sections, what in (
        ("stream", "MatmulStream", ["--set", "full"], "token"),
        (
            "tile",
            "MatmulTile|MatmulWarpgroups|FewQueries|ManyQueries",
            ["--section", "SpeedOfLight", "--section", "WarpStateStats"],
            "prompt",
        ),
    ):
        command = [ncu, "--clock-control", "none", *sections, "-k", f"regex:{kernels}"]
        command += ["--launch-skip", "100", "--launch-count", "12", "-f"]
        command += ["-o", str(step.logs / name), sys.executable, "-c", CODE, model, what]
        step.run(name, command, 270, HRUN_CUDA_GRAPHS="0")


if __name__ == "__main__":
    sys.exit(main(str(__doc__).splitlines()[0], steps))
