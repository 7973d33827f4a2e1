"""Checkpoints of architectures, or with tensors, that transformers does not write, made of those that it does."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np


def rewrite_checkpoint(
    folder: Path,
    names: Mapping[str, str],
    together: str,
    join: Callable[[list[np.ndarray]], np.ndarray],
) -> None:
    """Gives parts of the tensors' names other names, and each layer's queries, keys and values the one name ``together``."""
    from safetensors.numpy import load_file, save_file

    stored = load_file(folder / "model.safetensors")
    out = {}
    for name, values in stored.items():
        if "k_proj" in name or "v_proj" in name:
            continue
        if "q_proj" in name:
            parts = ("q_proj", "k_proj", "v_proj")
            joined = join([stored[name.replace("q_proj", part)] for part in parts])
            out[name.replace("self_attn.q_proj", together)] = joined
            continue
        for theirs, ours in names.items():
            name = name.replace(theirs, ours)
        out[name] = values
    save_file(out, folder / "model.safetensors")


def as_internlm2(folder: Path, n_heads: int, n_kv_heads: int) -> None:
    """A Llama folder under InternLM 2's names, with the queries that read a head of keys before it and its values."""

    def by_head(parts: list[np.ndarray]) -> np.ndarray:
        width = parts[0].shape[1]
        groups = [part.reshape(n_kv_heads, -1, width) for part in parts]
        return np.concatenate(groups, axis=1).reshape(-1, width)

    names = {
        "model.embed_tokens": "model.tok_embeddings",
        "lm_head": "output",
        "input_layernorm": "attention_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.o_proj": "attention.wo",
        "mlp.gate_proj": "feed_forward.w1",
        "mlp.up_proj": "feed_forward.w3",
        "mlp.down_proj": "feed_forward.w2",
    }
    rewrite_checkpoint(folder, names, "attention.wqkv", by_head)
    config = json.loads((folder / "config.json").read_text())
    config["architectures"] = ["InternLM2ForCausalLM"]
    (folder / "config.json").write_text(json.dumps(config))


def as_bailing(folder: Path, n_heads: int, n_kv_heads: int) -> None:
    """A folder of GLM 4.5's under Ling 2's names, queries, keys and values in one matrix."""
    names = {
        "embed_tokens": "word_embeddings",
        "self_attn.o_proj": "attention.dense",
        "self_attn.q_norm": "attention.query_layernorm",
        "self_attn.k_norm": "attention.key_layernorm",
        "e_score_correction_bias": "expert_bias",
    }
    rewrite_checkpoint(folder, names, "attention.query_key_value", np.concatenate)
    config = json.loads((folder / "config.json").read_text())
    config.update(
        architectures=["BailingMoeV2ForCausalLM"],
        model_type="bailing_moe",
        score_function="sigmoid",
    )
    for theirs, ours in (
        ("n_routed_experts", "num_experts"),
        ("n_shared_experts", "num_shared_experts"),
    ):
        config[ours] = config.pop(theirs)
    (folder / "config.json").write_text(json.dumps(config))


def with_unread_keys(folder: Path, layers: tuple[int, ...]) -> None:
    """Gives layers that read the keys and values of others matrices of their own that nobody reads, as Gemma 3n's have."""
    from safetensors.numpy import load_file, save_file

    stored = load_file(folder / "model.safetensors")
    for layer in layers:
        for part in ("k_proj.weight", "v_proj.weight", "k_norm.weight"):
            name = f"model.layers.{layer}.self_attn.{part}"
            stored[name] = stored[name.replace(f".{layer}.", ".0.")] + np.float32(1)
    save_file(stored, folder / "model.safetensors", {"format": "pt"})
