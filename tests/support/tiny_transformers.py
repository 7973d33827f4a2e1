"""Tiny random models of every architecture, made by transformers: the oracle for what a model computes.

    python tests/support/tiny_transformers.py qwen3 FOLDER

writes the checkpoint folder of one (they are not in the repository).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rewritten_checkpoints import as_bailing, as_internlm2
from rwkv_reference import write_rwkv7
from tiny_hf import tokenizer_json

N_VOCAB = 320
_SIZES = {
    "vocab_size": N_VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "initializer_range": 0.15,
}
_MOE = {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LATENT = {
    "num_key_value_heads": 4,
    "num_hidden_layers": 3,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "q_lora_rank": 48,
    "kv_lora_rank": 32,
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 16,
    "v_head_dim": 32,
}
# Twice as many heads of values as of keys, and no whole number of periods.  With weights of the others' size a change of the
# weights in the last place moves these models' logits by 1e-4.
_DELTA = {
    "initializer_range": 0.08,
    "num_hidden_layers": 5,
    "head_dim": 32,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}
_SECTIONS = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [3, 3, 2]}
_VISION = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_heads": 2,
    "out_hidden_size": 64,
}
_TEMPERATURE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
    "llama_4_scaling_beta": 0.1,
}
_ROUTED = {
    "num_hidden_layers": 3,
    "moe_intermediate_size": 32,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "routed_scaling_factor": 1.5,
    "head_dim": 16,
}
_SOLAR = {k: v for k, v in _ROUTED.items() if k != "first_k_dense_replace"}
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_n_groups": 2}
_NEMOTRON_H = {
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "ssm_state_size": 16,
    "n_groups": 2,
    "head_dim": 16,
    "num_hidden_layers": 5,
    # transformers takes it for a lower bound of steps, which nobody else has.
    "time_step_min": 1e-30,
}
_GRANITE_H = {
    **_MAMBA,
    "num_hidden_layers": 3,
    "layer_types": ["mamba", "attention", "mamba"],
    "shared_intermediate_size": 48,
    "attention_multiplier": 0.3,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.4,
    "logits_scaling": 2.5,
}
_GRANITE_H_DENSE = {
    **_GRANITE_H,
    "num_local_experts": 0,
    "num_experts_per_tok": 0,
    "intermediate_size": 48,
}
# Heads of one size in layers with a window, of another in the others.
_GEMMA4 = {"head_dim": 16, "global_head_dim": 32, "sliding_window": 16}
_GEMMA3N = {
    "head_dim": 32,
    "sliding_window": 16,
    "initializer_range": 0.1,
}
_FALCON = {
    "ffn_hidden_size": 256,
    "intermediate_size": 256,
    "new_decoder_architecture": True,
    "num_kv_heads": 2,
}
_LAGUNA = {**_MOE, "head_dim": 16, "shared_expert_intermediate_size": 48}
_COHERE2MOE = {
    "num_experts": 6,
    "num_hidden_layers": 5,
    "head_dim": 16,
    "prefix_dense_intermediate_size": 80,
    "sliding_window": 16,
    "logit_scale": 0.5,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0 + 0.1 * i for i in range(8)],
    "long_factor": [1.5 + 0.7 * i for i in range(8)],
}

_MSCALES = {"short_mscale": 1.24, "long_mscale": 1.24, "original_max_position_embeddings": 256}
_PHIMOE = {
    "num_local_experts": 6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}


@dataclass(frozen=True)
class Tiny:
    """architecture: its name in hrun.  config: the class of transformers' configuration, and changes to the sizes above.

    vision: of a multimodal model, the sizes of its other part.  beside: of what is between.  remade: what makes the checkpoint of an architecture that
    transformers lacks of the folder of one that computes the same, given the heads of queries and of keys.  reference: writes
    the checkpoint of one that transformers lacks and returns what stands in its model's place.
    """

    architecture: str
    config: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    vision: Mapping[str, Any] | None = None
    beside: Mapping[str, Any] = field(default_factory=dict)
    remade: Callable[[Path, int, int], None] | None = None
    reference: Callable[[Path, int, int], Any] | None = None


TINY: dict[str, Tiny] = {
    "llama": Tiny("llama", "LlamaConfig"),
    "llama 3": Tiny(
        "llama",
        "LlamaConfig",
        {
            "tie_word_embeddings": True,
            "head_dim": 32,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
    ),
    "llama with biases": Tiny("llama", "LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "mistral": Tiny("llama", "MistralConfig", {"sliding_window": 20, "head_dim": 16}),
    "mixtral": Tiny("llama", "MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2": Tiny("qwen2", "Qwen2Config"),
    "qwen2, width 96": Tiny(
        "qwen2",
        "Qwen2Config",
        {"hidden_size": 96, "num_attention_heads": 6, "tie_word_embeddings": True},
    ),
    "qwen3": Tiny("qwen3", "Qwen3Config", {"head_dim": 32}),
    "qwen2moe": Tiny("qwen2moe", "Qwen2MoeConfig", {**_MOE, "shared_expert_intermediate_size": 48}),
    "qwen3moe": Tiny(
        "qwen3moe", "Qwen3MoeConfig", {**_MOE, "head_dim": 32, "norm_topk_prob": True}
    ),
    "gemma2": Tiny(
        "gemma2",
        "Gemma2Config",
        {"head_dim": 32, "sliding_window": 16, "query_pre_attn_scalar": 24, "num_hidden_layers": 3},
    ),
    "gemma3": Tiny(
        "gemma3",
        "Gemma3TextConfig",
        {
            "head_dim": 32,
            "sliding_window": 16,
            "num_hidden_layers": 7,
            "query_pre_attn_scalar": 24,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "gemma3, multimodal": Tiny(
        "gemma3",
        "Gemma3Config",
        {"head_dim": 32, "sliding_window": 16, "num_hidden_layers": 7, "query_pre_attn_scalar": 24},
        {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 224,
            "patch_size": 14,
        },
    ),
    "phi3": Tiny("phi3", "Phi3Config", {"sliding_window": 24}),
    "phi3, long": Tiny(
        "phi3", "Phi3Config", {"original_max_position_embeddings": 32, "rope_parameters": _LONGROPE}
    ),
    "phi3, short": Tiny(
        "phi3",
        "Phi3Config",
        {
            "max_position_embeddings": 512,
            "original_max_position_embeddings": 256,
            "rope_parameters": _LONGROPE,
        },
    ),
    "rwkv 7": Tiny("rwkv7", "", reference=write_rwkv7),
    "bamba": Tiny(
        "granitehybrid",
        "BambaConfig",
        {**_MAMBA, "num_hidden_layers": 4, "attn_layer_indices": [1, 2]},
    ),
    # So large a margin that several experts are near the best.
    "phimoe": Tiny(
        "phimoe",
        "PhimoeConfig",
        {**_PHIMOE, "attention_bias": True, "lm_head_bias": True, "router_jitter_noise": 0.3},
    ),
    "phimoe, short": Tiny(
        "phimoe", "PhimoeConfig", {**_PHIMOE, "rope_parameters": {**_MSCALES, **_LONGROPE}}
    ),
    # transformers takes the short factors at any length, which its authors did not mean.
    "phimoe, long": Tiny(
        "phimoe",
        "PhimoeConfig",
        {
            **_PHIMOE,
            "rope_parameters": {
                **_LONGROPE,
                **_MSCALES,
                "short_factor": _LONGROPE["long_factor"],
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "phi4-mini": Tiny(
        "phi3",
        "Phi3Config",
        {
            "hidden_size": 128,
            "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "partial_rotary_factor": 0.75,
            },
        },
    ),
    "olmo2": Tiny("olmo2", "Olmo2Config"),
    "granite": Tiny(
        "granite",
        "GraniteConfig",
        {
            "attention_multiplier": 0.3,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.5,
        },
    ),
    "starcoder2": Tiny("starcoder2", "Starcoder2Config", {"sliding_window": 24}),
    "gpt2": Tiny(
        "gpt2", "GPT2Config", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}
    ),
    "gpt-oss": Tiny(
        "gpt-oss",
        "GptOssConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 32,
            "sliding_window": 16,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 150000.0,
                "factor": 8.0,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "original_max_position_embeddings": 32,
                "truncate": False,
            },
        },
    ),
    "gpt-oss, whole ramp": Tiny(
        "gpt-oss",
        "GptOssConfig",
        {
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "head_dim": 32,
            "sliding_window": 16,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 150000.0,
                "factor": 8.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "deepseek2": Tiny(
        "deepseek2",
        "DeepseekV2Config",
        {
            **_LATENT,
            "n_group": 4,
            "topk_group": 2,
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 1.5,
        },
    ),
    "deepseek2, lite": Tiny("deepseek2", "DeepseekV2Config", {**_LATENT, "q_lora_rank": None}),
    "deepseek3": Tiny(
        "deepseek2",
        "DeepseekV3Config",
        {
            **_LATENT,
            "n_group": 4,
            "topk_group": 2,
            "num_nextn_predict_layers": 0,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 8.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "original_max_position_embeddings": 32,
            },
        },
    ),
    "qwen35": Tiny("qwen35", "Qwen3_5TextConfig", _DELTA),
    "qwen35, no period": Tiny(
        "qwen35",
        "Qwen3_5TextConfig",
        {
            **_DELTA,
            "num_hidden_layers": 4,
            "layer_types": ["full_attention", *["linear_attention"] * 2, "full_attention"],
            "linear_num_value_heads": 6,
            "linear_value_head_dim": 24,
            "tie_word_embeddings": True,
        },
    ),
    "qwen35moe": Tiny(
        "qwen35moe",
        "Qwen3_5MoeTextConfig",
        {**_MOE, **_DELTA, "shared_expert_intermediate_size": 48},
    ),
    "qwen3next": Tiny(
        "qwen3next",
        "Qwen3NextConfig",
        {**_MOE, **_DELTA, "shared_expert_intermediate_size": 48},
    ),
    "glm 4.7 flash": Tiny(
        "deepseek2", "Glm4MoeLiteConfig", {**_LATENT, "routed_scaling_factor": 1.8}
    ),
    "command-r": Tiny("command-r", "CohereConfig", {"logit_scale": 0.5}),
    "command-r, plus": Tiny("command-r", "CohereConfig", {"logit_scale": 0.5, "use_qk_norm": True}),
    "seed-oss": Tiny("seed_oss", "SeedOssConfig", {"head_dim": 32}),
    "glm4": Tiny("glm4", "Glm4Config", {"head_dim": 32}),
    "glm 4.5": Tiny("glm4moe", "Glm4MoeConfig", {**_ROUTED, "attention_bias": True}),
    "glm 4.5, large": Tiny("glm4moe", "Glm4MoeConfig", {**_ROUTED, "use_qk_norm": True}),
    "solar open": Tiny("glm4moe", "SolarOpenConfig", _SOLAR),
    "minimax m2": Tiny(
        "minimax-m2",
        "MiniMaxM2Config",
        {"num_local_experts": 6, "num_experts_per_tok": 2, "head_dim": 32, "rotary_dim": 16},
    ),
    "ernie 4.5": Tiny("ernie4_5", "Ernie4_5Config", {"head_dim": 32}),
    "ernie 4.5, experts": Tiny(
        "ernie4_5-moe",
        "Ernie4_5_MoeConfig",
        {
            "num_hidden_layers": 3,
            "moe_num_experts": 6,
            "moe_k": 2,
            "moe_intermediate_size": 24,
            "moe_num_shared_experts": 2,
            "moe_layer_end_index": 2,
        },
    ),
    "qwen2 vl": Tiny(
        "qwen2vl",
        "Qwen2VLConfig",
        {"rope_parameters": _SECTIONS},
        {"depth": 1, "embed_dim": 32, "hidden_size": 64, "num_heads": 2},
    ),
    "qwen2.5 vl": Tiny(
        "qwen2vl",
        "Qwen2_5_VLConfig",
        {"rope_parameters": _SECTIONS},
        {**_VISION, "fullatt_block_indexes": [0]},
    ),
    "qwen3 vl": Tiny(
        "qwen3vl",
        "Qwen3VLConfig",
        {"rope_parameters": _SECTIONS, "head_dim": 16},
        {**_VISION, "deepstack_visual_indexes": [0]},
    ),
    "qwen3 vl, experts": Tiny(
        "qwen3vlmoe",
        "Qwen3VLMoeConfig",
        {
            **_MOE,
            "num_local_experts": 6,
            "moe_intermediate_size": 48,
            "rope_parameters": _SECTIONS,
            "head_dim": 16,
        },
        {**_VISION, "deepstack_visual_indexes": [0]},
    ),
    "stablelm": Tiny("stablelm", "StableLmConfig", {"use_qkv_bias": True}),
    "granite, experts": Tiny(
        "granitemoe",
        "GraniteMoeConfig",
        {
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "attention_multiplier": 0.3,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.5,
        },
    ),
    "granite, shared expert": Tiny(
        "granitemoe",
        "GraniteMoeSharedConfig",
        {"num_local_experts": 6, "num_experts_per_tok": 2, "shared_intermediate_size": 32},
    ),
    "olmoe": Tiny(
        "olmoe",
        "OlmoeConfig",
        {"num_experts": 6, "num_experts_per_tok": 2, "num_key_value_heads": 4},
    ),
    "dots.llm1": Tiny(
        "dots1", "Dots1Config", {**_ROUTED, "norm_topk_prob": True, "num_key_value_heads": 4}
    ),
    "phi 2": Tiny("phi2", "PhiConfig", {"num_key_value_heads": 4, "intermediate_size": 256}),
    "smollm3": Tiny("smollm3", "SmolLM3Config", {"num_hidden_layers": 5}),
    "cohere2": Tiny(
        "cohere2",
        "Cohere2Config",
        {"num_hidden_layers": 5, "sliding_window": 16, "logit_scale": 0.5},
    ),
    "exaone 4": Tiny(
        "exaone4",
        "Exaone4Config",
        {"num_hidden_layers": 5, "sliding_window": 16, "sliding_window_pattern": 4},
    ),
    "exaone 4, small": Tiny(
        "exaone4",
        "Exaone4Config",
        {
            "sliding_window": None,
            "layer_types": ["full_attention"] * 2,
            "tie_word_embeddings": True,
        },
    ),
    "olmo3": Tiny(
        "olmo2",
        "Olmo3Config",
        {
            "num_hidden_layers": 5,
            "sliding_window": 16,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 500000.0,
                    "factor": 8.0,
                    "original_max_position_embeddings": 32,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
            },
        },
    ),
    "ministral 3": Tiny(
        "mistral3", "Ministral3Config", {"head_dim": 16, "rope_parameters": _TEMPERATURE}
    ),
    "mistral 3": Tiny(
        "mistral3",
        "Mistral3Config",
        {"model_type": "mistral", "head_dim": 16, "sliding_window": None},
        {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 16,
            "image_size": 28,
            "patch_size": 14,
        },
    ),
    "hunyuan": Tiny(
        "hunyuan-dense",
        "HunYuanDenseV1Config",
        {
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 10000.0,
                "alpha": 50.0,
                "factor": 1.0,
            },
        },
    ),
    "gemma": Tiny("gemma", "GemmaConfig", {"head_dim": 32}),
    "lfm2": Tiny(
        "lfm2",
        "Lfm2Config",
        {
            "num_hidden_layers": 5,
            "layer_types": ["conv", "conv", "full_attention", "conv", "full_attention"],
            "block_multiple_of": 16,
            "intermediate_size": 120,
        },
    ),
    "lfm2, four taps": Tiny(
        "lfm2",
        "Lfm2Config",
        {
            "conv_L_cache": 4,
            "layer_types": ["full_attention", "conv"],
            "block_auto_adjust_ff_dim": False,
            "tie_word_embeddings": False,
        },
    ),
    "lfm2, experts": Tiny(
        "lfm2moe",
        "Lfm2MoeConfig",
        {
            **_MOE,
            "num_hidden_layers": 4,
            "num_dense_layers": 1,
            "layer_types": ["conv", "full_attention", "conv", "conv"],
        },
    ),
    "mamba": Tiny(
        "mamba",
        "MambaConfig",
        {"state_size": 16, "time_step_rank": 12, "intermediate_size": 128},
    ),
    "falcon mamba": Tiny(
        "mamba",
        "FalconMambaConfig",
        {
            "hidden_size": 72,
            "intermediate_size": 144,
            "state_size": 6,
            "time_step_rank": 8,
            "conv_kernel": 3,
            "tie_word_embeddings": False,
        },
    ),
    "jamba": Tiny(
        "jamba",
        "JambaConfig",
        {
            "num_hidden_layers": 5,
            "num_experts": 6,
            "num_experts_per_tok": 2,
            "expert_layer_period": 2,
            "expert_layer_offset": 1,
            "attn_layer_period": 3,
            "attn_layer_offset": 1,
            "mamba_d_state": 8,
            "mamba_dt_rank": 12,
        },
    ),
    "jamba, dense": Tiny(
        "jamba",
        "JambaConfig",
        {
            "num_hidden_layers": 3,
            "num_experts": 1,
            "num_experts_per_tok": 1,
            "attn_layer_period": 3,
            "attn_layer_offset": 2,
        },
    ),
    "mamba2": Tiny(
        "mamba2",
        "Mamba2Config",
        {
            "num_heads": 8,
            "head_dim": 16,
            "state_size": 16,
            "n_groups": 2,
            "intermediate_size": 128,
        },
    ),
    "nemotron h": Tiny(
        "nemotron_h",
        "NemotronHConfig",
        {**_NEMOTRON_H, "layers_block_type": ["mamba", "mlp", "attention", "mlp", "mamba"]},
    ),
    "nemotron h, experts": Tiny(
        "nemotron_h_moe",
        "NemotronHConfig",
        {
            **_NEMOTRON_H,
            "layers_block_type": ["mamba", "moe", "attention", "moe", "mamba"],
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 32,
            "moe_shared_expert_intermediate_size": 48,
            "routed_scaling_factor": 1.5,
        },
    ),
    "granite 4 h": Tiny(
        "granitehybrid",
        "GraniteMoeHybridConfig",
        {**_GRANITE_H, "num_local_experts": 6, "num_experts_per_tok": 2},
    ),
    "granite 4 h, dense": Tiny("granitehybrid", "GraniteMoeHybridConfig", _GRANITE_H_DENSE),
    "granite 4 h, turned": Tiny(
        "granitehybrid",
        "GraniteMoeHybridConfig",
        {**_GRANITE_H_DENSE, "position_embedding_type": "rope"},
    ),
    "falcon h1": Tiny(
        "falcon-h1",
        "FalconH1Config",
        {
            **_MAMBA,
            "mamba_d_ssm": 128,
            "head_dim": 16,
            "attention_in_multiplier": 0.9,
            "attention_out_multiplier": 1.2,
            "key_multiplier": 0.8,
            "embedding_multiplier": 1.5,
            "lm_head_multiplier": 0.7,
            "ssm_in_multiplier": 1.1,
            "ssm_out_multiplier": 0.9,
            "ssm_multipliers": [0.9, 1.1, 0.8, 1.2, 0.7],
            "mlp_multipliers": [0.9, 1.3],
        },
    ),
    "falcon h1, normed": Tiny(
        "falcon-h1",
        "FalconH1Config",
        {
            **_MAMBA,
            "mamba_d_ssm": 128,
            "head_dim": 16,
            "mamba_rms_norm": True,
            "mamba_norm_before_gate": False,
        },
    ),
    "gemma4, small": Tiny(
        "gemma4",
        "Gemma4TextConfig",
        {
            **_GEMMA4,
            "num_hidden_layers": 6,
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": N_VOCAB,
            "num_kv_shared_layers": 3,
            "use_double_wide_mlp": True,
            "final_logit_softcapping": 3.0,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
        },
    ),
    "gemma4, experts": Tiny(
        "gemma4",
        "Gemma4TextConfig",
        {
            **_GEMMA4,
            "num_hidden_layers": 3,
            "hidden_size_per_layer_input": 0,
            "num_global_key_value_heads": 1,
            "attention_k_eq_v": True,
            "enable_moe_block": True,
            "num_experts": 6,
            "top_k_experts": 2,
            "moe_intermediate_size": 32,
            "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
        },
    ),
    # Tokens beyond the table of vectors, another active state, and blocks of several widths.
    "gemma3n": Tiny(
        "gemma3n",
        "Gemma3nTextConfig",
        {
            **_GEMMA3N,
            "num_hidden_layers": 6,
            "intermediate_size": [96, 96, 80, 96, 96, 64],
            "hidden_size_per_layer_input": 16,
            "vocab_size_per_layer_input": N_VOCAB - 20,
            "altup_num_inputs": 3,
            "altup_active_idx": 1,
            "laurel_rank": 12,
            "num_kv_shared_layers": 3,
            "activation_sparsity_pattern": [0.9, 0.95, 0.5, 0.0, 0.0, 0.0],
            "final_logit_softcapping": 3.0,
            "layer_types": ["sliding_attention", "full_attention"] * 3,
        },
    ),
    # The numbers that llama.cpp has for published models, whatever the file says; the embedding of a padding token would be
    # 0, of which it makes no number.
    "gemma3n, as published": Tiny(
        "gemma3n",
        "Gemma3nTextConfig",
        {
            **_GEMMA3N,
            "num_hidden_layers": 11,
            "initializer_range": 0.06,
            "pad_token_id": None,
            "head_dim": 4,
            "intermediate_size": 2048,
            "vocab_size_per_layer_input": N_VOCAB,
            "num_kv_shared_layers": 0,
        },
    ),
    "arcee": Tiny("arcee", "ArceeConfig"),
    "arcee with biases": Tiny("arcee", "ArceeConfig", {"attention_bias": True, "mlp_bias": True}),
    "nemotron": Tiny("nemotron", "NemotronConfig"),
    "pythia": Tiny("gptneox", "GPTNeoXConfig", {"num_key_value_heads": 4}),
    "gpt-neox, in turn": Tiny(
        "gptneox",
        "GPTNeoXConfig",
        {"num_key_value_heads": 4, "use_parallel_residual": False},
    ),
    "falcon 7b": Tiny("falcon", "FalconConfig", {"ffn_hidden_size": 256, "intermediate_size": 256}),
    "falcon 40b": Tiny("falcon", "FalconConfig", {**_FALCON, "tie_word_embeddings": False}),
    "falcon 11b": Tiny("falcon", "FalconConfig", {**_FALCON, "num_ln_in_parallel_attn": 1}),
    "internlm2": Tiny("internlm2", "LlamaConfig", remade=as_internlm2),
    "bitnet": Tiny("bitnet", "BitNetConfig", {"tie_word_embeddings": True}),
    "bitnet, first": Tiny(
        "bitnet", "BitNetConfig", {"hidden_act": "silu", "tie_word_embeddings": True}
    ),
    "hunyuan, experts": Tiny(
        "hunyuan-moe",
        "HunYuanMoEV1Config",
        {
            "num_experts": 6,
            "moe_topk": 2,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "dynamic",
                "rope_theta": 10000.0,
                "alpha": 1000.0,
                "factor": 1.0,
            },
        },
    ),
    "hunyuan 3": Tiny(
        "hy_v3",
        "HYV3Config",
        {**_MOE, "num_hidden_layers": 3, "head_dim": 16, "router_scaling_factor": 1.5},
    ),
    "trinity": Tiny(
        "afmoe",
        "AfmoeConfig",
        {
            **_MOE,
            "num_hidden_layers": 5,
            "num_shared_experts": 1,
            "head_dim": 16,
            "sliding_window": 16,
            "route_scale": 1.5,
            "mup_enabled": True,
        },
    ),
    "laguna, large": Tiny(
        "laguna",
        "LagunaConfig",
        {
            **_LAGUNA,
            "num_hidden_layers": 5,
            "num_attention_heads_per_layer": [4, 6, 6, 6, 4],
            "layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"],
            "sliding_window": 16,
            "rope_parameters": {
                "full_attention": {
                    "rope_type": "yarn",
                    "rope_theta": 500000.0,
                    "factor": 8.0,
                    "original_max_position_embeddings": 32,
                    "partial_rotary_factor": 0.5,
                },
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
    ),
    "granite, windows": Tiny(
        "granite_swa",
        "GraniteSWAConfig",
        {
            "num_hidden_layers": 5,
            "sliding_window": 16,
            "attention_multiplier": 0.3,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.5,
            "layer_rope_theta": [0, 10000.0, 10000.0, 10000.0, 0],
        },
    ),
    "mimo 2": Tiny(
        "mimo2",
        "MiMoV2FlashConfig",
        {
            "num_hidden_layers": 4,
            "head_dim": 24,
            "v_head_dim": 16,
            "num_key_value_heads": 1,
            "sliding_window": 16,
            "moe_intermediate_size": 32,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "attention_value_scale": 0.7,
        },
    ),
    "ling 2": Tiny(
        "bailingmoe2",
        "Glm4MoeConfig",
        # One shared expert, as in all that are published: llama.cpp multiplies their width twice.
        {**_ROUTED, "use_qk_norm": True, "n_group": 4, "topk_group": 2, "n_shared_experts": 1},
        remade=as_bailing,
    ),
    "apertus": Tiny("apertus", "ApertusConfig"),
    "glm 4, 9b": Tiny("chatglm", "GlmConfig", {"head_dim": 16}),
    "olmo": Tiny("olmo", "OlmoConfig"),
    "smolvlm": Tiny(
        "llama",
        "SmolVLMConfig",
        {"model_type": "llama"},
        {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    ),
    "llava, qwen2": Tiny(
        "qwen2",
        "LlavaConfig",
        {"model_type": "qwen2"},
        {
            "model_type": "clip_vision_model",
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
    ),
    "youtu": Tiny(
        "deepseek2",
        "YoutuConfig",
        {
            "num_key_value_heads": 4,
            "q_lora_rank": 48,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 32,
            "qk_rope_head_dim": 16,
            "v_head_dim": 32,
        },
    ),
    "laguna": Tiny("laguna", "LagunaConfig", {**_LAGUNA, "gating": "per-element"}),
    "k-exaone": Tiny(
        "exaone-moe",
        "ExaoneMoeConfig",
        {
            **_MOE,
            "num_hidden_layers": 5,
            "sliding_window": 16,
            "first_k_dense_replace": 2,
            "num_shared_experts": 2,
        },
    ),
    "cohere2, experts": Tiny(
        "cohere2moe",
        "Cohere2MoeConfig",
        {
            **_COHERE2MOE,
            "num_shared_experts": 2,
            "mlp_layer_types": ["dense", *["sparse"] * 4],
            "layer_types": ["full_attention", *["sliding_attention"] * 3, "full_attention"],
            "expert_selection_fn": "sigmoid",
            "rms_norm_eps": 1e-5,
        },
    ),
    "cohere2, softmax": Tiny("cohere2moe", "Cohere2MoeConfig", _COHERE2MOE),
    "muse glimmer": Tiny(
        "muse-glimmer",
        "MuseGlimmerConfig",
        {
            "num_hidden_layers": 5,
            "head_dim": 16,
            "sliding_window": 16,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        {
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "patch_size": 4,
            "pos_emb_height": 2,
            "pos_emb_width": 2,
            "max_position_embeddings": 4,
        },
        {"out_hidden_size": 128, "projector_hidden_size": 32},
    ),
}


def sizes_of(name: str) -> dict[str, Any]:
    """Returns the sizes of the text's part of the model's configuration."""
    tiny = TINY[name]
    sizes = dict(_SIZES)
    if tiny.config == "GPT2Config":
        sizes = {
            "vocab_size": N_VOCAB,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "initializer_range": 0.15,
        }
    return {**sizes, **tiny.changes}


def write_checkpoint(name: str, folder: Path, seed: int = 0, **changes: Any) -> Any:
    """Writes the folder and returns the model, float32; changes to its sizes."""
    import torch
    import transformers

    tiny = TINY[name]
    if tiny.reference is not None:
        return tiny.reference(folder, N_VOCAB, seed)
    torch.manual_seed(seed)
    sizes = {**sizes_of(name), **changes}
    make, auto = getattr(transformers, tiny.config), transformers.AutoModelForCausalLM
    if tiny.vision is not None:
        sizes = {"text_config": sizes, "vision_config": dict(tiny.vision), **tiny.beside}
        auto = transformers.AutoModelForImageTextToText
    model = auto.from_config(make(**sizes)).float().eval()
    with torch.no_grad():
        for key, value in model.named_parameters():
            if (
                value.ndim == 1 or "sinks" in key or "_norm." in key or "bias" in key
            ):  # norms of 1 and biases of 0 would hide mistakes
                value.add_(0.3 * torch.randn_like(value))
            if not value.any():  # routers that begin with nothing
                value.normal_(0, 0.15)
        for key, value in model.named_buffers():
            if any(part in key for part in ("e_score_correction_bias", "expert_bias", "scalar")):
                value.add_(0.3 * torch.randn_like(value))
    model.save_pretrained(folder)
    if tiny.remade is not None:
        tiny.remade(folder, model.config.num_attention_heads, model.config.num_key_value_heads)
    (folder / "tokenizer.json").write_text(tokenizer_json(N_VOCAB), encoding="utf-8")
    return model


if __name__ == "__main__":
    write_checkpoint(sys.argv[1], Path(sys.argv[2]))
