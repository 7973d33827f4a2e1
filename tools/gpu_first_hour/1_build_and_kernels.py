"""Step 1: does hrun build for this card, and is every kernel right on it?  The kernel tests need no Python and no model.

    python tools/gpu_first_hour/1_build_and_kernels.py [--logs DIR] [--build DIR]

They go from simple to composed: the first that fails is the cause of those after it.  "no kernel image": built for another card;
"invalid argument" at a launch: shared memory; an illegal or misaligned address: step 2 names the kernel and the thread.
"""

from __future__ import annotations

import sys

from steps import ROOT, Step, main

ORDER = (
    "primitives", "rope_kv", "quantize", "matmul_float", "matmul", "sample", "attention", "matmul_weight", "experts",
    "upload", "seven_defects",
)  # fmt: skip


def steps(step: Step) -> None:
    configure = ["cmake", "-S", str(ROOT), "-B", str(step.build), "-DHRUN_CUDA=ON"]
    configure += ["-DHRUN_TESTS=ON", "-DCMAKE_BUILD_TYPE=Release"]
    if not step.run("configure", configure, 90):
        return
    build = ["cmake", "--build", str(step.build), "-j", "--target", "gpu_tests", "hrun_cuda"]
    if not step.run("build", [*build, "_core"], 420):
        return
    for name in ORDER:
        program = [str(step.build / "tests/cpp" / f"gpu_{name}")]
        step.run(name, program, 60, CUDA_LAUNCH_BLOCKING="1")
    step.run("list-devices", [sys.executable, "-m", "hrun.cli.chat", "--list-devices"], 60)


if __name__ == "__main__":
    sys.exit(main(str(__doc__).splitlines()[0], steps))
