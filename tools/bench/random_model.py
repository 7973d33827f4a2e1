"""Write a Llama GGUF of any size with random weights in any format, for speed measurements.

    python tools/bench/random_model.py -o model.gguf --format rtq3 [--embd 2048 --ff 8192 --layers 8 --heads 32 --kv-heads 8
                                       --vocab 32000] [--head-format q6_k] [--experts 32 --used 8 --expert-ff 768] [--recurrent]

With experts it is a Qwen 3 with experts instead of a Llama; with --recurrent a Qwen 3.5, three of four layers of the gated
delta rule and heads of 256 in the others (--embd 2048 --ff 6144 --layers 24 --heads 8 --kv-heads 2 is the 2B's).

Encoding billions of weights would take minutes, and speed does not depend on their values: 64 random rows are encoded per
row length and repeated; of formats that hrun does not write, random blocks of a plausible size are taken.  The file loads in llama.cpp too, where the format exists there.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np

from hrun import _core

PATTERN_ROWS = 64
# Of the gated delta rule: values of a head of keys and of values, and taps of the convolution.
STATE, TAPS = 128, 4
Tensor = tuple[str, str, int, Any]  # name, format, columns, rows: 0 for a vector


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


def layer_tensors(args: argparse.Namespace, blk: str, layer: int, head_dim: int) -> list[Tensor]:
    embd, heads, form = args.embd, args.heads * head_dim, args.format
    kv = args.kv_heads * head_dim
    head_norms = [(blk + f"attn_{x}_norm.weight", "f32", head_dim, 0) for x in "qk"]
    tensors = [(blk + "attn_norm.weight", "f32", embd, 0)]
    if args.recurrent and (layer + 1) % 4 != 0:
        n = embd // STATE
        tensors += [
            (blk + "attn_qkv.weight", form, embd, 3 * embd),
            (blk + "attn_gate.weight", form, embd, embd),
            (blk + "ssm_alpha.weight", "f32", embd, n),
            (blk + "ssm_beta.weight", "f32", embd, n),
            (blk + "ssm_conv1d.weight", "f32", TAPS, 3 * embd),
            (blk + "ssm_dt.bias", "f32", n, 0),
            (blk + "ssm_a", "f32", n, 0),
            (blk + "ssm_norm.weight", "f32", STATE, 0),
            (blk + "ssm_out.weight", form, embd, embd),
        ]
    else:
        tensors += [
            (blk + "attn_q.weight", form, embd, heads * (2 if args.recurrent else 1)),
            (blk + "attn_k.weight", form, embd, kv),
            (blk + "attn_v.weight", form, embd, kv),
            (blk + "attn_output.weight", form, heads, embd),
            *(head_norms if args.recurrent or args.experts else []),
        ]
    norm = "post_attention_norm" if args.recurrent else "ffn_norm"
    tensors.append((blk + norm + ".weight", "f32", embd, 0))
    if args.experts:
        n, ff = args.experts, args.expert_ff
        return [
            *tensors,
            (blk + "ffn_gate_inp.weight", "f32", embd, n),
            (blk + "ffn_gate_exps.weight", form, embd, (ff, n)),
            (blk + "ffn_up_exps.weight", form, embd, (ff, n)),
            (blk + "ffn_down_exps.weight", form, ff, (embd, n)),
        ]
    return [
        *tensors,
        (blk + "ffn_gate.weight", form, embd, args.ff),
        (blk + "ffn_up.weight", form, embd, args.ff),
        (blk + "ffn_down.weight", form, args.ff, embd),
    ]


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
    parser.add_argument("--recurrent", action="store_true", help="a Qwen 3.5")
    args = parser.parse_args()
    if args.recurrent and (args.experts or args.embd % STATE):
        parser.error(f"--recurrent goes with a width that is a multiple of {STATE}, and no experts")

    head = args.head_format or args.format
    head_dim = 256 if args.recurrent else args.embd // args.heads
    tensors: list[Tensor] = [
        ("token_embd.weight", head, args.embd, args.vocab),
        ("output_norm.weight", "f32", args.embd, 0),
        ("output.weight", head, args.embd, args.vocab),
    ]
    for layer in range(args.layers):
        tensors += layer_tensors(args, f"blk.{layer}.", layer, head_dim)

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
        }
    if args.experts or args.recurrent:
        numbers |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    if args.recurrent:
        numbers |= {
            "rope.dimension_count": head_dim // 4,
            "full_attention_interval": 4,
            "ssm.conv_kernel": TAPS,
            "ssm.state_size": STATE,
            "ssm.group_count": args.embd // STATE,
            "ssm.time_step_rank": args.embd // STATE,
            "ssm.inner_size": args.embd,
        }
    architecture = "qwen35" if args.recurrent else "qwen3moe" if args.experts else "llama"
    writer.add("general.architecture", "string", architecture)
    writer.add("general.name", "string", f"random {args.format}")
    for key, value in numbers.items():
        writer.add(f"{architecture}.{key}", "u32", value)
    writer.add(f"{architecture}.attention.layer_norm_rms_epsilon", "f32", 1e-5)
    writer.add(f"{architecture}.rope.freq_base", "f32", 10000.0)
    if args.recurrent:
        writer.add(f"{architecture}.rope.dimension_sections", "array<u32>", [11, 11, 10, 0])
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
            # The rates of the delta rule's decays are negative.
            value = np.full(cols, -1 if name.endswith("ssm_a") else 1, np.float32)
            writer.write_tensor(name, value.view(np.uint8))
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
