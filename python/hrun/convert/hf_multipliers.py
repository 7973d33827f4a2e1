"""Multipliers of a configuration that a GGUF file has no key for (Falcon H1): folded into the rows of the matrices."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from hrun.errors import UnsupportedModelError

from .config_object import ConfigObject

Floats = npt.NDArray[np.float32]

# Names of config.json whose product scales all rows of a role.
_OF_ROLE = {
    "token_embd": ("embedding_multiplier",),
    "output": ("lm_head_multiplier",),
    "attn_q": ("attention_in_multiplier",),
    "attn_k": ("attention_in_multiplier", "key_multiplier"),
    "attn_v": ("attention_in_multiplier",),
    "attn_output": ("attention_out_multiplier",),
    "ssm_in": ("ssm_in_multiplier",),
    "ssm_out": ("ssm_out_multiplier",),
}
_ARCHITECTURES = ("falcon-h1",)


def row_factors(
    config: ConfigObject, architecture: str, role: str, sizes: dict[str, int], n_rows: int
) -> Floats | None:
    """Returns the factors that multiply the rows of a tensor; None: no factor does.  Raises
    ModelFileError, UnsupportedModelError.
    """
    if architecture not in _ARCHITECTURES:
        return None
    factors = np.ones(n_rows, np.float64)
    for name in _OF_ROLE.get(role, ()):
        factors *= config.number(name, default=1.0, low=-1e6, exclusive=False)
    if role in ("ffn_gate", "ffn_down"):
        factors *= _listed(config, "mlp_multipliers", 2)[role == "ffn_down"]
    if role == "ssm_in":
        inner, shared = sizes["ssm_inner"], (sizes["ssm_conv"] - sizes["ssm_inner"]) // 2
        lengths = [inner, inner, shared, shared, sizes["ssm_heads"]]
        factors *= np.repeat(_listed(config, "ssm_multipliers", 5), lengths)
    if role == "token_embd" and config.boolean("tie_word_embeddings", False):
        head = config.number("lm_head_multiplier", default=1.0, low=-1e6, exclusive=False)
        if head != factors[0]:
            raise UnsupportedModelError(
                f"{config.path}: 'lm_head_multiplier' is {head:g} and 'embedding_multiplier' {factors[0]:g}, of one tied matrix"
            )
    return None if (factors == 1).all() else factors.astype(np.float32)


def constants(
    config: ConfigObject, architecture: str, role: str, sizes: dict[str, int]
) -> Floats | None:
    """A tensor that no checkpoint has and the configuration says, float32 [cols] (Muse Glimmer: how much heads of queries grow)."""
    if architecture != "muse-glimmer" or role not in ("attn_q_norm", "attn_k_norm"):
        return None
    factor = config.number("qk_scale_factor", default=3.87) if role == "attn_q_norm" else 1.0
    return np.full(sizes["head"], factor, np.float32)


def _listed(config: ConfigObject, name: str, n: int) -> list[float]:
    values = config.values.get(name)
    if values is None:
        return [1.0] * n
    if (
        not isinstance(values, list)
        or len(values) != n
        or not all(
            isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < 1e6 for v in values
        )
    ):
        raise config.error(name, f"an array of {n} numbers")
    return [float(v) for v in values]
