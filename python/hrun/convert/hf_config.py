"""config.json of a Hugging Face model, translated to GGUF keys as the architecture's description says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hrun.errors import ModelFileError, UnsupportedModelError

from .config_object import ConfigObject
from .folder import shown
from .hf_layers import (
    expert_step,
    full_layers,
    gate_cutoffs,
    heads_by_layer,
    layer_kinds,
    leading_dense,
    put_mixers,
    turned_in_windows,
    turned_layers,
    widths_by_layer,
    window_period,
    windows,
)
from .hf_rope import Rope, read_rope
from .rwkv import context_length
from .source import Entry, Scalar, Value

# Names that config.json has had for the same thing; the first that is there counts.
_EMBD, _LAYERS, _HEADS, _FF = (
    "hidden_size|n_embd",
    "num_hidden_layers|n_layer",
    "num_attention_heads|n_head",
    "prefix_dense_intermediate_size|block_ff_dim|intermediate_size|n_inner|ffn_hidden_size",
)
_CONTEXT = "max_position_embeddings|n_positions|n_ctx"
_EPS = {
    "rms": "rms_norm_eps|norm_eps|layer_norm_epsilon|layernorm_epsilon",
    "layer": "layer_norm_eps|layer_norm_epsilon|norm_epsilon|norm_eps",
}
_RMS_KEY = "attention.layer_norm_rms_epsilon"
_ACTIVATIONS = {
    "relu_squared": ("relu2", "sqrelu"),
    "silu": ("silu", "swish"),
    "clamped_silu": ("silu", "swish"),
    "gelu": ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate"),
    "gelu_erf": ("gelu",),
    "xielu": ("xielu",),
}
# Features that hrun does not have, whatever the architecture: key -> the values that do not ask for
# the feature.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "mlp_only_layers": ([],),
    "decoder_sparse_step": (1,),
    "moe_layer_freq": (1,),
    "use_qk_norm": (False,),
    "use_bidirectional_attention": (False, "vision"),
    "scale_attn_by_inverse_layer_idx": (False,),
    "scale_attn_weights": (True,),
    "add_cross_attention": (False,),
    "swiglu_limit": (7.0,),
    "swiglu_alpha": (1.702,),
    "rope_interleave": (True,),
    "use_parallel_residual": (False,),
    "scoring_func": ("softmax", "sigmoid"),
    "topk_method": ("greedy", "group_limited_greedy", "noaux_tc"),
    "clip_qkv": (),
    "attn_output_gate": (True,),
    "position_embedding_type": ("absolute",),
    "is_decoder": (False,),
    "classifier_activation": ("gelu",),
    "prenorm": (False,),
    "qkv_proj_bias": (False,),
    "rotary_emb_fraction": (1.0,),
    "rotary_emb_interleaved": (False,),
    "moe_every_n_layers": (0,),
    "conv_bias": (False,),
    "time_step_limit": ([0.0, math.inf], [0.0, {"__float__": "Infinity"}]),
    "moe_latent_size": (),
    "post_norm_eps": (1e-8,),
    "moe_router_logit_softcapping": (0, 0.0),
    "moe_apply_router_weight_on_input": (False,),
    "shared_expert_combination_strategy": ("average",),
    "prefix_dense_sliding_window_pattern": (1,),
    "alibi": (False,),
    "parallel_attn": (True,),
    "use_cla": (False,),
    "score_func": ("sigmoid",),
    "altup_correct_scale": (True,),
}


@dataclass(frozen=True)
class HFConfig:
    """The hyper-parameters of a decoder: `keys` by their GGUF names without the architecture's prefix.

    tied: is the head the embedding?  None where config.json does not say.
    """

    architecture: Any
    keys: dict[str, Entry]
    rope: Rope | None
    tied: bool | None
    object: ConfigObject

    def __getitem__(self, key: str) -> int:
        return self.at(key, None)

    def at(self, key: str, layer: int | None) -> int:
        """Returns the value of a layer where layers differ; with layer None, the largest value."""
        entry = self.keys.get(key)
        value = entry.value if entry is not None else 0
        if isinstance(value, list):
            numbers = [v for v in value if isinstance(v, (int, float))]
            value = max(numbers, default=0) if layer is None else numbers[layer]
        return int(value) if isinstance(value, (int, float)) else 0

    @property
    def gate_per_head(self) -> bool:
        """Laguna: has a head one gate for all of its values?"""
        gating = self.object.values.get("gating", True)
        return gating is True or str(gating).replace("_", "-") == "per-head"

    @property
    def n_layers(self) -> int:
        return self["block_count"]

    @property
    def n_vocab(self) -> int:
        return self["vocab_size"]

    @property
    def head_dim(self) -> int:
        return self["attention.key_length"]

    def metadata(self, arch: str) -> list[Entry]:
        """llama.cpp's keys for this architecture."""
        return [Entry(f"{arch}.{e.key}", e.type, e.value) for e in self.keys.values()]

    def has_feed(self, layer: int) -> bool:
        return not self.architecture.one_block or self.at("feed_forward_length", layer) > 0

    def has_experts(self, layer: int) -> bool:
        return (
            self.has_feed(layer)
            and self["expert_count"] > (1 if self.architecture.experts_by_router else 0)
            and layer >= self["leading_dense_block_count"]
            and (layer - self._of_experts("offset", 0)) % self._of_experts("period", 1) == 0
        )

    def _of_experts(self, what: str, default: int) -> int:
        """Jamba: every so many layers, from one on, have experts."""
        return self.object.integer(f"expert_layer_{what}", default=default, low=default)

    def is_windowed(self, layer: int | None) -> bool:
        pattern = self.keys.get("attention.sliding_window_pattern")
        if layer is None or pattern is None:
            return False
        return (
            bool(pattern.value[layer])
            if isinstance(pattern.value, list)
            else (layer + 1) % int(pattern.value) != 0  # type: ignore[arg-type]
        )

    def has_attention(self, layer: int) -> bool:
        if self.architecture.recurrent_without_keys:
            return self.at("attention.head_count_kv", layer) > 0
        return not self.is_recurrent(layer) or "attention" in self.architecture.recurrent

    def is_recurrent(self, layer: int) -> bool:
        if not self.architecture.recurrent:
            return False
        if self.architecture.recurrent_without_keys:
            return not self.has_attention(layer) and not (
                self.architecture.one_block and self.has_feed(layer)
            )
        if "attention" in self.architecture.recurrent:  # side by side
            return True
        if (kinds := self.keys.get("attention.recurrent_layers")) is not None:
            return isinstance(kinds.value, list) and bool(kinds.value[layer])
        period = self["full_attention_interval"]
        return period > 0 and (layer + 1) % period != 0

    def in_layer(self, where: str, layer: int) -> bool:
        """Does the layer have the tensors of layers of this kind (Where in the core)?"""
        experts, beside = self.has_experts(layer), self.architecture.experts_beside_dense
        return {
            "every": True,
            "attention": self.has_attention(layer),
            "recurrent": self.is_recurrent(layer),
            "mixer": self.has_attention(layer) or self.is_recurrent(layer),
            "experts": experts,
            "dense": self.has_feed(layer) and (beside or not experts),
            "feed": self.has_feed(layer),
        }[where]

    def sizes(self, layer: int | None = None) -> dict[str, int]:
        """Lengths by the names of the Dim enumeration of the architecture descriptions; None: of what is no layer's."""
        of_window = (
            "_swa" if self.is_windowed(layer) and "attention.key_length_swa" in self.keys else ""
        )
        heads, kv_heads, k, v = (
            self.at(f"attention.{key}", layer)
            for key in (
                "head_count",
                "head_count_kv",
                f"key_length{of_window}",
                f"value_length{of_window}",
            )
        )
        n_rot, experts, ff = (
            self["rope.dimension_count"],
            self["expert_count"],
            self.at("feed_forward_length", layer),
        )
        latent_kv, latent_k, latent_v = (
            self[f"attention.{key}"]
            for key in ("kv_lora_rank", "key_length_mla", "value_length_mla")
        )
        ff_expert = self["expert_feed_forward_length"] or self["feed_forward_length"]
        delta_k, delta_keys, delta_heads, delta_v = (
            self[f"ssm.{key}"]
            for key in ("state_size", "group_count", "time_step_rank", "inner_size")
        )
        return {
            "one": 1,
            "embd": self["embedding_length"],
            "vocab": self.n_vocab,
            "ctx": self["context_length"],
            "ff": ff,
            "ff_twice": 2 * ff,
            "heads": heads,
            "kv_heads": kv_heads,
            "head": k,
            "q": heads * k,
            "k": kv_heads * k,
            "v": kv_heads * v,
            "qkv": (heads + kv_heads) * k + kv_heads * v,
            "q_out": heads * v,
            "half_rot": n_rot // 2,
            "experts": experts,
            "ff_expert": ff_expert,
            "ff_shared": self["expert_shared_feed_forward_length"]
            or ff_expert * self["expert_shared_count"],
            "latent_q": self["attention.q_lora_rank"],
            "latent_kv": latent_kv,
            "latent_kv_rot": latent_kv + n_rot,
            "latent_heads": heads * latent_k,
            "nope": latent_k - n_rot,
            "latent_v": latent_v,
            "latent_out": heads * latent_v,
            "latent_expanded": heads * (latent_k - n_rot + latent_v),
            "q_gated": 2 * heads * k,
            "delta_qkv": 2 * delta_keys * delta_k + delta_v,
            "delta_v": delta_v,
            "delta_heads": delta_heads,
            "delta_heads_twice": 2 * delta_heads,
            "delta_head": delta_v // max(delta_heads, 1),
            "delta_key_heads": delta_keys,
            "delta_key_head": delta_k,
            "conv_taps": self["ssm.conv_kernel"] or self["shortconv.l_cache"],
            "embd_thrice": 3 * self["embedding_length"],
            "ssm_in": 2 * delta_v + 2 * delta_keys * delta_k + delta_heads,
            "ssm_conv": delta_v + 2 * delta_keys * delta_k,
            "ssm_inner": delta_v,
            "ssm_heads": delta_heads,
            "ssm_groups": delta_keys,
            "ssm_group": delta_v // max(delta_keys, 1),
            "ssm_state": delta_k,
            "ssm_inner_twice": 2 * delta_v,
            "ssm_rank": delta_heads,
            "ssm_mix": delta_heads + 2 * delta_k,
            "ff_expert_twice": 2 * ff_expert,
            "gate": heads if self.gate_per_head else heads * v,
            "per_layer": self["embedding_length_per_layer_input"],
            "per_layer_all": self["embedding_length_per_layer_input"] * self.n_layers,
            "per_layer_vocab": self.object.integer(
                "vocab_size_per_layer_input", default=self.n_vocab
            ),
            "states": (states := self["altup.num_inputs"]),
            "states_squared": states**2,
            "states_beside": max(states - 1, 0),
            "laurel": self.object.integer("laurel_rank", default=64),
            "wkv_shifts": 6,
            "wkv_decay_rank": self["attention.decay_lora_rank"],
            "wkv_rate_rank": (rate := self["attention.iclr_lora_rank"]),
            "wkv_first_rank": rate
            if layer == 0
            else self["attention.value_residual_mix_lora_rank"],
            "wkv_gate_rank": self["attention.gate_lora_rank"],
        }


