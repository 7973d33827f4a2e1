"""config.json of a Hugging Face model: strict reading, and its translation to GGUF keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from hrun._core import ModelFileError, UnsupportedModelError

from .folder import json_type, shown
from .source import Entry

_MAX_INT = 2**31 - 1


class ConfigObject:
    """Typed access to one JSON object; every error names the file and the key.  null counts as absent."""

    def __init__(self, path: str, values: dict[str, Any], prefix: str = "") -> None:
        self.path = path
        self.values = values
        self._prefix = prefix

    def error(self, key: str, wanted: str) -> ModelFileError:
        value = self.values.get(key)
        found = json_type(value) if isinstance(value, (dict, list)) or value is None else f"{json_type(value)}: {shown(repr(value), 60)}"
        return ModelFileError(f"{self.path}: '{self._prefix}{key}' must be {wanted}, found {found}")

    def has(self, key: str) -> bool:
        return self.values.get(key) is not None

    def integer(self, key: str, default: int | None = None, low: int = 1, high: int = _MAX_INT) -> int:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise ModelFileError(f"{self.path}: '{self._prefix}{key}' is missing")
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise self.error(key, f"an integer from {low} to {high}")
        return value

    def number(self, key: str, default: float | None = None, low: float = 0.0, exclusive: bool = True, high: float = 1e6) -> float:
        """A finite number above `low` (or equal to it unless `exclusive`), at most `high`."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise ModelFileError(f"{self.path}: '{self._prefix}{key}' is missing")
        wanted = f"a finite number {'above' if exclusive else 'of at least'} {low:g} and at most {high:g}"
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.error(key, wanted)
        try:
            number = float(value)
        except OverflowError:
            raise self.error(key, wanted) from None
        if not math.isfinite(number) or number > high or number < low or (exclusive and number == low):
            raise self.error(key, wanted)
        return number

    def boolean(self, key: str, default: bool) -> bool:
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(key, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise ModelFileError(f"{self.path}: '{self._prefix}{key}' is missing")
        if not isinstance(value, str):
            raise self.error(key, "a string")
        return value

    def child(self, key: str) -> ConfigObject | None:
        value = self.values.get(key)
        if value is None:
            return None
        if not isinstance(value, dict):
            raise self.error(key, "an object")
        return ConfigObject(self.path, value, f"{self._prefix}{key}.")


@dataclass(frozen=True)
class RopeScaling:
    """kind as in GGUF ("none", "linear", "yarn"); llama3's scaling is a table of factors, float32 [n_rot / 2]."""

    kind: str = "none"
    entries: tuple[Entry, ...] = ()
    factors: npt.NDArray[np.float32] | None = None


@dataclass(frozen=True)
class HFConfig:
    """The hyper-parameters of a decoder, as config.json gives them."""

    n_layers: int
    n_embd: int
    n_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    n_vocab: int
    n_ctx: int
    rms_eps: float
    rope_base: float
    rope: RopeScaling
    tied: bool
    attention_bias: bool
    mlp_bias: bool

    def metadata(self, arch: str) -> list[Entry]:
        """llama.cpp's keys for this architecture."""

        def u32(key: str, value: int) -> Entry:
            return Entry(f"{arch}.{key}", "u32", value)

        def f32(key: str, value: float) -> Entry:
            return Entry(f"{arch}.{key}", "f32", value)

        return [
            u32("vocab_size", self.n_vocab),
            u32("context_length", self.n_ctx),
            u32("embedding_length", self.n_embd),
            u32("block_count", self.n_layers),
            u32("feed_forward_length", self.n_ff),
            u32("attention.head_count", self.n_heads),
            u32("attention.head_count_kv", self.n_kv_heads),
            u32("attention.key_length", self.head_dim),
            u32("attention.value_length", self.head_dim),
            f32("attention.layer_norm_rms_epsilon", self.rms_eps),
            u32("rope.dimension_count", self.head_dim),
            f32("rope.freq_base", self.rope_base),
            *(Entry(f"{arch}.{e.key}", e.type, e.value) for e in self.rope.entries),
        ]

    def sizes(self) -> dict[str, int]:
        """Lengths by the names of the Dim enumeration of the architecture descriptions."""
        return {
            "one": 1, "embd": self.n_embd, "vocab": self.n_vocab, "ff": self.n_ff,
            "q": self.n_heads * self.head_dim, "k": self.n_kv_heads * self.head_dim, "v": self.n_kv_heads * self.head_dim,
            "q_out": self.n_heads * self.head_dim, "half_rot": self.head_dim // 2,
        }


def read_config(path: str, values: dict[str, Any]) -> HFConfig:
    """Validates config.json of a plain decoder.  Raises ModelFileError, UnsupportedModelError."""
    config = ConfigObject(path, values)
    if (quantization := config.child("quantization_config")) is not None:
        raise UnsupportedModelError(f"{path}: the checkpoint is already quantized (quant_method "
                                    f"'{shown(quantization.values.get('quant_method'))}'); convert the original")
    activation = config.text("hidden_act", "silu")
    if activation not in ("silu", "swish"):
        raise UnsupportedModelError(f"{path}: 'hidden_act' is '{shown(activation)}'; only 'silu' is supported")
    n_embd = config.integer("hidden_size")
    n_heads = config.integer("num_attention_heads", high=65535)
    n_kv_heads = config.integer("num_key_value_heads", default=n_heads, high=65535)
    if n_heads % n_kv_heads != 0:
        raise ModelFileError(f"{path}: 'num_attention_heads' is {n_heads}, not a multiple of 'num_key_value_heads', {n_kv_heads}")
    if not config.has("head_dim") and n_embd % n_heads != 0:
        raise ModelFileError(f"{path}: 'hidden_size' is {n_embd}, not a multiple of 'num_attention_heads', {n_heads}, "
                             "and there is no 'head_dim'")
    head_dim = config.integer("head_dim", default=n_embd // n_heads, high=65536)
    if head_dim % 2 != 0:
        raise ModelFileError(f"{path}: the head dimension is {head_dim}, rotary embedding needs an even one")
    n_ctx = config.integer("max_position_embeddings", default=2048)
    window = config.integer("sliding_window", default=0, low=0)
    if window and window < n_ctx and config.boolean("use_sliding_window", True):
        raise UnsupportedModelError(f"{path}: 'sliding_window' is {window}, below 'max_position_embeddings', {n_ctx}; "
                                    "sliding-window attention is not supported")
    rope_base, rope = _read_rope(config, head_dim, n_ctx)
    return HFConfig(
        n_layers=config.integer("num_hidden_layers", high=65535), n_embd=n_embd, n_ff=config.integer("intermediate_size"),
        n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, n_vocab=config.integer("vocab_size"), n_ctx=n_ctx,
        rms_eps=config.number("rms_norm_eps", default=1e-6, low=1e-30, exclusive=False, high=1.0), rope_base=rope_base, rope=rope,
        tied=config.boolean("tie_word_embeddings", False), attention_bias=config.boolean("attention_bias", False),
        mlp_bias=config.boolean("mlp_bias", False))


def _read_rope(config: ConfigObject, head_dim: int, n_ctx: int) -> tuple[float, RopeScaling]:
    """The base and the scaling, from `rope_theta` and `rope_scaling` or from the newer `rope_parameters`."""
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    scaling = config.child(key)
    base_in = scaling if scaling is not None and scaling.has("rope_theta") else config
    base = base_in.number("rope_theta", default=10000.0, low=2.0, exclusive=False, high=1e15)
    for where in (config, scaling):
        if where is not None and where.number("partial_rotary_factor", default=1.0) != 1.0:
            raise UnsupportedModelError(f"{config.path}: 'partial_rotary_factor' is not 1; partly rotated heads are not supported")
    if scaling is None:
        return base, RopeScaling()
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    readers = {"default": _rope_none, "none": _rope_none, "linear": _rope_linear, "llama3": _rope_llama3, "yarn": _rope_yarn}
    if kind not in readers:
        raise UnsupportedModelError(f"{config.path}: '{key}' asks for the RoPE scaling '{shown(kind)}'; "
                                    f"supported are {', '.join(readers)}")
    return base, readers[kind](scaling, base, head_dim, n_ctx)


def _rope_none(scaling: ConfigObject, base: float, head_dim: int, n_ctx: int) -> RopeScaling:
    return RopeScaling()


def _rope_linear(scaling: ConfigObject, base: float, head_dim: int, n_ctx: int) -> RopeScaling:
    factor = scaling.number("factor")
    return RopeScaling("linear", (Entry("rope.scaling.type", "string", "linear"), Entry("rope.scaling.factor", "f32", factor)))


def _rope_llama3(scaling: ConfigObject, base: float, head_dim: int, n_ctx: int) -> RopeScaling:
    """Llama 3.1: each frequency divided by 1 (short waves), by `factor` (long waves), or by something between."""
    factor = scaling.number("factor")
    low = scaling.number("low_freq_factor", default=1.0)
    high = scaling.number("high_freq_factor", default=4.0)
    original = scaling.integer("original_max_position_embeddings", default=8192)
    if high <= low:
        raise scaling.error("high_freq_factor", f"larger than low_freq_factor, {low:g}")
    inverse = base ** (-np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    turns = original * inverse / (2 * math.pi)  # of the wave within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors = 1.0 / ((1.0 - smooth) / factor + smooth)
    return RopeScaling("none", (), factors.astype(np.float32))


def _rope_yarn(scaling: ConfigObject, base: float, head_dim: int, n_ctx: int) -> RopeScaling:
    """YaRN.  GGUF's readers multiply the attention by 0.1 ln(factor) + 1 themselves; attn_factor is what differs from that."""
    factor = scaling.number("factor", low=1.0, exclusive=False)
    original = scaling.integer("original_max_position_embeddings", default=n_ctx)
    if not scaling.boolean("truncate", True):
        raise UnsupportedModelError(f"{scaling.path}: yarn with 'truncate' false is not supported")
    entries = [Entry("rope.scaling.type", "string", "yarn"), Entry("rope.scaling.factor", "f32", factor),
               Entry("rope.scaling.original_context_length", "u32", original)]

    def mscale(multiplier: float) -> float:
        return 0.1 * multiplier * math.log(factor) + 1.0 if factor > 1 else 1.0

    wanted = mscale(1.0)
    if scaling.has("attention_factor"):
        wanted = scaling.number("attention_factor")
    elif scaling.has("mscale") and scaling.has("mscale_all_dim"):
        wanted = mscale(scaling.number("mscale")) / mscale(scaling.number("mscale_all_dim"))
    if abs(wanted - mscale(1.0)) > 1e-9:
        entries.append(Entry("rope.scaling.attn_factor", "f32", wanted / mscale(1.0)))
    if scaling.has("beta_fast"):
        entries.append(Entry("rope.scaling.yarn_beta_fast", "f32", scaling.number("beta_fast")))
    if scaling.has("beta_slow"):
        entries.append(Entry("rope.scaling.yarn_beta_slow", "f32", scaling.number("beta_slow")))
    return RopeScaling("yarn", tuple(entries))
