"""Encoders that transformers lacks, written out in float64 from their published mathematics: the oracle for their vectors.

Each is a tiny random checkpoint under the published names of its tensors, and what it computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt

from tiny_hf import write_safetensors

Array = npt.NDArray[np.float64]
Weights = dict[str, Array]
_EMBD, _FF, _HEADS, _LAYERS, _EXPERTS, _USED = 48, 64, 6, 4, 4, 2  # heads: no power of two
_EPS = 1e-12


class Reference:
    """Stands where transformers' models do: called with ids [1, n], it gives `last_hidden_state`."""

    base_model_prefix = "none"
    config = SimpleNamespace(hidden_size=_EMBD)

    def __init__(self, weights: Weights, states: Callable[[Weights, list[int]], Array]) -> None:
        self._weights, self._states = weights, states

    def __call__(self, ids: Any) -> SimpleNamespace:
        import torch

        states = self._states(self._weights, ids[0].tolist())
        return SimpleNamespace(last_hidden_state=torch.tensor(states[None]))


def _written(
    folder: Path,
    config: dict[str, Any],
    weights: Weights,
    states: Callable[[Weights, list[int]], Array],
) -> Reference:
    folder.mkdir(parents=True)
    short = {name: value.astype(np.float32) for name, value in weights.items()}
    write_safetensors(folder / "model.safetensors", short, "F32")
    (folder / "config.json").write_text(json.dumps(config))
    return Reference({name: value.astype(np.float64) for name, value in short.items()}, states)


class _Random:
    def __init__(self, n_vocab: int) -> None:
        self.rng = np.random.default_rng(0)
        self.weights: Weights = {
            "embeddings.word_embeddings.weight": self.of(n_vocab, _EMBD) * 4,
            "embeddings.token_type_embeddings.weight": self.of(2, _EMBD) * 4,
        }

    def of(self, *shape: int) -> Array:
        return 0.15 * self.rng.standard_normal(shape)

    def linear(self, name: str, rows: int, cols: int, bias: bool = True) -> None:
        self.weights[f"{name}.weight"] = self.of(rows, cols)
        if bias:
            self.weights[f"{name}.bias"] = self.of(rows) * 2

    def norm(self, name: str) -> None:
        self.weights[f"{name}.weight"] = 1 + 2 * self.of(_EMBD)
        self.weights[f"{name}.bias"] = 2 * self.of(_EMBD)


def _norm(w: Weights, name: str, x: Array) -> Array:
    x = x - x.mean(-1, keepdims=True)
    x = x / np.sqrt((x * x).mean(-1, keepdims=True) + _EPS)
    return x * w[f"{name}.weight"] + w[f"{name}.bias"]


def _linear(w: Weights, name: str, x: Array) -> Array:
    return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0)


_gelu = np.vectorize(lambda x: 0.5 * x * (1 + math.erf(x / math.sqrt(2))), otypes=[np.float64])


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def _heads(x: Array) -> Array:
    """[n, embd] to [heads, n, values of one]."""
    return x.reshape(len(x), _HEADS, -1).swapaxes(0, 1)


def _attend(q: Array, k: Array, v: Array, bias: Array | float) -> Array:
    scores = q @ k.swapaxes(1, 2) / math.sqrt(q.shape[-1]) + bias
    return (_softmax(scores) @ v).swapaxes(0, 1).reshape(q.shape[1], -1)


def _embedded(w: Weights, ids: list[int]) -> Array:
    return (
        w["embeddings.word_embeddings.weight"][ids]
        + w["embeddings.token_type_embeddings.weight"][0]
    )


# ---- nomic-embed-text-v2-moe: rotated, experts in layers 1, 3, ...


def write_nomic_moe(folder: Path, n_vocab: int) -> Reference:
    made = _Random(n_vocab)
    made.norm("emb_ln")
    for layer in range(_LAYERS):
        p = f"encoder.layers.{layer}."
        made.linear(f"{p}attn.Wqkv", 3 * _EMBD, _EMBD)
        made.linear(f"{p}attn.out_proj", _EMBD, _EMBD)
        made.norm(f"{p}norm1")
        made.norm(f"{p}norm2")
        if layer % 2 == 0:
            made.linear(f"{p}mlp.fc1", _FF, _EMBD)
            made.linear(f"{p}mlp.fc2", _EMBD, _FF)
            continue
        made.linear(f"{p}mlp.router.layer", _EXPERTS, _EMBD, bias=False)
        for name in ("w1", "w2"):
            made.weights[f"{p}mlp.experts.mlp.{name}"] = made.of(_EXPERTS * _FF, _EMBD)
        made.weights[f"{p}mlp.experts.bias"] = made.of(_EMBD) * 2
    config = {
        "architectures": ["NomicBertModel"],
        "model_type": "nomic_bert",
        "vocab_size": n_vocab,
        "n_embd": _EMBD,
        "n_head": _HEADS,
        "n_inner": _FF,
        "n_layer": _LAYERS,
        "n_positions": 256,
        "max_trained_positions": 2048,
        "activation_function": "gelu",
        "layer_norm_epsilon": _EPS,
        "rotary_emb_base": 10000,
        "qkv_proj_bias": True,
        "mlp_fc1_bias": True,
        "mlp_fc2_bias": True,
        "num_experts": _EXPERTS,
        "moe_top_k": _USED,
        "moe_every_n_layers": 2,
        "moe_normalize_expert_weights": False,
        "num_shared_experts": 0,
        "expert_choice_router": False,
        "type_vocab_size": 2,
        "causal": False,
        "prenorm": False,
    }
    return _written(folder, config, made.weights, _nomic_states)


