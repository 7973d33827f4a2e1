"""The rotary embedding of a Hugging Face configuration, as GGUF keys and tensors of factors."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hrun.errors import UnsupportedModelError

from .config_object import ConfigObject
from .folder import shown
from .source import Entry

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class RopeScaling:
    """kind as in GGUF ("none", "linear", "yarn", "longrope"); factors: tensors by role, float32 [n_rot / 2]."""

    kind: str = "none"
    entries: tuple[Entry, ...] = ()
    factors: dict[str, Floats] | None = None


@dataclass(frozen=True)
class Rope:
    """window_base, window_n_rot: of layers with a window, where they have another embedding."""

    base: float
    n_rot: int
    scaling: RopeScaling
    window_base: float | None = None
    window_n_rot: int | None = None


def read_rope(
    config: ConfigObject,
    head_dim: int,
    n_ctx: int,
    latent: bool,
    part: float = 1.0,
    window_head_dim: int = 0,
) -> Rope:
    """Reads the rotation from `rope_theta` and `rope_scaling` or from the newer `rope_parameters`.
    Raises ModelFileError, UnsupportedModelError.

    latent: attention temperatures go on the scores, as in DeepSeek's models, and head_dim is the turned part alone.
    part: how much of a head is turned where the configuration does not say.  window_head_dim: a head's values in layers
    with a window, if they are others.
    """
    key = "rope_parameters" if config.has("rope_parameters") else "rope_scaling"
    scaling = config.child(key)
    window_base, window_n_rot = None, None
    if scaling is not None and (full := scaling.child("full_attention")) is not None:
        window = scaling.child("sliding_attention")
        window_base = (
            window.number("rope_theta", default=10000.0, low=2.0, exclusive=False, high=1e15)
            if window is not None
            else None
        )
        if window_head_dim:
            turned = window.number("partial_rotary_factor", default=1.0, high=1.0) if window else 1
            window_n_rot = int(window_head_dim * turned)
        scaling = full
    base_in = scaling if scaling is not None and scaling.has("rope_theta") else config
    base = base_in.number(
        base_in.first_of("rope_theta|rotary_emb_base"),
        default=10000.0,
        low=2.0,
        exclusive=False,
        high=1e15,
    )
    for where in (config, scaling):
        for name in ("rotary_pct", "partial_rotary_factor"):
            if where is not None and where.has(name):
                part = where.number(name, high=1.0)
    if scaling is not None and scaling.text("rope_type", "") == "proportional":
        # The first pairs turn as if all of the head did; the others, far too slowly to be seen.
        turned = int(part * head_dim // 2)
        factors = np.full(head_dim // 2, 1e30, np.float32)
        factors[:turned] = scaling.number("factor", default=1.0)
        still = RopeScaling("none", (), {"rope_freqs": factors})
        return Rope(base, head_dim, still, window_base, window_n_rot)
    n_rot = config.integer("rotary_dim", default=int(head_dim * part), low=0, high=head_dim)
    if n_rot < 2 or n_rot % 2 != 0:
        raise UnsupportedModelError(
            f"{config.path}: 'partial_rotary_factor' {part:g} leaves {n_rot} of {head_dim} values to turn; "
            "an even number is needed"
        )
    if scaling is None:
        return Rope(base, n_rot, RopeScaling(), window_base)
    kind = scaling.text("rope_type", scaling.text("type", "default"))
    readers = {
        "default": _none,
        "dynamic": _ntk_alpha,
        "mrope": _none,  # of images; text has one position
        "none": _none,
        "linear": _linear,
        "llama3": _llama3,
        "yarn": _yarn,
        "longrope": _longrope,
        "su": _longrope,
    }
    if kind not in readers:
        raise UnsupportedModelError(
            f"{config.path}: '{key}' asks for the RoPE scaling '{shown(kind)}'; "
            f"supported are {', '.join(readers)}"
        )
    return Rope(
        base,
        n_rot,
        readers[kind](scaling, config, base, n_rot, n_ctx, latent),
        window_base,
        window_n_rot,
    )


def _none(
    scaling: ConfigObject, config: ConfigObject, base: float, n_rot: int, n_ctx: int, latent: bool
) -> RopeScaling:
    return RopeScaling()


def _ntk_alpha(
    scaling: ConfigObject, config: ConfigObject, base: float, n_rot: int, n_ctx: int, latent: bool
) -> RopeScaling:
    """Returns Hunyuan's scaling: another base, the same at every length.

    Other models change the base beyond the context, where hrun ends.
    """
    if not scaling.has("alpha"):
        trained = scaling.integer("original_max_position_embeddings", default=n_ctx)
        if trained >= n_ctx:
            return RopeScaling()
        raise UnsupportedModelError(
            f"{config.path}: the RoPE scaling 'dynamic' changes with the length of the text, which hrun does not support"
        )
    alpha = scaling.number("alpha")
    return RopeScaling(
        "none", (Entry("rope.freq_base", "f32", base * alpha ** (n_rot / (n_rot - 2))),)
    )


def _linear(
    scaling: ConfigObject, config: ConfigObject, base: float, n_rot: int, n_ctx: int, latent: bool
) -> RopeScaling:
    factor = scaling.number("factor")
    return RopeScaling(
        "linear",
        (
            Entry("rope.scaling.type", "string", "linear"),
            Entry("rope.scaling.factor", "f32", factor),
        ),
    )


def _llama3(
    scaling: ConfigObject, config: ConfigObject, base: float, n_rot: int, n_ctx: int, latent: bool
) -> RopeScaling:
    """Llama 3.1: each frequency divided by 1 (short waves), by `factor` (long waves), or by something between."""
    factor = scaling.number("factor")
    low = scaling.number("low_freq_factor", default=1.0)
    high = scaling.number("high_freq_factor", default=4.0)
    original = scaling.integer("original_max_position_embeddings", default=8192)
    if high <= low:
        raise scaling.error("high_freq_factor", f"larger than low_freq_factor, {low:g}")
    inverse = base ** (-np.arange(0, n_rot, 2, dtype=np.float64) / n_rot)
    turns = original * inverse / (2 * math.pi)  # of the wave within the original context
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    factors = 1.0 / ((1.0 - smooth) / factor + smooth)
    return RopeScaling("none", (), {"rope_freqs": factors.astype(np.float32)})


def _yarn(
    scaling: ConfigObject, config: ConfigObject, base: float, n_rot: int, n_ctx: int, latent: bool
) -> RopeScaling:
    """YaRN.  GGUF's readers multiply the attention by 0.1 ln(factor) + 1 themselves; attn_factor is what differs from that."""
    factor = scaling.number("factor", low=1.0, exclusive=False)
    original = scaling.integer("original_max_position_embeddings", default=n_ctx)
    entries = [
        Entry("rope.scaling.type", "string", "yarn"),
        Entry("rope.scaling.factor", "f32", factor),
        Entry("rope.scaling.original_context_length", "u32", original),
        Entry("rope.scaling.yarn_truncate", "bool", scaling.boolean("truncate", True)),
    ]

    def mscale(multiplier: float) -> float:
        return 0.1 * multiplier * math.log(factor) + 1.0 if factor > 1 else 1.0

    wanted = mscale(1.0)
    if scaling.has("attention_factor"):
        wanted = scaling.number("attention_factor")
    elif scaling.has("mscale") and scaling.has("mscale_all_dim"):
        wanted = mscale(scaling.number("mscale")) / mscale(scaling.number("mscale_all_dim"))
    multiplier = scaling.number("mscale_all_dim", default=0.0, exclusive=False)
    if latent and multiplier:
        # The reader takes the temperature off the rotation and puts its square on the scores.
        entries.append(Entry("rope.scaling.yarn_log_multiplier", "f32", 0.1 * multiplier))
        if abs(wanted - 1.0) > 1e-9:
            entries.append(Entry("rope.scaling.attn_factor", "f32", wanted))
    elif abs(wanted - mscale(1.0)) > 1e-9:
        entries.append(Entry("rope.scaling.attn_factor", "f32", wanted / mscale(1.0)))
    if scaling.has("beta_fast"):
        entries.append(Entry("rope.scaling.yarn_beta_fast", "f32", scaling.number("beta_fast")))
    if scaling.has("beta_slow"):
        entries.append(Entry("rope.scaling.yarn_beta_slow", "f32", scaling.number("beta_slow")))
    return RopeScaling("yarn", tuple(entries))