def read_config(path: str, values: dict[str, Any], architecture: Any) -> HFConfig:
    """Validates config.json against the architecture.  Raises ModelFileError, UnsupportedModelError."""
    config = ConfigObject(path, values)
    _refuse(config, architecture)
    keys: dict[str, Entry] = {}

    def put(key: str, kind: str, value: Value) -> None:
        keys[key] = Entry(key, kind, value)

    defaults = {rule.key: rule.fallback for rule in architecture.config}
    n_embd = config.integer(config.first_of(_EMBD))
    listed = config.values.get("layers_block_type")
    n_listed = len(listed) if isinstance(listed, list) and listed else None
    n_layers = config.integer(config.first_of(_LAYERS), default=n_listed, high=65535)
    kinds = (
        layer_kinds(config, architecture, n_layers) if architecture.recurrent_without_keys else []
    )
    n_heads, n_kv_heads = _heads(config, architecture, not kinds or "attention" in kinds)
    n_ctx = context_length(config, config.integer(config.first_of(_CONTEXT), default=2048))
    put("vocab_size", "u32", config.integer("vocab_size"))
    put("context_length", "u32", n_ctx)
    put("embedding_length", "u32", n_embd)
    put("block_count", "u32", n_layers)
    of_layers = widths_by_layer(config, config.first_of(_FF), n_layers)
    n_ff = max(of_layers) if of_layers else _width(config, architecture, n_embd)
    if of_layers and min(of_layers) < n_ff:
        put("feed_forward_length", "array<u32>", of_layers)
    elif architecture.one_block:
        widths = [n_ff if kind == "feed" else 0 for kind in kinds]
        put("feed_forward_length", "array<u32>", widths)
    else:
        put("feed_forward_length", "u32", n_ff)
    latent = any(rule.role == "attn_kv_a" for rule in architecture.tensors)
    by_layer = heads_by_layer(config, n_layers)
    if by_layer:
        put("attention.head_count", "array<u32>", by_layer)
    else:
        put("attention.head_count", "u32", n_heads)
    if latent:
        head_dim = _put_latent(config, put)
    else:
        head_dim = (
            _head_dim(config, n_embd, n_heads, defaults.get("attention.key_length"))
            if n_heads
            else 0
        )
        if kinds:
            of_layers = [n_kv_heads if kind == "attention" else 0 for kind in kinds]
            put("attention.head_count_kv", "array<u32>", of_layers)
        elif _lists(architecture, "attention.key_length_swa"):
            head_dim = _put_windowed(config, n_layers, n_kv_heads, head_dim, n_ff, put)
        else:
            put("attention.head_count_kv", "u32", n_kv_heads)
        if architecture.name == "mimo2":
            more = config.integer("swa_num_key_value_heads", default=2 * n_kv_heads, high=65535)
            put(
                "attention.head_count_kv",
                "array<u32>",
                [more if window else n_kv_heads for window in windows(config, n_layers)],
            )
        if head_dim:
            put("attention.key_length", "u32", head_dim)
            v_dim = config.integer("v_head_dim", default=head_dim, high=65536)
            put("attention.value_length", "u32", v_dim)
    norm = architecture.norm
    if (architecture.either_norm and config.has("rms_norm_eps")) or _lists(architecture, _RMS_KEY):
        norm = "rms"
    eps = config.number(
        config.first_of(_EPS[norm]),
        default=1e-6 if norm == "rms" else 1e-5,
        low=1e-30,
        exclusive=False,
        high=1.0,
    )
    put(_RMS_KEY if norm == "rms" else "attention.layer_norm_epsilon", "f32", eps)
    rope = None
    if architecture.rotary:
        if head_dim % 2 != 0:
            raise ModelFileError(
                f"{path}: the head dimension is {head_dim}, rotary embedding needs an even one"
            )
        of_window = (
            config.integer("head_dim", default=0, low=0)
            if _lists(architecture, "rope.dimension_count_swa")
            else 0
        )
        part = 0.5 if _is_bamba(config) else architecture.rotary_part
        rope = read_rope(config, head_dim, n_ctx, latent, part, of_window)
        put("rope.dimension_count", "u32", rope.n_rot)
        put("rope.freq_base", "f32", rope.base)
        for entry in rope.scaling.entries:
            if entry.key != "rope.scaling.yarn_truncate" or _lists(architecture, entry.key):
                put(entry.key, entry.type, entry.value)
            elif entry.value is False:
                raise UnsupportedModelError(
                    f"{path}: yarn with 'truncate' false is not supported for '{architecture.name}'"
                )
    _put_listed(config, architecture, rope, n_ctx, keys)
    tie = config.first_of("tie_word_embeddings|tie_embedding")
    tied = config.boolean(tie, False) if config.has(tie) else None
    return HFConfig(architecture, keys, rope, tied, config)


