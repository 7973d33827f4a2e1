"""Time the matrix products of a GPU: formats x shapes x tokens, beside what the device can do, measured in the same process.

    python tools/bench/gpu_kernels.py [--device cuda] [--formats rtq3 q4_k ...] [--shapes 4096x4096 14336x4096] [--tokens 1 4 16 512]
                                      [--rotations activation weight] [--megabytes 512]

Few tokens read the weights: GB/s and percent of the copy bandwidth.  Many compute: tera-operations per second and percent of the int8
peak of the matrix units (of the fp16 peak in the weight domain).  Both are over the product with the preparation of its input.
"""

from __future__ import annotations

import argparse

import numpy as np
from kernels import BENCHED, shape
from random_model import random_rows

from hrun import _core


def main(argv: list[str] | None = None) -> None:
    known = {f.name: f for f in _core.formats() if f.encodable}
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    parser.add_argument(
        "--formats", nargs="+", choices=known, default=[f for f in BENCHED if f in known]
    )
    parser.add_argument(
        "--shapes", nargs="+", type=shape, default=[(4096, 4096), (14336, 4096), (4096, 14336)]
    )
    parser.add_argument("--tokens", nargs="+", type=int, default=[1, 4, 16, 512])
    parser.add_argument(
        "--rotations", nargs="+", choices=["activation", "weight"], default=["activation"]
    )
    parser.add_argument(
        "--megabytes", type=int, default=512, help="of weights, at least, that are read in turn"
    )
    args = parser.parse_args(argv)

    name = next((d.description for d in _core.devices()[0] if d.name.startswith("CUDA")), "")
    read, copy, int8, fp16 = _core.device_peaks(args.device)
    print(
        f"{name}: {read / 1e9:.0f} GB/s read, {copy / 1e9:.0f} GB/s copied, {int8 / 1e12:.0f} TOPS int8, {fp16 / 1e12:.0f} TFLOPS fp16\n"
    )
    print(
        "| format | rotation | rows x columns | tokens | µs | GB/s | of copy bandwidth | TOPS | of matrix peak |"
    )
    print("|---|---|---|--:|--:|--:|--:|--:|--:|")
    for rotation in args.rotations:
        for format_name in args.formats:
            rotated = format_name.startswith(("rtq", "itq"))
            if rotation == "weight" and not rotated:
                continue
            for rows, cols in args.shapes:
                if not known[format_name].row_ok(cols):
                    continue
                data = random_rows(format_name, cols, rows, size=1.0)
                copies = max(1, -(-args.megabytes * 2**20 // data.nbytes))
                for tokens in args.tokens:
                    x = np.random.default_rng(2).standard_normal((tokens, cols), dtype=np.float32)
                    seconds, size = _core.time_device_matmul(
                        args.device,
                        format_name,
                        data,
                        rows,
                        x,
                        copies=copies if tokens <= 16 else 2,
                        rotation=rotation,
                    )
                    rate, operations = size / seconds, 2 * rows * cols * tokens / seconds
                    peak = fp16 if rotation == "weight" or format_name == "f16" else int8
                    print(
                        f"| {format_name} | {rotation if rotated else ''} | {rows}x{cols} | {tokens} | {1e6 * seconds:.1f} | {rate / 1e9:.0f} | "
                        f"{100 * rate / copy:.0f} % | {operations / 1e12:.1f} | {100 * operations / peak:.0f} % |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
