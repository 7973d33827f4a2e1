"""Train small models with recurrent layers for measurements of formats, starting from the demo checkpoint's other parts.

    python tools/experiments/train_hybrid.py KIND DEMO_FOLDER TEXT OUT_FOLDER [--minutes 5]

KIND: delta (Qwen 3.5, the gated delta rule), ssm (Granite 4 H, Mamba 2) or conv (LFM2, short convolutions).  Three recurrent
layers and one of attention, width 512.  Embedding, norms and feed-forward blocks come from the demo checkpoint, a Llama of that
width; mixers begin at random.  Needs torch and transformers; some minutes on two cores suffice for weights and activations that
are no longer random.  A second run with the same folder goes on.
"""

from __future__ import annotations

import argparse
import math
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.torch import load_file
from tokenizers import Tokenizer

ROWS, LENGTH = 4, 128
SIZES = {
    "vocab_size": 4096,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
    "bos_token_id": 4093,
    "eos_token_id": 4095,
    "pad_token_id": 4095,
}


def make(kind: str) -> Any:
    if kind == "delta":
        config = transformers.Qwen3_5TextConfig(
            **SIZES,
            head_dim=64,
            linear_key_head_dim=64,
            linear_value_head_dim=64,
            linear_num_key_heads=8,
            linear_num_value_heads=8,
        )
    elif kind == "ssm":
        config = transformers.GraniteMoeHybridConfig(
            **SIZES,
            layer_types=["mamba", "mamba", "mamba", "attention"],
            mamba_n_heads=16,
            mamba_d_head=64,
            mamba_d_state=64,
            mamba_n_groups=1,
            shared_intermediate_size=1536,
            num_local_experts=0,
            num_experts_per_tok=0,
            position_embedding_type="rope",
            attention_multiplier=0.125,
        )
    else:
        config = transformers.Lfm2Config(
            **SIZES,
            layer_types=["conv", "conv", "conv", "full_attention"],
            conv_L_cache=3,
            block_auto_adjust_ff_dim=False,
        )
    return transformers.AutoModelForCausalLM.from_config(config).float()


def warm_start(model: Any, kind: str, demo: dict[str, torch.Tensor]) -> None:
    """Takes over what the demo checkpoint has too."""
    offset = 1.0 if kind == "delta" else 0.0  # Qwen 3.5's norms multiply by 1 + weight
    names = {
        "input_layernorm": "operator_norm" if kind == "conv" else "input_layernorm",
        "post_attention_layernorm": "ffn_norm" if kind == "conv" else "post_attention_layernorm",
        "mlp.gate_proj": "feed_forward.w1" if kind == "conv" else "mlp.gate_proj",
        "mlp.up_proj": "feed_forward.w3" if kind == "conv" else "mlp.up_proj",
        "mlp.down_proj": "feed_forward.w2" if kind == "conv" else "mlp.down_proj",
    }
    own = model.state_dict()
    with torch.no_grad():
        own["model.embed_tokens.weight"].copy_(demo["model.embed_tokens.weight"])
        last = "model.embedding_norm.weight" if kind == "conv" else "model.norm.weight"
        own[last].copy_(demo["model.norm.weight"].float() - offset)
        for layer in range(SIZES["num_hidden_layers"]):
            blk = f"model.layers.{layer}."
            for theirs, ours in names.items():
                value = demo[f"{blk}{theirs}.weight"].float()
                if kind == "ssm" and theirs.startswith("mlp"):
                    continue
                own[f"{blk}{ours}.weight"].copy_(value - (offset if "norm" in theirs else 0.0))
            if kind == "ssm":
                gate, up, down = (demo[f"{blk}mlp.{x}_proj.weight"] for x in ("gate", "up", "down"))
                own[f"{blk}shared_mlp.input_linear.weight"].copy_(torch.cat([gate, up]))
                own[f"{blk}shared_mlp.output_linear.weight"].copy_(down)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["delta", "ssm", "conv"])
    parser.add_argument("demo", type=Path)
    parser.add_argument("text", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--minutes", type=float, default=5)
    args = parser.parse_args()

    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    model = make(args.kind)
    if (args.out / "model.safetensors").exists():
        model = type(model).from_pretrained(args.out).float()
        rng = np.random.default_rng(int(time.time()))
    else:
        warm_start(model, args.kind, load_file(args.demo / "model.safetensors"))
    tokenizer = Tokenizer.from_file(str(args.demo / "tokenizer.json"))
    ids = np.array(tokenizer.encode(args.text.read_text(encoding="utf-8")).ids)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), weight_decay=0.01)
    begin, step = time.time(), 0
    while (spent := (time.time() - begin) / (60 * args.minutes)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * spent))
        starts = rng.integers(0, len(ids) - LENGTH - 1, ROWS)
        rows = torch.tensor(np.stack([ids[i : i + LENGTH + 1] for i in starts]))
        logits = model(rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 10 == 0:
            print(f"step {step}, {time.time() - begin:.0f} s, loss {loss.item():.3f}", flush=True)
        step += 1
    model.save_pretrained(args.out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        shutil.copyfile(args.demo / name, args.out / name)


if __name__ == "__main__":
    main()
