"""config.json of a Hugging Face model, translated to GGUF keys as the architecture's description says."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from hrun.errors import ModelFileError, UnsupportedModelError

from .config_object import ConfigObject
from .folder import shown
from .hf_rope import Rope, read_rope
from .source import Entry, Scalar, Value

# Names that config.json has had for the same thing; the first that is there counts.
_EMBD, _LAYERS, _HEADS, _FF = (
    "hidden_size|n_embd",
    "num_hidden_layers|n_layer",
    "num_attention_heads|n_head",
    "intermediate_size|n_inner",
)
_CONTEXT = "max_position_embeddings|n_positions|n_ctx"
_EPS = {"rms": "rms_norm_eps", "layer": "layer_norm_eps|layer_norm_epsilon|norm_epsilon|norm_eps"}
_ACTIVATIONS = {
    "silu": ("silu", "swish"),
    "clamped_silu": ("silu", "swish"),
    "gelu": ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu_accurate"),
    "gelu_erf": ("gelu",),
}
# What hrun does not do, whatever the architecture: key -> the values with which it need not.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "mlp_only_layers": ([],),
    "decoder_sparse_step": (1,),
    "moe_layer_freq": (1,),
    "use_qk_norm": (False,),
    "use_bidirectional_attention": (False,),
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
}


@dataclass(frozen=True)
class HFConfig:
    """The hyper-parameters of a decoder: `keys` by their GGUF names without the architecture's prefix.

    tied: is the head the embedding?  None where config.json does not say.
    """

    keys: dict[str, Entry]
    rope: Rope | None
    tied: bool | None
    object: ConfigObject

    def __getitem__(self, key: str) -> int:
        entry = self.keys.get(key)
        return (
            int(entry.value) if entry is not None and isinstance(entry.value, (int, float)) else 0
        )

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

    def has_experts(self, layer: int) -> bool:
        return self["expert_count"] > 0 and layer >= self["leading_dense_block_count"]

    def is_recurrent(self, layer: int) -> bool:
        if (kinds := self.keys.get("attention.recurrent_layers")) is not None:
            return isinstance(kinds.value, list) and bool(kinds.value[layer])
        period = self["full_attention_interval"]
        return period > 0 and (layer + 1) % period != 0

    def in_layer(self, where: str, layer: int) -> bool:
        """Has the layer what is in layers of this kind (Where in the core)?"""
        if where in ("attention", "recurrent"):
            return (where == "recurrent") == self.is_recurrent(layer)
        return where == "every" or (where == "experts") == self.has_experts(layer)

    def sizes(self) -> dict[str, int]:
        """Lengths by the names of the Dim enumeration of the architecture descriptions."""
        heads, kv_heads, k, v = (
            self[f"attention.{key}"]
            for key in ("head_count", "head_count_kv", "key_length", "value_length")
        )
        n_rot, experts, ff = (
            self["rope.dimension_count"],
            self["expert_count"],
            self["feed_forward_length"],
        )
        latent_kv, latent_k, latent_v = (
            self[f"attention.{key}"]
            for key in ("kv_lora_rank", "key_length_mla", "value_length_mla")
        )
        ff_expert = self["expert_feed_forward_length"] or ff
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
            "conv_taps": self["ssm.conv_kernel"],
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
    n_heads = config.integer(config.first_of(_HEADS), high=65535)
    n_kv_heads = config.integer("num_key_value_heads", default=n_heads, high=65535)
    if n_heads % n_kv_heads != 0:
        raise ModelFileError(
            f"{path}: '{config.first_of(_HEADS)}' is {n_heads}, not a multiple of 'num_key_value_heads', {n_kv_heads}"
        )
    n_ctx = config.integer(config.first_of(_CONTEXT), default=2048)
    ff_key = config.first_of(_FF)
    put("vocab_size", "u32", config.integer("vocab_size"))
    put("context_length", "u32", n_ctx)
    put("embedding_length", "u32", n_embd)
    put("block_count", "u32", config.integer(config.first_of(_LAYERS), high=65535))
    put(
        "feed_forward_length",
        "u32",
        config.integer(
            ff_key, default=4 * n_embd if ff_key == "n_inner" or config.has("n_embd") else None
        ),
    )
    latent = any(rule.role == "attn_kv_a" for rule in architecture.tensors)
    put("attention.head_count", "u32", n_heads)
    if latent:
        head_dim = _put_latent(config, put)
    else:
        head_dim = _head_dim(config, n_embd, n_heads, defaults.get("attention.key_length"))
        put("attention.head_count_kv", "u32", n_kv_heads)
        put("attention.key_length", "u32", head_dim)
        put("attention.value_length", "u32", head_dim)
    eps = config.number(
        config.first_of(_EPS[architecture.norm]),
        default=1e-6 if architecture.norm == "rms" else 1e-5,
        low=1e-30,
        exclusive=False,
        high=1.0,
    )
    put(
        "attention.layer_norm_rms_epsilon"
        if architecture.norm == "rms"
        else "attention.layer_norm_epsilon",
        "f32",
        eps,
    )
    rope = None
    if architecture.rotary:
        if head_dim % 2 != 0:
            raise ModelFileError(
                f"{path}: the head dimension is {head_dim}, rotary embedding needs an even one"
            )
        rope = read_rope(config, head_dim, n_ctx, latent, architecture.rotary_part)
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
    tied = (
        config.boolean("tie_word_embeddings", False) if config.has("tie_word_embeddings") else None
    )
    return HFConfig(keys, rope, tied, config)


def _lists(architecture: Any, key: str) -> bool:
    return any(rule.key == key for rule in architecture.config)


def _refuse(config: ConfigObject, architecture: Any) -> None:
    """Settings that change what the model computes and that hrun does not follow."""
    key = config.first_of("hidden_activation|hidden_act|activation_function")
    allowed = _ACTIVATIONS[architecture.nonlinearity]
    if _lists(architecture, "hidden_activation"):  # the file says it
        allowed += _ACTIVATIONS["silu"]
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
    asked_for = {rule.hf_if for rule in architecture.tensors}
    for key, neutral in _NEUTRAL.items():
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
    for rule in architecture.config:
        if rule.key in keys:
            continue
        name = config.first_of(rule.hf_key) if rule.hf_key else ""
        value: Value | None = None
        if rule.key == "attention.sliding_window_pattern":
            value = _window_period(config, keys)
        elif rule.key == "rope.freq_base_swa" and rope is not None and rope.window_base is not None:
            value = rope.window_base
        elif rule.key in ("full_attention_interval", "attention.recurrent_layers"):
            _put_mixers(config, keys)
            continue
        elif rule.key == "ssm.inner_size":
            value = config.integer("linear_value_head_dim") * config.integer(
                "linear_num_value_heads"
            )
        elif rule.key == "rope.dimension_sections":
            value = _rope_sections(config)
        elif rule.key == "expert_gating_func":
            by_default = config.values.get("model_type") in ("deepseek_v3", "glm4_moe_lite")
            scores = config.text(
                "scoring_func", "sigmoid" if by_default or architecture.gating == 2 else "softmax"
            )
            value = 2 if scores == "sigmoid" else 1
        elif rule.key == "attention.temperature_scale":
            scaling = config.child("rope_parameters")
            value = scaling.number(name, default=0.0, exclusive=False) if scaling else None
        elif rule.key == "n_deepstack_layers":
            vision = config.child("vision_config")
            layers = vision.values.get("deepstack_visual_indexes") if vision else None
            value = len(layers) if isinstance(layers, list) else 0
        elif rule.key == "leading_dense_block_count" and name == "mlp_layer_types":
            value = _leading_dense(config, name, keys)
        elif rule.key == "interleave_moe_layer_step":
            value = _expert_step(config, name, keys)
        elif rule.key == "expert_shared_feed_forward_length" and not rule.hf_key:
            parts = (keys.get(k) for k in ("expert_feed_forward_length", "expert_shared_count"))
            sizes = [int(e.value) if e else 0 for e in parts]  # type: ignore[arg-type]
            value = math.prod(sizes)
        elif rule.key.startswith("expert_group") and config.values.get("topk_method") == "greedy":
            value = None
        elif name and config.has(name):
            if rule.type == "u32":
                value = config.integer(name, low=0)
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
                else int(rule.fallback)
            )
        if (
            rule.key == "attention.sliding_window"
            and value is not None
            and (not value or not config.boolean("use_sliding_window", True))
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


def _leading_dense(config: ConfigObject, name: str, keys: dict[str, Entry]) -> int:
    """Layers before the first with experts, all of which have them from there on."""
    kinds = config.values[name]
    n_layers = int(keys["block_count"].value)  # type: ignore[arg-type]
    dense = kinds.count("dense") if isinstance(kinds, list) else 0
    if kinds != ["dense"] * dense + ["sparse"] * (n_layers - dense):
        raise UnsupportedModelError(
            f"{config.path}: '{name}' must be {n_layers} layers, 'dense' ones and then 'sparse' ones"
        )
    return dense


def _expert_step(config: ConfigObject, name: str, keys: dict[str, Entry]) -> int:
    """1: all layers from the first with experts to the last have them."""
    last = int(keys["block_count"].value) - 1  # type: ignore[arg-type]
    end = config.integer("moe_layer_end_index", default=last, low=-1)
    if config.integer(name, default=1) != 1 or end not in (-1, last):
        raise UnsupportedModelError(
            f"{config.path}: '{name}' and 'moe_layer_end_index' must be 1 and {last}: hrun runs experts in all layers "
            "from the first that has them"
        )
    return 1


def _put_mixers(config: ConfigObject, keys: dict[str, Entry]) -> None:
    """Which layers are recurrent: by a period where there is one."""
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


def _rope_sections(config: ConfigObject) -> list[Scalar]:
    """Pairs that turn by time, height and width; with text all three are the position."""
    rope = config.child("rope_parameters") or config.child("rope_scaling")
    sections = rope.values.get("mrope_section") if rope is not None else None
    if sections is None:
        sections = [11, 11, 10]
    if (
        not isinstance(sections, list)
        or len(sections) > 4
        or not all(
            isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 65536 for n in sections
        )
    ):
        raise config.error("mrope_section", "an array of up to four counts of pairs")
    return [*sections, *[0] * (4 - len(sections))]


def _window_period(config: ConfigObject, keys: dict[str, Entry]) -> int | None:
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
