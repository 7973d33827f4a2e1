"""Writes tiny random Llama models, for tests: everything a real file has, in a few kilobytes.

The file is written by the independent ``gguf`` package, not by hrun's own writer, so that a test which loads it checks the
reader against someone else's idea of the format.  Equal configurations give equal bytes.

    python tools/make_tiny_models.py -o tiny.gguf --format q8_0
    python tools/make_tiny_models.py -o wide.gguf --embd 256 --format rtq3 --tensor-format token_embd=q8_0

From Python::

    write_tiny_model(path, TinyConfig(n_embd=256, format="itq3_s", tied=False))
"""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import gguf
import numpy as np

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>")
# Enough pairs for a test to see merging; frequent in English, each built from earlier ones.
MERGES = (
    "t h", "h e", "i n", "e r", "a n", "r e", "o n", "e s", "o r", "t i", "e n", "a t", "e d", "n d", "th e", "an d", "in g",
    "Ġ t", "Ġ a", "Ġ s", "Ġ w", "Ġt he", "Ġa nd", "o f", "Ġ of", "i s", "Ġ is", "i t", "Ġ in", "t o", "Ġ to", "er e", "l l",
    "o u", "l e", "a l", "Ġ the", "c e", "s t",
)  # fmt: skip


@dataclass(frozen=True)
class TinyConfig:
    """Sizes and options of a tiny model.

    ``format`` is the format of all matrices, ``tensor_formats`` maps regular expressions over GGUF tensor names to others
    (the first that matches wins); vectors are f32.  ``rope_scaling`` is None or a dict with "type" one of "linear", "yarn",
    "llama3" and the parameters of Hugging Face's ``rope_scaling``.
    """

    n_layers: int = 2
    n_embd: int = 64
    n_heads: int = 4
    n_kv_heads: int = 2
    head_dim: int | None = None  # None: n_embd / n_heads
    n_ff: int = 96
    n_vocab: int = 300
    n_ctx: int = 256
    format: str = "f16"
    tensor_formats: Mapping[str, str] = field(default_factory=dict)
    tied: bool = True
    biases: bool = False
    rope_base: float = 10000.0
    rope_scaling: Mapping[str, float | str] | None = None
    rms_eps: float = 1e-5
    chat_template: str | None = CHAT_TEMPLATE
    seed: int = 0

    @property
    def k_dim(self) -> int:
        return self.head_dim if self.head_dim is not None else self.n_embd // self.n_heads


def byte_to_unicode() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE vocabularies (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(b) if b in printable else chr(next(others)) for b in range(256)]


def vocabulary(n_vocab: int) -> tuple[list[str], list[int], list[str]]:
    """Tokens, token types and merges: 256 bytes, merged pairs, unused fillers, special tokens at the end."""
    tokens = byte_to_unicode()
    room = n_vocab - len(tokens) - len(SPECIAL_TOKENS)
    if room < 0:
        raise ValueError(f"a vocabulary needs at least {n_vocab - room} tokens, got {n_vocab}")
    merges: list[str] = []
    for merge in MERGES:
        merged = merge.replace(" ", "")
        if len(merges) < room and merged not in tokens:
            merges.append(merge)
            tokens.append(merged)
    types = [int(gguf.TokenType.NORMAL)] * len(tokens)
    while len(tokens) < n_vocab - len(SPECIAL_TOKENS):
        tokens.append(f"[unused{len(tokens)}]")
        types.append(int(gguf.TokenType.UNUSED))
    tokens += SPECIAL_TOKENS
    types += [int(gguf.TokenType.CONTROL)] * len(SPECIAL_TOKENS)
    return tokens, types, merges


