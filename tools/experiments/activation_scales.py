"""What finer scales of the int8 activations would be worth: KL divergence of coded files from their source, simulated.

    python tools/experiments/activation_scales.py SOURCE.gguf TEXT CODED.gguf... [--columns 0,256,64,32] [--chunks 4]

SOURCE and the CODED files are llama architectures (Llama, SmolLM2), CODED in RTQ.  The inputs of every matrix are rotated, rounded to
int8 with a scale for so many columns (0: not rounded; 256 is what hrun does), and rotated back; all else is computed in float32.  The
second half of each chunk of 512 tokens counts.  Needs torch.  What it found is in docs/notebook.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tune_scales import Net

from hrun.convert.text import chunks_of, read_text
from hrun.tokenizer import Tokenizer


def sign(column: int) -> float:
    mask = (1 << 64) - 1
    x = (column + 0x9E3779B97F4A7C15) & mask
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & mask
    x = (x ^ x >> 27) * 0x94D049BB133111EB & mask
    return -1.0 if (x ^ x >> 31) >> 63 else 1.0


def hadamard(n: int) -> np.ndarray:
    out = np.ones((1, 1))
    while len(out) < n:
        out = np.block([[out, out], [out, -out]])
    return out / np.sqrt(n)


def rotation(cols: int) -> torch.Tensor:
    """[cols, cols]: x @ rotation is the rotated x, whose inverse is the transposed one."""
    out, at = np.zeros((cols, cols)), 0
    while at < cols:
        n = next(p for p in (256, 128, 64, 32) if p <= cols - at)
        out[at : at + n, at : at + n] = hadamard(n)
        at += n
    signs = np.array([sign(c) for c in range(cols)])
    return torch.from_numpy((signs[:, None] * out).astype(np.float32))


class Rounded(Net):
    """A net whose matrices read rounded inputs."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.columns = 0
        self._rotations: dict[int, torch.Tensor] = {}

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(self.rounded(x), self.weight(name))

    def rounded(self, x: torch.Tensor) -> torch.Tensor:
        if self.columns == 0:
            return x
        cols = x.shape[-1]
        r = self._rotations.setdefault(cols, rotation(cols))
        turned = x @ r
        pieces = []
        for first in range(0, cols, 256):
            for piece in turned[..., first : first + 256].split(self.columns, dim=-1):
                scale = piece.abs().amax(-1, keepdim=True) / 127
                pieces.append((piece / scale.clamp(min=1e-30)).round() * scale)
        return torch.cat(pieces, -1) @ r.T


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("coded", type=Path, nargs="*")
    parser.add_argument("--columns", default="0,256,64,32")
    parser.add_argument("--chunks", type=int, default=4)
    args = parser.parse_args()

    tokenizer = Tokenizer.from_gguf(str(args.source))
    ids = tokenizer.encode(read_text(args.text).decode(), add_special=False)
    chunks = chunks_of(ids[: 512 * args.chunks], tokenizer.bos_id if tokenizer.adds_bos else None)

    def predictions(net: Net) -> list[torch.Tensor]:
        with torch.no_grad():
            return [
                F.log_softmax(net.logits(torch.tensor([chunk]))[0, 256:], -1) for chunk in chunks
            ]

    wanted = predictions(Net(args.source))
    sizes = [int(word) for word in args.columns.split(",")]
    print(f"| file | {' | '.join(str(n) if n else 'float' for n in sizes)} |")
    print(f"|---|{'--:|' * len(sizes)}")
    for path in (args.source, *args.coded):
        net, row = Rounded(path), []
        for net.columns in sizes:
            found = predictions(net)
            parts = [(p.exp() * (p - q)).sum(-1) for p, q in zip(wanted, found)]
            row.append(torch.cat(parts).mean().item())
        print(f"| {path.name} | {' | '.join(f'{x:.5f}' for x in row)} |", flush=True)


if __name__ == "__main__":
    main()
