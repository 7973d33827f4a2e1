"""The language model in a checkpoint of a multimodal model: its part of config.json and its tensors.

What belongs to images and sound is left out; hrun runs the text.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar

from hrun.errors import UnsupportedModelError

T = TypeVar("T")

_TEXT = "text_config"
_OTHER_PARTS = ("vision_config", "audio_config")
_OTHER_TENSORS = re.compile(
    r"(?:model\.)?(?:visual|vision_tower|vision_model|vision_encoder|vision_projection|vision_language_adapter"
    r"|vision_adapter|connector|mlp1|image_newline|multi_modal_projector|multimodal_projector|embed_vision|patch_merger|audio_tower|embed_audio)(?:\.|$)"
)
# The values that config.json may leave out, by `model_type`: the checkpoints of Gemma 3 do.
_LEFT_OUT: dict[str, dict[str, Any]] = {
    "gemma3_text": {
        "vocab_size": 262208,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "query_pre_attn_scalar": 256,
        "max_position_embeddings": 131072,
        "hidden_activation": "gelu_pytorch_tanh",
        "rope_theta": 1000000.0,
        "rope_local_base_freq": 10000.0,
        "sliding_window_pattern": 6,
    },
}


# The classes of language models, by the `model_type` that a wrapper's configuration gives its text's part.
_TEXT_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "ministral3": "Ministral3ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen2_moe": "Qwen2MoeForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "qwen3_5_text": "Qwen3_5ForCausalLM",
    "qwen3_5_moe_text": "Qwen3_5MoeForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3n_text": "Gemma3nForCausalLM",
    "gemma4_text": "Gemma4ForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "phi": "PhiForCausalLM",
    "granite": "GraniteForCausalLM",
    "granitemoehybrid": "GraniteMoeHybridForCausalLM",
    "lfm2": "Lfm2ForCausalLM",
    "exaone4": "Exaone4ForCausalLM",
    "cohere": "CohereForCausalLM",
    "cohere2": "Cohere2ForCausalLM",
    "smollm3": "SmolLM3ForCausalLM",
    "gpt_oss": "GptOssForCausalLM",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "kimi_k2": "DeepseekV3ForCausalLM",
    "youtu": "YoutuForCausalLM",
    "nemotron_h": "NemotronHForCausalLM",
}


def text_class(values: dict[str, Any]) -> str | None:
    """The class of the language model in a wrapper that hrun does not know; None where it is none that hrun may know."""
    part = values.get(_TEXT)
    model_type = part.get("model_type") if isinstance(part, dict) else None
    return _TEXT_CLASSES.get(model_type) if isinstance(model_type, str) else None


def is_multimodal(values: dict[str, Any]) -> bool:
    return any(isinstance(values.get(key), dict) for key in (_TEXT, *_OTHER_PARTS))


def language_config(values: dict[str, Any], path: str) -> dict[str, Any]:
    """config.json of the language model: what its part says, and beside it what all parts share."""
    text = values.get(_TEXT)
    if text is None:
        return values
    if not isinstance(text, dict):
        raise UnsupportedModelError(f"{path}: '{_TEXT}' must be an object")
    model_type = text.get("model_type")
    left_out = _LEFT_OUT.get(model_type, {}) if isinstance(model_type, str) else {}
    said = {key: value for key, value in text.items() if value is not None}
    shared = {key: value for key, value in values.items() if key != _TEXT}
    out = {**left_out, **shared, **said, "architectures": values["architectures"]}
    tied = {part["tie_word_embeddings"] for part in (values, text) if "tie_word_embeddings" in part}
    if len(tied) > 1:  # the tensors tell
        del out["tie_word_embeddings"]
    return out


def language_tensors(stored: dict[str, T], notes: list[str]) -> dict[str, T]:
    """The tensors without those of images and sound."""
    kept = {name: tensor for name, tensor in stored.items() if not _OTHER_TENSORS.match(name)}
    if left_out := len(stored) - len(kept):
        notes.append(f"{left_out} tensors of the vision or sound part left out: hrun runs the text")
    return kept