def _longrope(
    scaling: ConfigObject, config: ConfigObject, base: float, n_rot: int, n_ctx: int, latent: bool
) -> RopeScaling:
    """Phi 3: two sets of factors, for contexts up to the original length and beyond."""
    where = scaling if scaling.has("original_max_position_embeddings") else config
    original = where.integer("original_max_position_embeddings", default=n_ctx)
    factors = {}
    for role, key in (("rope_long", "long_factor"), ("rope_short", "short_factor")):
        values = scaling.values.get(key)
        if (
            not isinstance(values, list)
            or len(values) != n_rot // 2
            or not all(
                isinstance(v, (int, float)) and not isinstance(v, bool) and 0 < v < 1e6
                for v in values
            )
        ):
            raise scaling.error(key, f"an array of {n_rot // 2} positive numbers")
        factors[role] = np.array(values, np.float32)
    factor = scaling.number("factor", default=n_ctx / original)
    wanted = scaling.number(
        scaling.first_of("short_mscale|attention_factor"),
        default=math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0,
    )
    if (long := scaling.number("long_mscale", default=wanted)) != wanted:
        raise UnsupportedModelError(
            f"{config.path}: 'long_mscale' is {long:g}, 'short_mscale' {wanted:g}: a GGUF file has one number for both"
        )
    return RopeScaling(
        "longrope",
        (
            Entry("rope.scaling.type", "string", "longrope"),
            Entry("rope.scaling.original_context_length", "u32", original),
            Entry("rope.scaling.attn_factor", "f32", wanted),
        ),
        factors,
    )