def llama3_factors(n_rot: int, base: float, scaling: Mapping[str, float | str]) -> np.ndarray:
    """Factors by which the llama3 scaling divides each frequency, float32 [n_rot / 2]."""
    factor, low, high = (
        float(scaling[k]) for k in ("factor", "low_freq_factor", "high_freq_factor")
    )
    context = float(scaling["original_max_position_embeddings"])
    factors = []
    for i in range(n_rot // 2):
        wavelength = 2 * math.pi * base ** (2 * i / n_rot)
        turns = context / wavelength
        smooth = min(max((turns - low) / (high - low), 0.0), 1.0)
        factors.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(factors, dtype=np.float32)


def weights(config: TinyConfig) -> Iterator[tuple[str, np.ndarray]]:
    """(GGUF name, float32 array) in file order; matrices are [rows, cols], vectors [cols]."""
    rng = np.random.default_rng(config.seed)
    embd, ff, d = config.n_embd, config.n_ff, config.k_dim
    q, kv = config.n_heads * d, config.n_kv_heads * d

    def matrix(rows: int, cols: int) -> np.ndarray:
        return (rng.standard_normal((rows, cols)) / math.sqrt(cols)).astype(np.float32)

    def vector(cols: int, centre: float) -> np.ndarray:
        return (centre + 0.1 * rng.standard_normal(cols)).astype(np.float32)

    yield "token_embd.weight", rng.standard_normal((config.n_vocab, embd)).astype(np.float32)
    yield "output_norm.weight", vector(embd, 1)
    if not config.tied:
        yield "output.weight", matrix(config.n_vocab, embd)
    if config.rope_scaling is not None and config.rope_scaling["type"] == "llama3":
        yield "rope_freqs.weight", llama3_factors(d, config.rope_base, config.rope_scaling)
    for layer in range(config.n_layers):
        blk = f"blk.{layer}."
        yield blk + "attn_norm.weight", vector(embd, 1)
        for name, rows in (("attn_q", q), ("attn_k", kv), ("attn_v", kv)):
            yield f"{blk}{name}.weight", matrix(rows, embd)
            if config.biases:
                yield f"{blk}{name}.bias", vector(rows, 0)
        yield blk + "attn_output.weight", matrix(embd, q)
        yield blk + "ffn_norm.weight", vector(embd, 1)
        yield blk + "ffn_gate.weight", matrix(ff, embd)
        yield blk + "ffn_up.weight", matrix(ff, embd)
        yield blk + "ffn_down.weight", matrix(embd, ff)


def format_of(config: TinyConfig, name: str, array: np.ndarray) -> str:
    if array.ndim == 1:
        return "f32"
    return next(
        (f for pattern, f in config.tensor_formats.items() if re.search(pattern, name)),
        config.format,
    )


def _add_metadata(writer: gguf.GGUFWriter, config: TinyConfig) -> None:
    writer.add_name(f"tiny {config.seed}")
    writer.add_block_count(config.n_layers)
    writer.add_context_length(config.n_ctx)
    writer.add_embedding_length(config.n_embd)
    writer.add_feed_forward_length(config.n_ff)
    writer.add_head_count(config.n_heads)
    writer.add_head_count_kv(config.n_kv_heads)
    if config.head_dim is not None:
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_eps)
    writer.add_rope_dimension_count(config.k_dim)
    writer.add_rope_freq_base(config.rope_base)
    writer.add_vocab_size(config.n_vocab)
    if config.rope_scaling is not None and config.rope_scaling["type"] != "llama3":
        writer.add_rope_scaling_type(gguf.RopeScalingType(str(config.rope_scaling["type"])))
        writer.add_rope_scaling_factor(float(config.rope_scaling["factor"]))
        if "original_max_position_embeddings" in config.rope_scaling:
            writer.add_rope_scaling_orig_ctx_len(
                int(config.rope_scaling["original_max_position_embeddings"])
            )


def _add_tokenizer(writer: gguf.GGUFWriter, config: TinyConfig) -> None:
    tokens, types, merges = vocabulary(config.n_vocab)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index("<|bos|>"))
    writer.add_eos_token_id(tokens.index("<|im_end|>" if config.chat_template else "<|eos|>"))
    writer.add_pad_token_id(tokens.index("<|pad|>"))
    writer.add_add_bos_token(True)
    if config.chat_template is not None:
        writer.add_chat_template(config.chat_template)