def _turned(x: Array) -> Array:
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[1])[:, None] * 10000.0 ** (-np.arange(half) / half)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate(
        [a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1
    )


def _nomic_states(w: Weights, ids: list[int]) -> Array:
    x = _norm(w, "emb_ln", _embedded(w, ids))
    for layer in range(_LAYERS):
        p = f"encoder.layers.{layer}."
        q, k, v = (_heads(part) for part in np.split(_linear(w, f"{p}attn.Wqkv", x), 3, -1))
        mixed = _attend(_turned(q), _turned(k), v, 0)
        x = _norm(w, f"{p}norm1", x + _linear(w, f"{p}attn.out_proj", mixed))
        fed = (
            _nomic_experts(w, p, x)
            if layer % 2
            else _linear(w, f"{p}mlp.fc2", _gelu(_linear(w, f"{p}mlp.fc1", x)))
        )
        x = _norm(w, f"{p}norm2", x + fed)
    return x


def _nomic_experts(w: Weights, p: str, x: Array) -> Array:
    shares = _softmax(_linear(w, f"{p}mlp.router.layer", x))
    first, second = (
        w[f"{p}mlp.experts.mlp.{name}"].reshape(_EXPERTS, _FF, _EMBD) for name in ("w1", "w2")
    )
    out = np.empty_like(x)
    for t, row in enumerate(x):
        chosen = np.argsort(-shares[t])[:_USED]
        out[t] = sum(shares[t, e] * (_gelu(first[e] @ row) @ second[e]) for e in chosen)
    return out + w[f"{p}mlp.experts.bias"]


# ---- jina-embeddings-v2: distances in place of positions


def write_jina(folder: Path, n_vocab: int) -> Reference:
    made = _Random(n_vocab)
    made.norm("embeddings.LayerNorm")
    for layer in range(_LAYERS):
        p = f"encoder.layer.{layer}."
        for part in ("self.query", "self.key", "self.value", "output.dense"):
            made.linear(f"{p}attention.{part}", _EMBD, _EMBD)
        made.norm(f"{p}attention.output.LayerNorm")
        made.linear(f"{p}mlp.gated_layers", 2 * _FF, _EMBD, bias=False)
        made.linear(f"{p}mlp.wo", _EMBD, _FF)
        made.norm(f"{p}mlp.layernorm")
    config = {
        "architectures": ["JinaBertForMaskedLM"],
        "model_type": "bert",
        "vocab_size": n_vocab,
        "hidden_size": _EMBD,
        "num_attention_heads": _HEADS,
        "intermediate_size": _FF,
        "num_hidden_layers": _LAYERS,
        "max_position_embeddings": 8192,
        "layer_norm_eps": _EPS,
        "hidden_act": "gelu",
        "position_embedding_type": "alibi",
        "feed_forward_type": "geglu",
        "type_vocab_size": 2,
    }
    return _written(folder, config, made.weights, _jina_states)


def _slopes(n_heads: int) -> list[float]:
    whole = 2 ** int(math.log2(n_heads))
    slopes = [2.0 ** (-8.0 * (h + 1) / whole) for h in range(whole)]
    between = [2.0 ** (-4.0 * (h + 1) / whole) for h in range(2 * whole)]
    return slopes + between[0::2][: n_heads - whole]


def _jina_states(w: Weights, ids: list[int]) -> Array:
    x = _norm(w, "embeddings.LayerNorm", _embedded(w, ids))
    at = np.arange(len(ids))
    bias = -np.array(_slopes(_HEADS))[:, None, None] * np.abs(at[:, None] - at)
    for layer in range(_LAYERS):
        p = f"encoder.layer.{layer}."
        q, k, v = (
            _heads(_linear(w, f"{p}attention.self.{name}", x)) for name in ("query", "key", "value")
        )
        mixed = _linear(w, f"{p}attention.output.dense", _attend(q, k, v, bias))
        x = _norm(w, f"{p}attention.output.LayerNorm", x + mixed)
        gate, up = np.split(_linear(w, f"{p}mlp.gated_layers", x), 2, -1)
        x = _norm(w, f"{p}mlp.layernorm", x + _linear(w, f"{p}mlp.wo", _gelu(gate) * up))
    return x