def _heads(config: ConfigObject, architecture: Any, needed: bool) -> tuple[int, int]:
    """Returns the numbers of heads of queries and of keys; 0 where no layer has attention."""
    if not needed:
        return 0, 0
    name = config.first_of(_HEADS)
    n_heads = config.integer(name, high=65535)
    of_keys = config.first_of("num_key_value_heads|num_kv_heads|n_head_kv")
    n_kv_heads = config.integer(of_keys, default=n_heads, high=65535)
    if (
        architecture.name == "falcon"
        and config.boolean("multi_query", True)
        and not config.boolean("new_decoder_architecture", False)
    ):
        n_kv_heads = 1  # whatever the number says
    if n_heads % n_kv_heads != 0:
        raise ModelFileError(
            f"{config.path}: '{name}' is {n_heads}, not a multiple of '{of_keys}', {n_kv_heads}"
        )
    return n_heads, n_kv_heads


def _put_windowed(
    config: ConfigObject, n_layers: int, n_kv_heads: int, head_dim: int, n_ff: int, put: Any
) -> int:
    """Gemma 4: heads of other sizes in layers with a window.  Returns those of the others."""
    has_window = windows(config, n_layers)
    full_dim, full_kv_heads = full_layers(config)
    put("attention.sliding_window_pattern", "array<bool>", has_window)
    put("attention.key_length_swa", "u32", head_dim)
    put("attention.value_length_swa", "u32", head_dim)
    of_layers = [n_kv_heads if window else full_kv_heads or n_kv_heads for window in has_window]
    put("attention.head_count_kv", "array<u32>", of_layers)
    if config.boolean("use_double_wide_mlp", False):
        first_shared = n_layers - config.integer("num_kv_shared_layers", default=0, low=0)
        widths = [n_ff if layer < first_shared else 2 * n_ff for layer in range(n_layers)]
        put("feed_forward_length", "array<u32>", widths)
    return full_dim or head_dim


