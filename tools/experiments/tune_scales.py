"""Tunes what costs no bytes in a coded file, the block scales and the norms, against the float model's logits.

    python tools/experiments/tune_scales.py SOURCE.gguf CODED.gguf TEXT -o TUNED.gguf [--tokens 65536] [--epochs 2] [--rate 0.002]

SOURCE and CODED are llama architectures (Llama, SmolLM2) of the same model, CODED with matrices in RTQ.  Codes stay as they are: each
block's scale and each norm's weight gets a factor, moved by Adam on the KL divergence of CODED's next token from SOURCE's over TEXT.
Needs torch.  What it gains is in docs/notebook.md.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from hrun import _core
from hrun.convert.text import read_text, spread_tokens
from hrun.tokenizer import Tokenizer

BLOCK = 256


class Net:
    """The decoder of a llama file, its matrices as floats."""

    def __init__(self, path: Path) -> None:
        self.file = _core.GGUFFile(str(path))
        meta = self.file.metadata
        self.heads = meta["llama.attention.head_count"]
        self.kv_heads = meta["llama.attention.head_count_kv"]
        self.layers = meta["llama.block_count"]
        self.eps = meta["llama.attention.layer_norm_rms_epsilon"]
        self.base = meta.get("llama.rope.freq_base", 10000.0)
        self.weights: dict[str, torch.Tensor] = {}
        for t in self.file.tensors:
            cols, rows = (*t.shape, 1)[:2]
            values = _core.decode(t.format, np.ascontiguousarray(t.data), rows, cols)
            self.weights[t.name] = torch.from_numpy(values if len(t.shape) == 2 else values[0])
        self.factors: dict[str, torch.Tensor] = {}

    def learn(self) -> list[torch.Tensor]:
        """Factors of all block scales and norms, to be moved."""
        for t in self.file.tensors:
            if len(t.shape) == 1:
                self.factors[t.name] = torch.ones(t.shape[0], requires_grad=True)
            elif t.format.startswith("rtq"):
                cols, rows = t.shape
                self.factors[t.name] = torch.ones(rows, -(-cols // BLOCK), requires_grad=True)
        return list(self.factors.values())

    def weight(self, name: str) -> torch.Tensor:
        w, factor = self.weights[name], self.factors.get(name)
        if factor is None:
            return w
        if w.dim() == 1:
            return w * factor
        return w * factor.repeat_interleave(BLOCK, dim=1)[:, : w.shape[1]]

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return F.linear(x, self.weight(name))

    def logits(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.weight("token_embd.weight")[tokens]
        for i in range(self.layers):
            x = self.layer(x, i)
        return self.head(x)

    def layer(self, x: torch.Tensor, i: int) -> torch.Tensor:
        """float32 [texts, positions, width] through a layer."""
        n, length = x.shape[:2]
        dim = self.weights["blk.0.attn_q.weight"].shape[0] // self.heads
        angles = torch.outer(
            torch.arange(length), self.base ** (-torch.arange(0, dim, 2).float() / dim)
        )
        cos, sin = angles.cos(), angles.sin()

        def turned(x: torch.Tensor) -> torch.Tensor:  # neighbours are a pair, as in GGUF files
            even, odd = x[..., 0::2], x[..., 1::2]
            return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2)

        def heads(x: torch.Tensor, count: int) -> torch.Tensor:
            return x.view(n, length, count, dim).transpose(1, 2)

        at = f"blk.{i}."
        h = self.norm(x, at + "attn_norm.weight")
        q = turned(heads(self.linear(h, at + "attn_q.weight"), self.heads))
        k = turned(heads(self.linear(h, at + "attn_k.weight"), self.kv_heads))
        v = heads(self.linear(h, at + "attn_v.weight"), self.kv_heads)
        a = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        a = a.transpose(1, 2).reshape(n, length, -1)
        x = x + self.linear(a, at + "attn_output.weight")
        h = self.norm(x, at + "ffn_norm.weight")
        gate = F.silu(self.linear(h, at + "ffn_gate.weight"))
        up = self.linear(h, at + "ffn_up.weight")
        return x + self.linear(gate * up, at + "ffn_down.weight")

    def head(self, x: torch.Tensor) -> torch.Tensor:
        head = "output.weight" if "output.weight" in self.weights else "token_embd.weight"
        return self.linear(self.norm(x, "output_norm.weight"), head)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        return x * (x.square().mean(-1, keepdim=True) + self.eps).rsqrt() * self.weight(name)

    def save(self, path: Path) -> None:
        """The file with the factors in its scales and norms."""
        shutil.copyfile(self.file.path, path)
        data = np.memmap(path, np.uint8, "r+")
        for t in self.file.tensors:
            if t.name not in self.factors:
                continue
            factor = self.factors[t.name].detach().numpy()
            here = data[t.offset : t.offset + t.n_bytes]
            if len(t.shape) == 1:
                here.view("<f4")[:] *= factor
                continue
            rows = here.reshape(t.shape[1], -1)
            block_bytes = 2 + BLOCK * int(t.format[3:]) // 8
            for block in range(factor.shape[1]):
                at = block * block_bytes
                scales = np.ascontiguousarray(rows[:, at : at + 2]).view("<f2")[:, 0]
                new = (scales.astype(np.float32) * factor[:, block]).astype("<f2")
                rows[:, at : at + 2] = new[:, None].view(np.uint8)
        data.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("coded", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rate", type=float, default=0.002)
    parser.add_argument("--ctx", type=int, default=256)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--minutes", type=float, default=7)
    args = parser.parse_args()

    torch.manual_seed(1)
    teacher, student = Net(args.source), Net(args.coded)
    tokenizer = Tokenizer.from_gguf(str(args.source))
    ids = torch.tensor(list(spread_tokens(tokenizer, read_text(args.text), args.tokens)))
    ids = ids[: len(ids) // args.ctx * args.ctx].view(-1, args.ctx)
    optimizer = torch.optim.Adam(student.learn(), lr=args.rate, betas=(0.9, 0.95))
    n_steps, done, began = args.epochs * (len(ids) // args.batch), 0, time.monotonic()
    recent: list[float] = []
    for _ in range(args.epochs):
        for some in torch.randperm(len(ids)).split(args.batch):
            spent = (time.monotonic() - began) / (60 * args.minutes)
            left = 1 - max(done / n_steps, spent)
            if left <= 0:
                break
            for group in optimizer.param_groups:
                group["lr"] = args.rate * left
            with torch.no_grad():
                wanted = F.log_softmax(teacher.logits(ids[some]), -1)
            found = F.log_softmax(student.logits(ids[some]), -1)
            loss = F.kl_div(found, wanted, reduction="sum", log_target=True) / ids[some].numel()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            recent.append(loss.item())
            done += 1
            if done % 32 == 0 or done == 1:
                print(f"{done} of {n_steps}: {np.mean(recent):.5f}", flush=True)
                recent = []
    student.save(args.output)


if __name__ == "__main__":
    main()
