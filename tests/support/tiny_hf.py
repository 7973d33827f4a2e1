"""A small random Llama checkpoint in the layout of Hugging Face, for the converter's tests."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEMPLATE = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] }}{% endfor %}"
TEXT = [
    "the quick brown fox jumps over the lazy dog, and then it's 1234 times as quick again",
    "it was the best of times, it was the worst of times; we'll see what the times will be",
]


def to_bf16_bits(values: np.ndarray) -> np.ndarray:
    """float32 to bfloat16 by cutting: the tests want values that bf16 holds exactly."""
    return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def write_safetensors(path: Path, tensors: dict[str, np.ndarray], dtype: str) -> None:
    """dtype: F32, F16, BF16 or F64."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blobs = []
    at = 0
    for name, values in tensors.items():
        data = (
            to_bf16_bits(values)
            if dtype == "BF16"
            else values.astype({"F32": "<f4", "F16": "<f2", "F64": "<f8"}[dtype])
        ).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": list(values.shape),
            "data_offsets": [at, at + len(data)],
        }
        blobs.append(data)
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def tokenizer_json(n_vocab: int = 320) -> str:
    """A byte-level BPE with the Llama 3 splitting rule and three special tokens at the end, `n_vocab` tokens in all."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=n_vocab - 3,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXT * 3, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    )
    return tokenizer.to_str()


class TinyLlama:
    """Writes the folder; `weights` holds what was written, float32 by Hugging Face name."""

    def __init__(
        self,
        path: Path,
        *,
        layers: int = 2,
        embd: int = 256,
        ff: int = 256,
        heads: int = 4,
        kv_heads: int = 2,
        head_dim: int = 64,
        vocab: int = 320,
        tied: bool = True,
        dtype: str = "BF16",
        shards: int = 1,
        seed: int = 0,
        config: dict[str, Any] | None = None,
        weights: dict[str, np.ndarray] | None = None,
    ) -> None:
        self.path = path
        self.heads, self.kv_heads, self.head_dim, self.layers = heads, kv_heads, head_dim, layers
        path.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(seed)

        def random(*shape: int) -> np.ndarray:
            values = rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))
            return (to_bf16_bits(values).astype(np.uint32) << 16).view(np.float32)

        w = {
            "model.embed_tokens.weight": random(vocab, embd),
            "model.norm.weight": 1 + random(embd),
        }
        for i in range(layers):
            p = f"model.layers.{i}."
            w[p + "input_layernorm.weight"] = 1 + random(embd)
            w[p + "self_attn.q_proj.weight"] = random(heads * head_dim, embd)
            w[p + "self_attn.k_proj.weight"] = random(kv_heads * head_dim, embd)
            w[p + "self_attn.v_proj.weight"] = random(kv_heads * head_dim, embd)
            w[p + "self_attn.o_proj.weight"] = random(embd, heads * head_dim)
            w[p + "post_attention_layernorm.weight"] = 1 + random(embd)
            w[p + "mlp.gate_proj.weight"] = random(ff, embd)
            w[p + "mlp.up_proj.weight"] = random(ff, embd)
            w[p + "mlp.down_proj.weight"] = random(embd, ff)
        if not tied:
            w["lm_head.weight"] = random(vocab, embd)
        w.update(weights or {})
        if dtype == "BF16":
            w = {
                name: (to_bf16_bits(v).astype(np.uint32) << 16).view(np.float32)
                for name, v in w.items()
            }
        elif dtype == "F16":
            w = {name: v.astype(np.float16).astype(np.float32) for name, v in w.items()}
        self.weights = w
        self.config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": vocab,
            "hidden_size": embd,
            "intermediate_size": ff,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "max_position_embeddings": 512,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": tied,
            "attention_bias": False,
            "mlp_bias": False,
            **(config or {}),
        }
        self.write_config()
        (path / "tokenizer.json").write_text(tokenizer_json(min(vocab, 320)), encoding="utf-8")
        end = min(vocab, 320) - 3
        self.write_json(
            "tokenizer_config.json",
            {
                "bos_token": "<|endoftext|>",
                "eos_token": {"content": "<|im_end|>", "special": True},
                "add_bos_token": False,
                "chat_template": TEMPLATE,
            },
        )
        self.write_json(
            "generation_config.json",
            {"eos_token_id": [end + 2, end], "bos_token_id": end, "temperature": 0.6},
        )
        if shards == 1:
            write_safetensors(path / "model.safetensors", w, dtype)
        else:
            names = list(w)
            weight_map = {}
            for s in range(shards):
                file = f"model-{s + 1:05d}-of-{shards:05d}.safetensors"
                part = {name: w[name] for name in names[s::shards]}
                write_safetensors(path / file, part, dtype)
                weight_map.update(dict.fromkeys(part, file))
            self.write_json(
                "model.safetensors.index.json",
                {"metadata": {"total_size": 1}, "weight_map": weight_map},
            )

    def write_json(self, name: str, value: Any) -> None:
        (self.path / name).write_text(json.dumps(value), encoding="utf-8")

    def write_config(self, **changes: Any) -> None:
        """config.json with `changes`; a value of ... removes the key."""
        config = {**self.config, **changes}
        self.write_json("config.json", {k: v for k, v in config.items() if v is not ...})

    def gguf_weights(self) -> dict[str, np.ndarray]:
        """Returns the weights that the GGUF file must hold, by GGUF name; the heads of q and k are
        reordered one row at a time.
        """
        names = {
            "input_layernorm": "attn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.o_proj": "attn_output",
            "post_attention_layernorm": "ffn_norm",
            "mlp.gate_proj": "ffn_gate",
            "mlp.up_proj": "ffn_up",
            "mlp.down_proj": "ffn_down",
        }
        out = {
            "token_embd.weight": self.weights["model.embed_tokens.weight"],
            "output_norm.weight": self.weights["model.norm.weight"],
        }
        if "lm_head.weight" in self.weights:
            out["output.weight"] = self.weights["lm_head.weight"]
        for i in range(self.layers):
            for theirs, ours in names.items():
                values = self.weights[f"model.layers.{i}.{theirs}.weight"]
                if ours in ("attn_q", "attn_k"):
                    values = interleaved(values, self.head_dim)
                out[f"blk.{i}.{ours}.weight"] = values
        return out


def interleaved(values: np.ndarray, head_dim: int) -> np.ndarray:
    """Row 2i of a head is Hugging Face's row i, row 2i + 1 its row i + head_dim / 2."""
    out = np.empty_like(values)
    for row in range(values.shape[0]):
        head, i = divmod(row, head_dim)
        out[row] = values[head * head_dim + (i // 2 if i % 2 == 0 else i // 2 + head_dim // 2)]
    return out
