"""Reads the settings that differ from layer to layer in a Hugging Face configuration: the kinds of
layers, their windows, their experts.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

from hrun.errors import UnsupportedModelError

from .config_object import ConfigObject
from .source import Entry, Scalar

# Names of `layer_types` and its like, and letters of `hybrid_override_pattern`, by what a layer of the kind has.
_KINDS = {
    "conv": "recurrent",
    "mamba": "recurrent",
    "linear_attention": "recurrent",
    "M": "recurrent",
    "attention": "attention",
    "full_attention": "attention",
    "*": "attention",
    "mlp": "feed",
    "moe": "feed",
    "-": "feed",
    "E": "feed",
}


def layer_kinds(config: ConfigObject, architecture: Any, n_layers: int) -> list[str]:
    """Returns the kind of each layer: "attention", "recurrent" or "feed" (nothing but a
    feed-forward block).
    """
    name = config.first_of("hybrid_override_pattern|layers_block_type|layer_types")
    kinds: Any = config.values.get(name)
    if isinstance(kinds, str):
        kinds = list(kinds)
    if kinds is None and (with_attention := config.values.get("full_attn_idxs")) is not None:
        if not isinstance(with_attention, list):
            raise config.error("full_attn_idxs", "an array of layers")
        kinds = ["attention" if layer in with_attention else "conv" for layer in range(n_layers)]
    if kinds is None and config.has("attn_layer_period"):  # Jamba
        period = config.integer("attn_layer_period")
        offset = config.integer("attn_layer_offset", default=0, low=0)
        kinds = ["attention" if layer % period == offset else "mamba" for layer in range(n_layers)]
    if kinds is None and (with_attention := config.values.get("attn_layer_indices")) is not None:
        if not isinstance(with_attention, list):  # Bamba
            raise config.error("attn_layer_indices", "an array of layers")
        kinds = ["attention" if layer in with_attention else "mamba" for layer in range(n_layers)]
    if kinds is None and (architecture.one_block or architecture.recurrent == "wkv"):
        kinds = ["mamba"] * n_layers
    allowed = (
        {"attention", "recurrent", "feed"} if architecture.one_block else {"attention", "recurrent"}
    )
    if (
        not isinstance(kinds, list)
        or len(kinds) != n_layers
        or not all(isinstance(kind, str) and _KINDS.get(kind) in allowed for kind in kinds)
    ):
        raise config.error(name, f"{n_layers} kinds of layers, of {', '.join(_KINDS)}")
    return [_KINDS[kind] for kind in kinds]


def full_layers(config: ConfigObject) -> tuple[int, int]:
    """Gemma 4: a head's values and the heads of keys in layers that see all positions; 0 where they are those of the others."""
    head_dim = config.integer("global_head_dim", default=0, low=0, high=65536)
    n_kv_heads = (
        config.integer("num_global_key_value_heads", default=0, low=0, high=65535)
        if config.boolean("attention_k_eq_v", False)
        else 0
    )
    by_layer = config.child("per_layer_config")
    for layer in by_layer.values if by_layer is not None else ():
        one = by_layer.child(layer) if by_layer is not None else None
        if one is not None:
            head_dim = one.integer("head_dim", default=head_dim, low=0, high=65536)
            n_kv_heads = one.integer("num_key_value_heads", default=n_kv_heads, low=0, high=65535)
    return head_dim, n_kv_heads


def windows(config: ConfigObject, n_layers: int) -> list[bool]:
    """Tells for each layer whether it has a window."""
    kinds = config.values.get("layer_types")
    pattern = config.values.get("hybrid_layer_pattern")  # MiMo's own: 1 is a layer with a window
    if kinds is None and isinstance(pattern, list) and set(map(str, pattern)) <= {"0", "1"}:
        kinds = ["sliding_attention" if value else "full_attention" for value in pattern]
    if (
        not isinstance(kinds, list)
        or len(kinds) != n_layers
        or not all(kind in ("sliding_attention", "full_attention") for kind in kinds)
    ):
        raise config.error(
            "layer_types", f"{n_layers} strings, 'sliding_attention' or 'full_attention'"
        )
    return [kind == "sliding_attention" for kind in kinds]


def heads_by_layer(config: ConfigObject, n_layers: int) -> list[Scalar]:
    """Heads of queries in each layer where they differ; else nothing."""
    name = "num_attention_heads_per_layer"
    heads = config.values.get(name)
    if heads is None or (isinstance(heads, list) and len(set(map(str, heads))) == 1):
        return []
    if (
        not isinstance(heads, list)
        or len(heads) != n_layers
        or not all(type(n) is int and 0 < n < 65536 for n in heads)
    ):
        raise config.error(name, f"{n_layers} numbers of heads")
    return list(heads)


def widths_by_layer(config: ConfigObject, name: str, n_layers: int) -> list[int]:
    """The widths of feed-forward blocks where config.json lists them layer by layer; else nothing."""
    widths = config.values.get(name)
    if not isinstance(widths, list):
        return []
    if len(widths) != n_layers or not all(type(n) is int and 0 < n < 2**24 for n in widths):
        raise config.error(name, f"a width, or {n_layers} of them")
    return list(widths)


