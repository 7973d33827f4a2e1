"""The memory and the time of a calibrated conversion of a random model of a given shape, in a process of its own.

    python tools/conversion_memory.py --shape 1b --tokens 8192 --target-bpw 3.5
    python tools/conversion_memory.py --shape 1b --tokens 8192 --auto --plain ffn_gate ffn_up
    python tools/conversion_memory.py --embd 512 --ff 1536 --layers 8 --heads 8 --kv-heads 2 --vocab 4096

With --auto the model writes a part of its text itself, and the file is checked at the end.  --plain: matrices that are coded in Q8_0, without
calibration, to save time.  Prints the highest resident memory beside the bound of docs/guide/convert.md: twice the largest layer, or the head, in F32,
the moments of a layer and 1 GiB.  The model is BF16 and takes 2 bytes per weight in the folder.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from make_tiny_models import TinyConfig, write_tiny_model

SHAPES = {
    "1b": {"layers": 16, "embd": 2048, "ff": 8192, "heads": 32, "kv_heads": 8, "vocab": 128256},
    "8b": {"layers": 32, "embd": 4096, "ff": 14336, "heads": 32, "kv_heads": 8, "vocab": 128256},
}
CHILD = """
import sys
from pathlib import Path
from hrun.cli.convert import main
code = main(sys.argv[1:])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:")))
sys.exit(code)
"""
WORDS = "the quick brown fox jumps over the lazy dog and then it was the best of times ".split()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=SHAPES, default="1b")
    for name in ("layers", "embd", "ff", "heads", "kv-heads", "vocab"):
        parser.add_argument(f"--{name}", type=int, help="in place of the shape's")
    parser.add_argument("--tokens", type=int, default=65536, help="of calibration text")
    parser.add_argument("--target-bpw", help="allocate bits too")
    parser.add_argument("--auto", action="store_true", help="no text is given; check the file")
    parser.add_argument("--plain", nargs="+", default=[], help="matrices that are coded in Q8_0")
    parser.add_argument("--folder", type=Path, help="where the model and the output go")
    return parser.parse_args()


def main() -> int:
    given = parse()
    shape = {name: getattr(given, name) or value for name, value in SHAPES[given.shape].items()}
    embd, ff = shape["embd"], shape["ff"]
    kv = embd // shape["heads"] * shape["kv_heads"]
    config = TinyConfig(
        n_layers=shape["layers"],
        n_embd=embd,
        n_heads=shape["heads"],
        n_kv_heads=shape["kv_heads"],
        n_ff=ff,
        n_vocab=shape["vocab"],
        n_ctx=1024,
        format="bf16",
        chat_template=None,
    )
    layer = 4 * (2 * embd * embd + 2 * embd * kv + 3 * embd * ff)
    head = 4 * embd * shape["vocab"]
    moments = 4 * (3 * embd * embd + ff * ff)
    bound = 2 * layer + moments + (1 << 30)
    with tempfile.TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        model = write_tiny_model(folder / "model.gguf", config)
        text = folder / "text.txt"
        text.write_text(" ".join(WORDS[i * i % 17 % len(WORDS)] for i in range(2 * given.tokens)))
        command = [model, "-o", folder / "out.gguf", "--type", "rtq3"]
        command += ["--calibrate-tokens", given.tokens]
        command += (
            ["--calibrate", "auto", "--check"]
            if given.auto
            else ["--calibrate", text, "--no-check"]
        )
        for name in given.plain:
            command += ["--tensor-type", f"{name}=q8_0"]
        if given.target_bpw:
            command += ["--target-bpw", given.target_bpw]
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-c", CHILD, *map(str, command)],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ},
        )
        seconds = time.monotonic() - start
    if done.returncode:
        return done.returncode
    peak = int(done.stdout.split()[-1])
    print(
        f"{seconds:.0f} s, peak {peak / 1e9:.2f} GB; twice a layer in F32, moments and 1 GiB: {bound / 1e9:.2f} GB "
        f"(layer {layer / 1e9:.2f}, head {head / 1e9:.2f}, moments of a layer {moments / 1e9:.2f} GB)"
    )
    return 0 if peak <= bound else 1


if __name__ == "__main__":
    sys.exit(main())
