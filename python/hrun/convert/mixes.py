"""Types of files in which sensitive tensors have more bits than the others: q4_k_m and its kin, as llama-quantize gives them.

A mix has a format of the file, and rules by the role of a tensor and its place among those of its role:

  - the head, or the embedding where it is the head: Q6_K; an embedding beside a head: the format of the file;
  - attention values (also joined with queries and keys): raised, in all layers or in some;
  - down matrices of feed-forward blocks: raised in some layers;
  - what follows attention: raised in the mixes of Q3_K.

"Some" layers are the first eighth, the last eighth and every third between.  Models of 70 billion weights, of eight experts, and
Falcon have exceptions.  Rows that are no multiple of 256 get the formats of 32-wide blocks that llama-quantize gives them.
The source of the rules is the behaviour of llama-quantize, with whose result a test compares tensor by tensor.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .source import Source, SourceTensor

# A rule: (place among the tensors of its role, their number) -> the format; None means the file's
# format.
Rule = Callable[[int, int], str | None]


def _some_layers(place: int, count: int) -> bool:
    eighth = count // 8
    return place < eighth or place >= 7 * count // 8 or (place - eighth) % 3 == 2


def _always(name: str) -> Rule:
    return lambda place, count: name


def _in_some(name: str, other: str | None = None) -> Rule:
    return lambda place, count: name if _some_layers(place, count) else other


def _first(share: int, name: str, other: str | None = None) -> Rule:
    """``name`` in the first of ``share`` equal groups of layers."""
    return lambda place, count: name if place < count // share else other


def _never(place: int, count: int) -> str | None:
    return None


@dataclass(frozen=True)
class Mix:
    """``format``: of the tensors that no rule raises.  ``file_type``: llama.cpp's number for such files.  falcon_down: the rule
    of Falcon's down matrices."""

    name: str
    format: str
    file_type: int
    values: Rule = _never
    down: Rule = _never
    attention_output: str | None = None
    falcon_down: Rule = _never
    falcon_output: str | None = None
    experts_output: str | None = None  # the attention output where there are eight experts


MIXES: Mapping[str, Mix] = {
    mix.name: mix
    for mix in (
        Mix("q3_k_s", "q3_k", 11, experts_output="q5_k"),
        Mix(
            "q3_k_m", "q3_k", 12,
            values=lambda place, count: "q5_k" if place < 2 else "q4_k",
            down=_first(16, "q5_k", "q4_k"),
            attention_output="q4_k",
            falcon_down=lambda place, count: _first(16, "q5_k")(place, count) or _in_some("q4_k")(place, count),
            experts_output="q5_k",
        ),
        Mix(
            "q3_k_l", "q3_k", 13,
            values=_always("q5_k"),
            down=_always("q5_k"),
            attention_output="q5_k",
            falcon_down=_always("q4_k"),
            falcon_output="q4_k",
        ),
        Mix(
            "q4_k_s", "q4_k", 14,
            values=lambda place, count: "q5_k" if place < 4 else None,
            down=_first(8, "q5_k"),
            experts_output="q5_k",
        ),
        Mix(
            "q4_k_m", "q4_k", 15,
            values=_in_some("q6_k"),
            down=_in_some("q6_k"),
            falcon_down=lambda place, count: _first(16, "q6_k")(place, count) or _in_some("q5_k")(place, count),
            experts_output="q5_k",
        ),
        Mix("q5_k_s", "q5_k", 16),
        Mix("q5_k_m", "q5_k", 17, values=_in_some("q6_k"), down=_in_some("q6_k"), falcon_down=_in_some("q6_k")),
    )
}  # fmt: skip

# These formats replace the k formats where rows are no multiple of 256.
_NARROW = {"q3_k": "q4_0", "q4_k": "q5_0", "q5_k": "q5_1", "q6_k": "q8_0"}

# Architecture -> layers of its model of 70 billion weights; Llama's has grouped queries.
_LARGE = {"llama": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}

# Small tensors that llama-quantize leaves as they are.
_AS_THEY_ARE = re.compile("altup|laurel|(?<!weight)$")
_FLOATS = ("f32", "f16", "bf16")

_HEADS = ("token_embd.weight", "per_layer_token_embd.weight", "output.weight")
_VALUES = ("attn_v.weight", "attn_qkv.weight", "attn_kv_b.weight")


def mixed_formats(source: Source, mix: Mix) -> dict[str, str]:
    """Tensor -> format, of every tensor with more than one dimension that is not kept as floats."""
    facts = {entry.key: entry.value for entry in source.metadata}
    architecture = str(facts.get("general.architecture", ""))

    def number(key: str) -> int:
        value: Any = facts.get(f"{architecture}.{key}", 0)
        return max(value, default=0) if isinstance(value, (list, tuple)) else int(value)

    n_layers, n_experts = number("block_count"), number("expert_count")
    falcon = architecture == "falcon"
    large = _LARGE.get(architecture) == n_layers and (
        architecture != "llama"
        or number("attention.head_count") != number("attention.head_count_kv")
    )
    tied = all(tensor.name != "output.weight" for tensor in source.tensors)
    n_values = sum(tensor.name.endswith(_VALUES) for tensor in source.tensors)
    places = {"values": 0, "down": 0}
    out: dict[str, str] = {}

    def next_place(role: str) -> int:
        places[role] += 1
        return places[role] - 1

    def of(tensor: SourceTensor) -> str:
        name = tensor.name
        if name == "output.weight" or (tied and name in _HEADS):
            return "q8_0" if falcon or tensor.cols % 256 else "q6_k"
        if name in _HEADS:
            return mix.format
        if name.endswith(_VALUES):
            chosen = mix.values(next_place("values"), n_values) or mix.format
            if large and chosen in ("q3_k", "q4_k"):
                chosen = "q5_k"
            return "q8_0" if n_experts == 8 else chosen
        if name.endswith("attn_k.weight"):
            return "q8_0" if n_experts == 8 else mix.format
        if "ffn_down" in name:
            place = next_place("down")
            if n_experts > 1:
                place = _layer(name)
            return (mix.falcon_down if falcon else mix.down)(place, n_layers) or mix.format
        if name.endswith("attn_output.weight"):
            raised = mix.attention_output
            if falcon:
                raised = mix.falcon_output
            elif n_experts == 8:
                raised = mix.experts_output
            return raised or mix.format
        return mix.format

    for tensor in sorted(source.tensors, key=lambda t: (_layer(t.name), t.name)):
        if len(tensor.shape) > 1 and not tensor.kept:
            chosen = of(tensor)
            if _AS_THEY_ARE.search(tensor.name):
                out[tensor.name] = tensor.format if tensor.format in _FLOATS else "f16"
            elif tensor.cols % 32:
                out[tensor.name] = "f16"
            else:
                narrow = tensor.cols % 256 != 0 and chosen in _NARROW
                out[tensor.name] = _NARROW[chosen] if narrow else chosen
    return out


def _layer(name: str) -> int:
    """Returns the number of the layer that a tensor belongs to, else -1."""
    found = re.match(r"blk\.(\d+)\.", name)
    return int(found[1]) if found else -1
