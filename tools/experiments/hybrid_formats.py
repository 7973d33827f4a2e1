"""Measure which formats suit the matrices of recurrent layers, on a model that train_hybrid.py made.

    PYTHONPATH=python python tools/experiments/hybrid_formats.py FOLDER TEXT SCRATCH [--tokens 2048]

Mean KL divergence from the float32 model, uncalibrated.  First the matrices of one role each in several formats, with all others
in Q8_0, whose own divergence is taken off; then the whole model in RTQ3 and RTQ4, with more bits for some of them.  Before that,
how far the inputs of the projections are from Gaussian: the kurtosis of their values in blocks of 256 (3 is Gaussian), as they are
and after the rotation of the RTQ formats, and the mean of the largest value of a block by its rms (2.9 is Gaussian).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun import _core
from hrun.convert import PlanOptions, make_plan, open_source, write_plan
from hrun.tokenizer import Tokenizer

CHUNK = 512
ROLES = {
    "in": r"blk\.\d+\.(ssm_in|shortconv\.in_proj|attn_qkv|attn_gate)\.weight",
    "out": r"blk\.\d+\.(ssm_out|shortconv\.out_proj)\.weight",
    "feed-forward": r"blk\.\d+\.ffn_(gate|up|down)\.weight",
}
FORMATS = ("rtq2", "rtq3", "rtq4", "q2_k", "q3_k", "iq4_xs", "q4_k")
MIXES = (("rtq3", None, ""), ("rtq3", "rtq4", "out"), ("rtq3", "rtq5", "out"), ("rtq3", "rtq4", "in"), ("rtq4", None, ""), ("rtq4", "rtq5", "out"), ("rtq4", "q8_0", "out"))  # fmt: skip

Floats = npt.NDArray[np.float32]


def log_probabilities(path: Path, ids: list[int]) -> npt.NDArray[np.float64]:
    """float64 [tokens, vocabulary], in chunks that know nothing of each other."""
    model = _core.Model.load(str(path))
    rows = []
    for first in range(0, len(ids), CHUNK):
        part = ids[first : first + CHUNK]
        logits = _core.Session(model, CHUNK, type_k="f32", type_v="f32").forward(part, "all")
        wide = logits.astype(np.float64)
        wide -= wide.max(axis=1, keepdims=True)
        rows.append(wide - np.log(np.exp(wide).sum(axis=1, keepdims=True)))
    return np.concatenate(rows)


def tails(folder: Path, ids: list[int]) -> None:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).float().eval()
    seen: dict[str, list[Floats]] = {"in": [], "out": [], "down": []}
    ends = {
        "in_proj": "in",
        "in_proj_qkv": "in",
        "out_proj": "out",
        "down_proj": "down",
        "output_linear": "down",
        "w2": "down",
    }
    for name, module in model.named_modules():
        role = ends.get(name.rsplit(".", 1)[-1])
        if role is not None and "self_attn" not in name:
            module.register_forward_pre_hook(
                lambda _, args, role=role: seen[role].append(
                    args[0].detach().numpy().reshape(-1, 256)
                )
            )
    with torch.no_grad():
        model(torch.tensor([ids[:CHUNK]]))
    for role, blocks in seen.items():
        x = np.concatenate(blocks)
        rotated = _core.testing.rotate("scalar", np.ascontiguousarray(x), True)
        shown = []
        for values in (x, rotated):
            wide = values.astype(np.float64)
            power = (wide**2).mean(axis=1)
            kept = power > 0
            kurtosis = ((wide**4).mean(axis=1)[kept] / power[kept] ** 2).mean()
            largest = (np.abs(wide).max(axis=1)[kept] / np.sqrt(power[kept])).mean()
            shown.append(f"kurtosis {kurtosis:.1f}, largest / rms {largest:.1f}")
        print(f"input of {role}: {shown[0]}; rotated: {shown[1]}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--tokens", type=int, default=2048)
    args = parser.parse_args()
    source = open_source(args.folder)
    args.scratch.mkdir(exist_ok=True)

    def written(format_name: str, types: list[tuple[str, str]]) -> tuple[Path, Any]:
        plan = make_plan(source, PlanOptions(format_name, types))
        path = args.scratch / "out.gguf"
        path.unlink(missing_ok=True)
        write_plan(plan, path)
        return path, plan

    path, _ = written("f32", [])
    tokenizer = Tokenizer(_core.GGUFFile(str(path)).metadata, str(path))
    ids = tokenizer.encode(args.text.read_text(encoding="utf-8"))[: args.tokens]
    base = log_probabilities(path, ids)
    scored = base[np.arange(len(ids) - 1), ids[1:]]
    print(f"{len(ids)} tokens, perplexity {np.exp(-scored.mean()):.1f}")
    tails(args.folder, ids)

    def divergence(format_name: str, types: list[tuple[str, str]]) -> tuple[float, Any]:
        path, plan = written(format_name, types)
        other = log_probabilities(path, ids)
        return float((np.exp(base) * (base - other)).sum(axis=1).mean()), plan

    own, plan = divergence("q8_0", [])
    print(f"q8_0: {own:.6f}")
    for role, pattern in ROLES.items():
        for format_name in FORMATS:
            loss, plan = divergence("q8_0", [(pattern, format_name)])
            of_role = [p for p in plan.tensors if p.format.name == format_name]
            n = sum(p.tensor.n_values for p in of_role)
            bits = 8 * sum(p.n_bytes for p in of_role) / max(n, 1)
            print(
                f"{role} ({n / 1e6:.1f} M) {format_name} {bits:.2f}: {loss - own:.6f}", flush=True
            )
    for format_name, more, role in MIXES:
        types = [(ROLES[role], more)] if more is not None else []
        loss, plan = divergence(format_name, types)
        what = f", {role} in {more}" if more is not None else ""
        print(f"{format_name}{what} {plan.layer_bits_per_weight:.3f}: {loss:.6f}", flush=True)


if __name__ == "__main__":
    main()
