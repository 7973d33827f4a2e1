"""Codes a model layer by layer against the inputs that the coded layers before give, and toward what the float model would compute.

    python tools/experiments/sequential.py SOURCE.gguf CODED.gguf TEXT -o OUT.gguf [--mode plain|inputs|outputs] [--tokens 65536]

SOURCE and CODED are llama architectures of the same model; every matrix that is in RTQ in CODED is coded anew in the same format and the
file is otherwise CODED's.  With inputs a of a matrix W in the float model and b in the coded one, `plain` minimises |(W - W') a|, `inputs`
|(W - W') b| (as GPTQ does), and `outputs` |W a - W' b| (GPTAQ, arXiv 2504.02692): the coder's target is then W E[a b] E[b b]^-1.
Needs torch.  What it gains is in docs/notebook.md.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path

import numpy as np
import torch
from activation_scales import rotation
from tune_scales import Net

from hrun import _core
from hrun.convert.encoding import PRESETS
from hrun.convert.text import read_text, spread_tokens
from hrun.tokenizer import Tokenizer

GROUPS = (("attn_q", "attn_k", "attn_v"), ("attn_output",), ("ffn_gate", "ffn_up"), ("ffn_down",))


class Reached(Exception):
    """The input that was wanted has been seen."""


class Listener(Net):
    """A net that gives the input of one matrix."""

    wanted = ""
    heard: torch.Tensor

    def linear(self, x: torch.Tensor, name: str) -> torch.Tensor:
        if name == self.wanted:
            self.heard = x
            raise Reached
        return super().linear(x, name)

    def input_of(self, name: str, x: torch.Tensor, layer: int) -> torch.Tensor:
        """float32 [rows, cols], for states x that enter the layer."""
        self.wanted = name
        try:
            self.layer(x, layer)
        except Reached:
            self.wanted = ""
            return self.heard.flatten(0, 1)
        raise ValueError(f"no matrix {name}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("coded", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--mode", choices=("plain", "inputs", "outputs"), default="outputs")
    parser.add_argument("--share", type=float, default=1.0, help="of the way to the float outputs")
    parser.add_argument("--preset", choices=PRESETS, default="best")
    parser.add_argument("--tokens", type=int, default=65536)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()

    torch.set_grad_enabled(False)
    preset = PRESETS[args.preset]
    teacher, student = Listener(args.source), Listener(args.coded)
    coded = {t.name: t for t in student.file.tensors if t.format.startswith("rtq")}
    for name in coded:
        student.weights[name] = teacher.weights[name]
    shutil.copyfile(args.coded, args.output)
    data = np.memmap(args.output, np.uint8, "r+")
    tokenizer = Tokenizer.from_gguf(str(args.source))
    ids = torch.tensor(list(spread_tokens(tokenizer, read_text(args.text), args.tokens)))
    ids = ids[: len(ids) // args.ctx * args.ctx].view(-1, args.ctx)
    texts = ids.split(args.batch)
    states = [teacher.weight("token_embd.weight")[some] for some in texts]
    own = [student.weight("token_embd.weight")[some] for some in texts]
    began = time.monotonic()
    for layer in range(teacher.layers):
        for group in GROUPS:
            names = [f"blk.{layer}.{role}.weight" for role in group]
            names = [name for name in names if name in coded]
            if not names:
                continue
            cols = teacher.weights[names[0]].shape[1]
            turn = rotation(cols)
            moments, cross = torch.zeros(cols, cols), torch.zeros(cols, cols)
            for x, y in zip(states, own):
                a = teacher.input_of(names[0], x, layer) @ turn
                b = a if args.mode == "plain" else student.input_of(names[0], y, layer) @ turn
                moments += b.T @ b / ids.numel()
                cross += a.T @ b / ids.numel()
            factor = _core.InputFactor.make(moments.numpy()[None], cols, preset.damping)
            ridge = preset.damping * moments.diagonal().mean() * torch.eye(cols)
            for name in names:
                target = teacher.weights[name]
                if args.mode == "outputs":
                    turned = target @ turn
                    change = torch.linalg.solve(moments + ridge, (cross - moments).T @ turned.T).T
                    target = (turned + args.share * change) @ turn.T
                blocks, errors, energies = _core.encode_calibrated(
                    coded[name].format, np.ascontiguousarray(target.numpy()), factor,
                    preset.survivors, preset.scale, preset.passes,
                )  # fmt: skip
                place = coded[name]
                data[place.offset : place.offset + place.n_bytes] = np.asarray(blocks).ravel()
                rows = target.shape[0]
                student.weights[name] = torch.from_numpy(
                    _core.decode(place.format, np.asarray(blocks), rows, cols)
                )
                error = errors.sum() / energies.sum()
                print(f"{time.monotonic() - began:5.0f} s {name}: {error:.5f}", flush=True)
        states = [teacher.layer(x, layer) for x in states]
        own = [student.layer(y, layer) for y in own]
    data.flush()


if __name__ == "__main__":
    main()
