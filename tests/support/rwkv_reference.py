"""RWKV 7 written out in float64 from its published equations, as transformers has no class for it: a tiny random
checkpoint under flash-linear-attention's names, with a list of tokens, and what it computes.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_hf import write_safetensors

Array = npt.NDArray[np.float64]
Weights = dict[str, Array]
_EMBD, _HEAD, _FF, _LAYERS, _EPS = 64, 32, 96, 3, 1e-5
_RANKS = {"w": 12, "a": 8, "v": 6, "g": 20}


class Reference:
    """Stands where transformers' models do: called with ids [1, n], it gives `logits`."""

    config = SimpleNamespace(hidden_size=_EMBD)

    def __init__(self, weights: Weights) -> None:
        self._weights = weights

    def __call__(self, ids: Any) -> SimpleNamespace:
        import torch

        return SimpleNamespace(logits=torch.tensor(_logits(self._weights, ids[0].tolist())[None]))


def write_rwkv7(folder: Path, n_vocab: int, seed: int = 0) -> Reference:
    rng = np.random.default_rng(seed)
    weights: Weights = {}

    def random(*shape: int, scale: float = 0.15) -> Array:
        return scale * rng.standard_normal(shape)

    def norm(name: str) -> None:
        weights[f"{name}.weight"] = 1 + random(_EMBD, scale=0.3)
        weights[f"{name}.bias"] = random(_EMBD, scale=0.3)

    weights["model.embeddings.weight"] = random(n_vocab, _EMBD, scale=1)
    weights["lm_head.weight"] = random(n_vocab, _EMBD)
    norm("model.norm")
    norm("model.layers.0.pre_norm")
    for layer in range(_LAYERS):
        p = f"model.layers.{layer}."
        norm(f"{p}attn_norm")
        norm(f"{p}ffn_norm")
        norm(f"{p}attn.g_norm")
        for letter in "rwkvag":
            weights[f"{p}attn.x_{letter}"] = rng.random((1, 1, _EMBD))
        for letter in "rkvo":
            weights[f"{p}attn.{letter}_proj.weight"] = random(_EMBD, _EMBD)
        for letter, rank in _RANKS.items():
            if letter == "v" and layer == 0:
                continue
            weights[f"{p}attn.{letter}_lora.lora.0.weight"] = random(rank, _EMBD)
            weights[f"{p}attn.{letter}_lora.lora.2.weight"] = random(_EMBD, rank, scale=0.4)
            if letter != "g":
                weights[f"{p}attn.{letter}_lora.lora.2.bias"] = random(_EMBD, scale=0.5)
        weights[f"{p}attn.k_k"] = 1 + random(_EMBD, scale=0.3)
        weights[f"{p}attn.k_a"] = 1 + random(_EMBD, scale=0.3)
        weights[f"{p}attn.r_k"] = random(_EMBD // _HEAD, _HEAD, scale=0.5)
        weights[f"{p}ffn.x_k"] = rng.random(_EMBD)
        weights[f"{p}ffn.key.weight"] = random(_FF, _EMBD)
        weights[f"{p}ffn.value.weight"] = random(_EMBD, _FF)
    folder.mkdir(parents=True, exist_ok=True)
    short = {name: value.astype(np.float32) for name, value in weights.items()}
    write_safetensors(folder / "model.safetensors", short, "F32")
    config = {
        "architectures": ["RWKV7ForCausalLM"],
        "model_type": "rwkv7",
        "vocab_size": n_vocab,
        "hidden_size": _EMBD,
        "head_dim": _HEAD,
        "intermediate_size": _FF,
        "num_hidden_layers": _LAYERS,
        "norm_eps": _EPS,
        "hidden_act": "sqrelu",
        "max_position_embeddings": 2048,
        "decay_low_rank_dim": _RANKS["w"],
        "a_low_rank_dim": _RANKS["a"],
        "v_low_rank_dim": _RANKS["v"],
        "gate_low_rank_dim": _RANKS["g"],
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "rwkv_vocab_v20230424.txt").write_text(world_vocabulary(), encoding="utf-8")
    return Reference({name: value.astype(np.float64) for name, value in short.items()})


def world_vocabulary() -> str:
    """Lines as RWKV's list of tokens has them: all bytes, then longer ones, texts and bytes that are none."""
    tokens: list[str | bytes] = [bytes([b]) if b >= 128 else chr(b) for b in range(256)]
    tokens += [
        "\n\n",
        "the",
        "they",
        "then",
        " the",
        "é",
        "日",
        "日本",
        "it's",
        "a\tb",
        "\"'",
        b"\xe6\x97",
        b"\xff\x00",
        "\\x",
    ]
    lines = []
    for number, token in enumerate(tokens, 1):
        length = len(token.encode() if isinstance(token, str) else token)
        lines.append(f"{number} {token!r} {length}\n")
    return "".join(lines)


def _norm(w: Weights, name: str, x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPS)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _step_back(x: Array) -> Array:
    return np.concatenate([np.zeros((1, x.shape[1])), x[:-1]]) - x


def _logits(w: Weights, ids: list[int]) -> Array:
    x = _norm(w, "model.layers.0.pre_norm", w["model.embeddings.weight"][ids])
    first: Array | None = None
    for layer in range(_LAYERS):
        p = f"model.layers.{layer}."
        mixed, values = _time_mix(w, f"{p}attn.", _norm(w, f"{p}attn_norm", x), first)
        first = values if first is None else first
        x = x + mixed
        h = _norm(w, f"{p}ffn_norm", x)
        k = (h + _step_back(h) * w[f"{p}ffn.x_k"]) @ w[f"{p}ffn.key.weight"].T
        x = x + np.maximum(k, 0) ** 2 @ w[f"{p}ffn.value.weight"].T
    return _norm(w, "model.norm", x) @ w["lm_head.weight"].T


def _time_mix(w: Weights, p: str, x: Array, first: Array | None) -> tuple[Array, Array]:
    step = _step_back(x)
    of = {letter: x + step * w[f"{p}x_{letter}"].reshape(-1) for letter in "rwkvag"}

    def narrow(letter: str, f: Any) -> Array:
        inner = f(of[letter] @ w[f"{p}{letter}_lora.lora.0.weight"].T)
        return inner @ w[f"{p}{letter}_lora.lora.2.weight"].T + w.get(
            f"{p}{letter}_lora.lora.2.bias", 0
        )

    r, k, v = (of[letter] @ w[f"{p}{letter}_proj.weight"].T for letter in "rkv")
    decay = np.exp(-np.exp(-0.5) * _sigmoid(narrow("w", np.tanh)))
    values = v
    if first is not None:
        v = v + (first - v) * _sigmoid(narrow("v", lambda y: y))
    a, g = _sigmoid(narrow("a", lambda y: y)), narrow("g", _sigmoid)

    def heads(y: Array) -> Array:
        return y.reshape(len(y), -1, _HEAD)

    kk = heads(k * w[f"{p}k_k"])
    kk = kk / np.maximum(np.sqrt((kk * kk).sum(-1, keepdims=True)), 1e-12)
    k = k * (1 + (a - 1) * w[f"{p}k_a"])
    r, k, v, a, decay = heads(r), heads(k), heads(v), heads(a), heads(decay)
    y = np.empty_like(v)
    for h in range(v.shape[1]):
        state = np.zeros((_HEAD, _HEAD))  # [keys, values]
        for t in range(len(x)):
            recalled = kk[t, h] @ state
            state = decay[t, h][:, None] * state
            state = state - np.outer(a[t, h] * kk[t, h], recalled) + np.outer(k[t, h], v[t, h])
            y[t, h] = r[t, h] @ state
    y = y - y.mean(-1, keepdims=True)
    y = (y / np.sqrt((y * y).mean(-1, keepdims=True) + 64e-5)).reshape(x.shape)
    y = y * w[f"{p}g_norm.weight"] + w[f"{p}g_norm.bias"]
    y = y + ((r * k * w[f"{p}r_k"]).sum(-1, keepdims=True) * v).reshape(x.shape)
    return (y * g) @ w[f"{p}o_proj.weight"].T, values
