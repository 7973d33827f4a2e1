"""Write a Llama GGUF of any size with random weights in any format, for speed measurements.

    python tools/bench/random_model.py -o model.gguf --format rtq3 [--embd 2048 --ff 8192 --layers 8 --heads 32 --kv-heads 8
                                       --vocab 32000] [--head-format q6_k] [--experts 32 --used 8 --expert-ff 768]

With experts it is a Qwen 3 with experts instead of a Llama.

Encoding billions of weights would take minutes, and speed does not depend on their values: 64 random rows are encoded per
row length and repeated; of formats that hrun does not write, random blocks of a plausible size are taken.  The file loads in llama.cpp too, where the format exists there.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np

from hrun import _core

PATTERN_ROWS = 64


def random_blocks(
    form: _core.FormatInfo, count: int, size: float, rng: np.random.Generator
) -> np.ndarray:
    """uint8 [count, block_bytes]: random bytes that decode to weights of about this size (root mean square)."""
    found: list[np.ndarray] = []
    while sum(len(blocks) for blocks in found) < count:
        drawn = rng.integers(0, 256, (8192, form.block_bytes), dtype=np.uint8)
        with np.errstate(all="ignore"):
            rms = np.sqrt(
                np.mean(
                    np.square(
                        _core.decode(form.name, drawn.ravel(), len(drawn), form.block_values)
                    ),
                    axis=1,
                )
            )
            found.append(drawn[(rms > size / 2) & (rms < size * 2)])
    return np.concatenate(found)[:count]


def random_rows(format_name: str, cols: int, rows: int, size: float, seed: int = 1) -> np.ndarray:
    """uint8 [rows * row_bytes]: PATTERN_ROWS random rows of weights of this size, over and over."""
    rng = np.random.default_rng(seed)
    form = next(f for f in _core.formats() if f.name == format_name)
    if form.encodable:
        pattern = _core.encode(
            format_name, size * rng.standard_normal((PATTERN_ROWS, cols), dtype=np.float32)
        )
    else:
        pattern = random_blocks(form, PATTERN_ROWS * cols // form.block_values, size, rng).ravel()
    repeats = -(-rows // PATTERN_ROWS)
    return np.tile(pattern, repeats)[: pattern.size // PATTERN_ROWS * rows]


def main() -> None:
    formats = [
        f.name for f in _core.formats() if not re.fullmatch("[if][0-9]+", f.name) or f.encodable
    ]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--format", choices=formats, required=True)
    parser.add_argument(
        "--head-format", choices=formats, help="of embedding and head (default: as the layers)"
    )
    for name, value in {
        "embd": 2048,
        "ff": 8192,
        "layers": 8,
        "heads": 32,
        "kv_heads": 8,
        "vocab": 32000,
        "ctx": 8192,
        "experts": 0,
        "used": 8,
        "expert_ff": 768,
    }.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    args = parser.parse_args()

    head = args.head_format or args.format
    head_dim = args.embd // args.heads
    kv = args.kv_heads * head_dim
    tensors = [
        ("token_embd.weight", head, args.embd, args.vocab),
        ("output_norm.weight", "f32", args.embd, 0),
        ("output.weight", head, args.embd, args.vocab),
    ]
    for layer in range(args.layers):
        blk = f"blk.{layer}."
        tensors += [
            (blk + "attn_norm.weight", "f32", args.embd, 0),
            (blk + "attn_q.weight", args.format, args.embd, args.embd),
            (blk + "attn_k.weight", args.format, args.embd, kv),
            (blk + "attn_v.weight", args.format, args.embd, kv),
            (blk + "attn_output.weight", args.format, args.embd, args.embd),
            (blk + "ffn_norm.weight", "f32", args.embd, 0),
        ]
        if args.experts:
            n, ff = args.experts, args.expert_ff
            tensors += [
                (blk + "attn_q_norm.weight", "f32", head_dim, 0),
                (blk + "attn_k_norm.weight", "f32", head_dim, 0),
                (blk + "ffn_gate_inp.weight", "f32", args.embd, n),
                (blk + "ffn_gate_exps.weight", args.format, args.embd, (ff, n)),
                (blk + "ffn_up_exps.weight", args.format, args.embd, (ff, n)),
                (blk + "ffn_down_exps.weight", args.format, ff, (args.embd, n)),
            ]
        else:
            tensors += [
                (blk + "ffn_gate.weight", args.format, args.embd, args.ff),
                (blk + "ffn_up.weight", args.format, args.embd, args.ff),
                (blk + "ffn_down.weight", args.format, args.ff, args.embd),
            ]

    writer = _core.GGUFWriter(str(args.output))
    numbers = {
        "vocab_size": args.vocab,
        "context_length": args.ctx,
        "embedding_length": args.embd,
        "block_count": args.layers,
        "feed_forward_length": args.ff,
        "attention.head_count": args.heads,
        "attention.head_count_kv": args.kv_heads,
        "rope.dimension_count": head_dim,
    }
    if args.experts:
        numbers |= {
            "expert_count": args.experts,
            "expert_used_count": args.used,
            "expert_feed_forward_length": args.expert_ff,
            "attention.key_length": head_dim,
            "attention.value_length": head_dim,
        }
    architecture = "qwen3moe" if args.experts else "llama"
    writer.add("general.architecture", "string", architecture)
    writer.add("general.name", "string", f"random {args.format}")
    for key, value in numbers.items():
        writer.add(f"{architecture}.{key}", "u32", value)
    writer.add(f"{architecture}.attention.layer_norm_rms_epsilon", "f32", 1e-5)
    writer.add(f"{architecture}.rope.freq_base", "f32", 10000.0)
    # A SentencePiece vocabulary that llama.cpp accepts: three control tokens, the 256 bytes, and filler.
    words = (
        ["<unk>", "<s>", "</s>"]
        + [f"<0x{b:02X}>" for b in range(256)]
        + [f"w{i}" for i in range(args.vocab - 259)]
    )
    writer.add("tokenizer.ggml.model", "string", "llama")
    writer.add("tokenizer.ggml.tokens", "array<string>", words[: args.vocab])
    writer.add("tokenizer.ggml.scores", "array<f32>", [0.0] * args.vocab)
    writer.add(
        "tokenizer.ggml.token_type",
        "array<i32>",
        ([2, 3, 3] + [6] * 256 + [1] * args.vocab)[: args.vocab],
    )
    for key, value in {"unknown": 0, "bos": 1, "eos": 2}.items():
        writer.add(f"tokenizer.ggml.{key}_token_id", "u32", value)
    for name, kind, cols, rows in tensors:
        shape = (cols, *rows) if isinstance(rows, tuple) else (cols, rows) if rows else (cols,)
        writer.add_tensor(name, shape, kind)
    cache: dict[tuple[str, int, int], np.ndarray] = {}
    for name, kind, cols, rows in tensors:
        if not rows:
            writer.write_tensor(name, np.ones(cols, np.float32).view(np.uint8))
            continue
        rows = int(np.prod(rows))
        if (kind, cols, rows) not in cache:
            cache[kind, cols, rows] = random_rows(
                kind, cols, rows, size=cols**-0.5, seed=cols + rows
            )
        writer.write_tensor(name, cache[kind, cols, rows])
    writer.finish()


if __name__ == "__main__":
    main()