def write_tiny_model(path: Path | str, config: TinyConfig = TinyConfig()) -> Path:
    """Writes the model and returns its path.  Raises hrun.ArgumentError for a format that does not fit a tensor."""
    path = Path(path)
    writer = gguf.GGUFWriter(path, "llama")
    _add_metadata(writer, config)
    _add_tokenizer(writer, config)
    encoded = []
    for name, array in weights(config):
        format_id, data = encode(format_of(config, name, array), array, name)
        # Not add_tensor: the package knows no ids but GGML's.  With a float dtype it takes shape and id as they are.
        writer.add_tensor_info(
            name, array.shape, np.dtype(np.float32), data.nbytes, raw_dtype=format_id
        )  # type: ignore[arg-type]
        encoded.append(data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for data in encoded:
        writer.write_tensor_data(data)
    writer.close()
    return path


def encode(format_name: str, array: np.ndarray, tensor: str) -> tuple[int, np.ndarray]:
    """(format id, bytes) of a float32 array.  F32 and F16 need no hrun, all others its encoder."""
    if format_name == "f32":
        return int(gguf.GGMLQuantizationType.F32), array.view(np.uint8).reshape(-1)
    if format_name == "f16":
        return int(gguf.GGMLQuantizationType.F16), array.astype(np.float16).view(np.uint8).reshape(
            -1
        )
    from hrun import _core

    format_id = next((f.id for f in _core.formats() if f.name == format_name), None)
    if format_id is None:
        raise _core.ArgumentError(f"unknown format '{format_name}'")
    return format_id, _core.encode(format_name, np.atleast_2d(array), tensor=tensor)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Write a tiny random Llama model as GGUF.")
    default = TinyConfig()
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--layers", type=int, default=default.n_layers)
    parser.add_argument("--embd", type=int, default=default.n_embd)
    parser.add_argument("--heads", type=int, default=default.n_heads)
    parser.add_argument("--kv-heads", type=int, default=default.n_kv_heads)
    parser.add_argument("--ff", type=int, help="feed-forward width (default: 1.5 times --embd)")
    parser.add_argument("--vocab", type=int, default=default.n_vocab)
    parser.add_argument("--ctx", type=int, default=default.n_ctx)
    parser.add_argument(
        "--format", default=default.format, help="of all matrices (default: %(default)s)"
    )
    parser.add_argument("--tensor-format", action="append", default=[], metavar="REGEX=FORMAT")
    parser.add_argument(
        "--rope",
        choices=["none", "linear", "yarn", "llama3"],
        default="none",
        help="scaling, with factor 4",
    )
    parser.add_argument(
        "--untied", action="store_true", help="give the model an output.weight of its own"
    )
    parser.add_argument("--biases", action="store_true")
    parser.add_argument("--no-chat-template", action="store_true")
    parser.add_argument("--seed", type=int, default=default.seed)
    args = parser.parse_args(arguments)
    scaling = {
        "type": args.rope, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": max(args.ctx // 4, 1),
    }  # fmt: skip
    config = TinyConfig(
        n_layers=args.layers, n_embd=args.embd, n_heads=args.heads, n_kv_heads=args.kv_heads,
        n_ff=args.ff if args.ff is not None else args.embd * 3 // 2, n_vocab=args.vocab, n_ctx=args.ctx, format=args.format,
        tensor_formats=dict(item.split("=", 1) for item in args.tensor_format), tied=not args.untied, biases=args.biases,
        rope_scaling=None if args.rope == "none" else scaling,
        chat_template=None if args.no_chat_template else default.chat_template, seed=args.seed,
    )  # fmt: skip
    write_tiny_model(args.output, config)
    print(f"{args.output}: {args.output.stat().st_size} bytes", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