def _width(config: ConfigObject, architecture: Any, n_embd: int) -> int:
    """Returns the width of the dense feed-forward blocks."""
    key = config.first_of(_FF)
    four_times = (
        key == "n_inner" or config.has("n_embd") or architecture.name in ("falcon", "rwkv7")
    )
    n_ff = config.integer(key, default=4 * n_embd if four_times else None)
    if config.has("shared_intermediate_size") and not config.values.get("num_local_experts"):
        return config.integer("shared_intermediate_size")  # Granite 4 without experts
    if not config.boolean("block_auto_adjust_ff_dim", False):
        return n_ff
    # LFM2 takes two thirds, times a factor, and rounds up to a whole multiple.
    n_ff = int(config.number("block_ffn_dim_multiplier", default=1.0) * int(2 * n_ff / 3))
    step = config.integer("block_multiple_of", default=256)
    return -(-n_ff // step) * step


def _lists(architecture: Any, key: str) -> bool:
    return any(rule.key == key for rule in architecture.config)


def _refuse(config: ConfigObject, architecture: Any) -> None:
    """Settings that change what the model computes and that hrun does not follow."""
    key = config.first_of(
        "mlp_hidden_act|hidden_activation|hidden_act|activation_function|activation"
    )
    allowed = _ACTIVATIONS[architecture.nonlinearity]
    if _lists(architecture, "hidden_activation"):  # the file says it
        allowed = tuple(
            name for kind in ("gelu_erf", "relu_squared", "silu") for name in _ACTIVATIONS[kind]
        )
    activation = config.text(key, allowed[0])
    if activation not in allowed and not (
        architecture.nonlinearity == "gelu"
        and key == "hidden_act"
        and activation == "gelu"
        and "gemma" in architecture.name
    ):
        raise UnsupportedModelError(
            f"{config.path}: '{key}' is '{shown(activation)}'; only {' or '.join(repr(a) for a in allowed)} "
            f"is supported for '{architecture.name}'"
        )
    if period := architecture.no_rope_period:
        n_layers = config.integer(config.first_of(_LAYERS), high=65535)
        turned = [int((layer + 1) % period != 0) for layer in range(n_layers)]
        if (
            config.values.get("no_rope_layers") not in (None, [], turned)
            or config.integer("no_rope_layer_interval", default=period) != period
        ):
            raise UnsupportedModelError(
                f"{config.path}: 'no_rope_layers' must leave out every {period}th layer: a GGUF file cannot say otherwise"
            )
    if architecture.rope_in_windows:
        turned_in_windows(config)
    if architecture.name == "afmoe" and not config.boolean("mup_enabled", False):
        raise UnsupportedModelError(
            f"{config.path}: 'mup_enabled' is false; GGUF's readers scale the embeddings of '{architecture.name}' always"
        )
    if config.boolean("mamba_rms_norm", False) and config.boolean("mamba_norm_before_gate", True):
        raise UnsupportedModelError(
            f"{config.path}: 'mamba_norm_before_gate' is true; hrun, like GGUF's other readers, norms what is gated"
        )
    asked_for = {rule.hf_if for rule in architecture.tensors}
    for key, neutral in _NEUTRAL.items():
        if key == "position_embedding_type" and _lists(architecture, "rope.scaling.finetuned"):
            continue
        if _lists(architecture, key) or (key == "moe_layer_freq" and architecture.leading_dense):
            continue
        if key not in asked_for and config.has(key) and config.values[key] not in neutral:
            raise UnsupportedModelError(
                f"{config.path}: '{key}' is {shown(repr(config.values[key]), 60)}, which hrun does not support"
            )
    if not _lists(architecture, "attention.sliding_window"):
        n_ctx = config.integer(config.first_of(_CONTEXT), default=2048)
        window = config.integer("sliding_window", default=0, low=0)
        if window and window < n_ctx and config.boolean("use_sliding_window", True):
            raise UnsupportedModelError(
                f"{config.path}: 'sliding_window' is {window}, below 'max_position_embeddings', {n_ctx}; "
                f"sliding-window attention is not supported for '{architecture.name}'"
            )


def _head_dim(config: ConfigObject, n_embd: int, n_heads: int, default: str | None) -> int:
    if not config.has("head_dim") and not default and n_embd % n_heads != 0:
        raise ModelFileError(
            f"{config.path}: '{config.first_of(_EMBD)}' is {n_embd}, not a multiple of '{config.first_of(_HEADS)}', "
            f"{n_heads}, and there is no 'head_dim'"
        )
    return config.integer(
        "head_dim", default=int(default) if default else n_embd // n_heads, high=65536
    )


def _put_latent(config: ConfigObject, put: Any) -> int:
    """Latent attention: the heads of the cache are those of the latent vectors.  Returns the turned part's length."""
    latent, turned = config.integer("kv_lora_rank"), config.integer("qk_rope_head_dim")
    put("attention.head_count_kv", "u32", 1)
    put("attention.key_length", "u32", latent + turned)
    put("attention.value_length", "u32", latent)
    put("attention.key_length_mla", "u32", config.integer("qk_nope_head_dim") + turned)
    return turned


def _put_listed(
    config: ConfigObject, architecture: Any, rope: Rope | None, n_ctx: int, keys: dict[str, Entry]
) -> None:
    """The keys that the architecture's description lists."""
    n_layers = int(keys["block_count"].value)  # type: ignore[arg-type]
    for rule in architecture.config:
        if rule.key in keys:
            continue
        name = config.first_of(rule.hf_key) if rule.hf_key else ""
        value: Value | None = None
        if rule.key == "attention.sliding_window_pattern":
            if rule.type == "bool":
                value = [bool(window) for window in windows(config, n_layers)]
            else:
                value = window_period(config, keys)
        elif rule.key == "attention.rope_pattern":
            value = turned_layers(config, name, n_layers)
        elif rule.key == "rope.dimension_count_swa":
            value = rope.window_n_rot if rope is not None else None
        elif rule.key == "expert_used_count" and _is_zero(keys.get("expert_count")):
            value = None
        elif rule.key == "expert_count" and not config.boolean("enable_moe_block", True):
            value = 0
        elif rule.key == "rope.freq_base_swa" and rope is not None and rope.window_base is not None:
            value = rope.window_base
        elif rule.key in ("full_attention_interval", "attention.recurrent_layers"):
            put_mixers(config, keys)
            continue
        elif rule.key == "ssm.time_step_rank" and config.values.get(name) == "auto":
            value = -(-int(keys["embedding_length"].value) // 16)  # type: ignore[arg-type]
        elif rule.key == "ssm.inner_size" and name == "mamba_expand":
            value = config.integer(name) * int(keys["embedding_length"].value)  # type: ignore[arg-type]
        elif rule.key == "ssm.dt_b_c_rms":
            value = config.values.get("model_type") == "falcon_mamba"
        elif rule.key == "ssm.inner_size" and not rule.hf_key:
            value = _inner_size(config, int(keys["ssm.time_step_rank"].value))  # type: ignore[arg-type]
        elif rule.key == "activation_sparsity_scale":
            value = gate_cutoffs(config, name, n_layers)
        elif rule.key == "rope.scaling.finetuned":
            value = config.text(name, "rope" if _is_bamba(config) else "none") == "rope"
        elif rule.key == "rope.dimension_sections":
            value = _rope_sections(config, rule.fallback)
        elif rule.key == "expert_gating_func":
            by_default = config.values.get("model_type") in ("deepseek_v3", "glm4_moe_lite")
            scores = config.text(
                config.first_of("scoring_func|expert_selection_fn"),
                "sigmoid"
                if by_default or (architecture.gating == 2 and name != "expert_selection_fn")
                else "softmax",
            )
            value = 2 if scores == "sigmoid" else 1
            # The weights of the selected experts sum to 1.
            if name == "expert_selection_fn" and value == 1:
                keys["expert_weights_norm"] = Entry("expert_weights_norm", "bool", True)
        elif rule.key == "attention.temperature_scale":
            scaling = config.child("rope_parameters")
            value = scaling.number(name, default=0.0, exclusive=False) if scaling else None
        elif rule.key == "n_deepstack_layers":
            vision = config.child("vision_config")
            layers = vision.values.get("deepstack_visual_indexes") if vision else None
            value = len(layers) if isinstance(layers, list) else 0
        elif rule.key == "attention.sliding_window" and config.has("sliding_window_size"):
            value = config.integer("sliding_window_size") + 1  # MiMo: of the tokens before
        elif rule.key == "leading_dense_block_count" and name in (
            "mlp_layer_types",
            "moe_layer_freq",
        ):
            value = leading_dense(config, name, keys)
        elif rule.key == "interleave_moe_layer_step":
            value = expert_step(config, name, keys)
        elif rule.key == "expert_shared_feed_forward_length" and not rule.hf_key:
            parts = (keys.get(k) for k in ("expert_feed_forward_length", "expert_shared_count"))
            sizes = [int(e.value) if e else 0 for e in parts]  # type: ignore[arg-type]
            value = math.prod(sizes)
        elif rule.key.startswith("expert_group") and config.values.get("topk_method") == "greedy":
            value = None
        elif name and config.has(name):
            if rule.type == "u32":
                value = _alike(config, name)
            elif rule.type == "bool":
                value = config.boolean(name, False)
            elif rule.type == "string":
                value = config.text(name, "")
            else:
                value = config.number(name, low=-1e6, exclusive=False)
                if rule.map == "inverse_root":
                    value = config.number(name) ** -0.5
        elif rule.fallback:
            value = (
                rule.fallback == "true"
                if rule.type == "bool"
                else float(rule.fallback)
                if rule.type == "f32"
                else rule.fallback
                if rule.type == "string"
                else int(rule.fallback)
            )
        if (
            rule.key == "attention.sliding_window"
            and value is not None
            and (
                not value
                or not config.boolean("use_sliding_window", True)
                or config.values.get("layer_types") == ["full_attention"] * n_layers
            )
        ):
            value = None
        if (
            rule.key == "attention.sliding_window_pattern"
            and "attention.sliding_window" not in keys
        ):
            value = None
        if value is not None:
            kind = f"array<{rule.type}>" if isinstance(value, list) else rule.type
            keys[rule.key] = Entry(rule.key, kind, value)


def _alike(config: ConfigObject, name: str) -> int:
    """An integer, or one for each layer that is the same in all."""
    listed = config.values[name]
    if not isinstance(listed, list) or not listed:
        return config.integer(name, low=0)
    if any(value != listed[0] for value in listed):
        raise UnsupportedModelError(
            f"{config.path}: '{name}' differs between layers, which hrun does not support"
        )
    return ConfigObject(config.path, {name: listed[0]}).integer(name, low=0)


def _is_bamba(config: ConfigObject) -> bool:
    """Bamba always turns half of each head, which few of its configurations say."""
    return config.values.get("model_type") == "bamba"


def _is_zero(entry: Entry | None) -> bool:
    return entry is not None and entry.value == 0


def _inner_size(config: ConfigObject, n_heads: int) -> int:
    """Values of all heads of a recurrent layer."""
    if config.has("mamba_d_ssm"):
        return config.integer("mamba_d_ssm")
    if config.values.get("mamba_d_head") == "auto":
        return config.integer("mamba_expand", default=2) * config.integer("hidden_size")
    name = config.first_of("linear_value_head_dim|mamba_d_head|mamba_head_dim|head_dim")
    return n_heads * config.integer(name, default=64)


def _rope_sections(config: ConfigObject, fallback: str) -> list[Scalar] | None:
    """Pairs that turn by time, height and width; with text all three are the position.  None: it has none."""
    rope = config.child("rope_parameters") or config.child("rope_scaling")
    sections = rope.values.get("mrope_section") if rope is not None else None
    if sections is None:
        if not fallback:
            return None
        sections = [int(n) for n in fallback.split(",")]
    if (
        not isinstance(sections, list)
        or len(sections) > 4
        or not all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 65536 for n in sections
        )
    ):
        raise config.error("mrope_section", "an array of up to four counts of pairs")
    return [*sections, *[0] * (4 - len(sections))]