def gate_cutoffs(config: ConfigObject, name: str, n_layers: int) -> list[Scalar] | None:
    """Gemma 3n: the part of each layer's gates that are not kept, as standard deviations above the mean of a normal
    distribution; -infinity where all are kept.  None: config.json does not say.
    """
    parts = config.values.get(name)
    if parts is None:
        return None
    if isinstance(parts, (int, float)):
        parts = [parts] * n_layers
    if (
        not isinstance(parts, list)
        or len(parts) != n_layers
        or not all(type(p) in (int, float) and 0 <= p < 1 for p in parts)
    ):
        raise config.error(name, f"{n_layers} numbers from 0 to below 1")
    return [NormalDist().inv_cdf(p) if p > 0 else -math.inf for p in parts]


def turned_in_windows(config: ConfigObject) -> None:
    """Muse Glimmer: exactly the layers with a window are turned, all with the base of the model."""
    bases = config.values.get("layer_rope_theta")
    if bases is None:
        return
    kinds = config.values.get("layer_types")
    scaling = config.child("rope_parameters")
    base = scaling.number("rope_theta", default=10000.0) if scaling is not None else 10000.0
    wanted = [base if kind == "sliding_attention" else 0 for kind in kinds or []]
    if bases != wanted:
        raise UnsupportedModelError(
            f"{config.path}: 'layer_rope_theta' must be {base:g} in layers with a window and 0 in the others: a GGUF file "
            "cannot say otherwise"
        )


def turned_layers(config: ConfigObject, name: str, n_layers: int) -> list[Scalar] | None:
    """Tells for each layer whether it is turned, by a list of bases or of flags; None: all layers
    are.
    """
    listed = config.values.get(name)
    if listed is None:
        return None
    if (
        not isinstance(listed, list)
        or len(listed) != n_layers
        or not all(isinstance(value, (int, float)) for value in listed)
    ):
        raise config.error(name, f"{n_layers} numbers, of which 0 is a layer that is not turned")
    if name == "layer_rope_theta":
        scaling = config.child("rope_parameters") or config
        base = scaling.number("rope_theta", default=10000.0)
        if {value for value in listed if value} - {base}:
            raise UnsupportedModelError(
                f"{config.path}: '{name}' has other bases than 'rope_theta', {base:g}, which hrun does not support"
            )
    return [bool(value) for value in listed]


def put_mixers(config: ConfigObject, keys: dict[str, Entry]) -> None:
    """Stores which layers are recurrent: by a period where there is one."""
    n_layers = int(keys["block_count"].value)  # type: ignore[arg-type]
    kinds = config.values.get("layer_types")
    if kinds is None:
        period = config.integer("full_attention_interval", default=4)
        keys["full_attention_interval"] = Entry("full_attention_interval", "u32", period)
        return
    if (
        not isinstance(kinds, list)
        or len(kinds) != n_layers
        or not set(kinds) <= {"linear_attention", "full_attention"}
    ):
        raise config.error(
            "layer_types", f"{n_layers} strings, 'linear_attention' or 'full_attention'"
        )
    recurrent = [kind == "linear_attention" for kind in kinds]
    for period in range(1, n_layers + 2):
        if recurrent == [(layer + 1) % period != 0 for layer in range(n_layers)]:
            keys["full_attention_interval"] = Entry("full_attention_interval", "u32", period)
            return
    keys["attention.recurrent_layers"] = Entry(
        "attention.recurrent_layers", "array<bool>", recurrent
    )


def window_period(config: ConfigObject, keys: dict[str, Entry]) -> int | None:
    """Every n-th layer is without a window; None where config.json leaves that to the architecture."""
    kinds = config.values.get("layer_types")
    n_layers = int(keys["block_count"].value)  # type: ignore[arg-type]
    if isinstance(kinds, list) and len(kinds) == n_layers:
        windows = [kind == "sliding_attention" for kind in kinds]
        for period in [config.values.get("_sliding_window_pattern"), *range(n_layers + 2)]:
            if isinstance(period, int) and windows == [
                period == 0 or (layer + 1) % period != 0 for layer in range(n_layers)
            ]:
                return period
        raise UnsupportedModelError(
            f"{config.path}: 'layer_types': the layers with a window follow no period"
        )
    name = config.first_of("sliding_window_pattern|_sliding_window_pattern")
    text = config.values.get(name)
    if isinstance(text, str) and text == "L" * (len(text) - 1) + "G":  # local, global
        return len(text)
    return config.integer(name, low=0) if config.has(name) else None


def leading_dense(config: ConfigObject, name: str, keys: dict[str, Entry]) -> int:
    """Layers before the first with experts, all of which have them from there on."""
    kinds = config.values[name]
    if name == "moe_layer_freq" and isinstance(kinds, list):
        kinds = ["sparse" if value else "dense" for value in kinds]
    n_layers = int(keys["block_count"].value)  # type: ignore[arg-type]
    dense = kinds.count("dense") if isinstance(kinds, list) else 0
    if kinds != ["dense"] * dense + ["sparse"] * (n_layers - dense):
        raise UnsupportedModelError(
            f"{config.path}: '{name}' must be {n_layers} layers, 'dense' ones and then 'sparse' ones"
        )
    return dense


def expert_step(config: ConfigObject, name: str, keys: dict[str, Entry]) -> int:
    """1: all layers from the first with experts to the last have them."""
    last = int(keys["block_count"].value) - 1  # type: ignore[arg-type]
    end = config.integer("moe_layer_end_index", default=last, low=-1)
    if config.integer(name, default=1) != 1 or end not in (-1, last):
        raise UnsupportedModelError(
            f"{config.path}: '{name}' and 'moe_layer_end_index' must be 1 and {last}: hrun runs experts in all layers "
            "from the first that has them"
        )
    return 1
