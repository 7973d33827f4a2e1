"""Step 4: speed, small to large: products of one matrix, then a model of 8B's shape with and without graphs.

    python tools/gpu_first_hour/4_speed.py [--logs DIR]

The first line of the products says what the card reads and multiplies: far below its data sheet means another process or low clocks.
The tables are in the logs; docs/guide/gpu.md has what was predicted by count.
"""

from __future__ import annotations

import sys

from steps import ROOT, Step, main


def steps(step: Step) -> None:
    bench = ROOT / "tools/bench"
    few = "HRUN_CUDA_LIBRARY" in step.environment
    formats = ["rtq3", "q4_k", "q8_0", "f16"]
    shapes = ["4096x4096", "6144x4096", "28672x4096", "4096x14336", "128256x4096"]
    tokens = ["1", "4", "8", "16", "32", "64", "512"]
    if few:
        formats, shapes, tokens = ["rtq3"], ["32x256"], ["1"]
    products = [
        sys.executable,
        str(bench / "gpu_kernels.py"),
        "--formats",
        *formats,
        "--shapes",
        *shapes,
    ]
    rest = ["--megabytes", "0"] if few else []
    step.run("products", [*products, "--tokens", *tokens, *rest], 180)
    # To be held against the first lines: weights by loads of each lane.
    step.run("no bulk copies", [*products, "--tokens", "1", *rest], 60, HRUN_CUDA_BULK="0")
    if not few:  # and many tokens by mma.sync
        many = [*products, "--tokens", "512"]
        step.run("no products of warpgroups", many, 60, HRUN_CUDA_WARPGROUPS="0")
    model = step.logs / "shape-8b.gguf"
    shape = {"embd": 4096, "ff": 14336, "layers": 32, "heads": 32, "kv-heads": 8, "vocab": 128256}
    if few:
        shape = {"embd": 256, "ff": 512, "layers": 2, "heads": 4, "kv-heads": 2, "vocab": 400}
    sizes = [text for name, value in shape.items() for text in (f"--{name}", str(value))]
    made = [sys.executable, str(bench / "random_model.py"), "-o", str(model), "--format", "rtq3"]
    if not step.run("a model", [*made, *sizes], 240):
        return
    runs = ["-p", "512,2048", "-n", "128", "-d", "0,8192"] if not few else ["-p", "8", "-n", "4"]
    command = [sys.executable, "-m", "hrun.cli.bench", "-m", str(model), "--device", "cuda", *runs]
    for graphs in ("0", "1"):
        step.run(f"graphs {graphs}", [*command, "--ops", "-o", "md"], 150, HRUN_CUDA_GRAPHS=graphs)


if __name__ == "__main__":
    sys.exit(main(str(__doc__).splitlines()[0], steps))
