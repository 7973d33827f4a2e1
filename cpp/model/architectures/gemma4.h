// Gemma 4: layers with a window and layers that see all positions have heads of different sizes;
// values are normed, and are the keys where they have no matrix; the last layers of small models
// read earlier layers' keys and values, and each layer has vectors of its own for every token;
// other models have experts beside a dense block.  Norms multiply by their weight, not by 1 + it.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kGemma4Classes[] = {
    "Gemma4ForConditionalGeneration", "Gemma4ForCausalLM", "Gemma4UnifiedForConditionalGeneration"};

inline constexpr std::array kGemma4Globals = {
    TensorRule{Role::per_layer_embd, "per_layer_token_embd.weight",
               "model.embed_tokens_per_layer.weight", Dim::vocab, Dim::per_layer_all, false},
    TensorRule{Role::per_layer_model_proj, "per_layer_model_proj.weight",
               "model.per_layer_model_projection.weight", Dim::per_layer_all, Dim::embd, false},
    TensorRule{Role::per_layer_norm, "per_layer_proj_norm.weight",
               "model.per_layer_projection_norm.weight", Dim::one, Dim::per_layer, false},
};
inline constexpr std::array kGemma4Attention = {
    TensorRule{Role::attn_q, "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight",
               Dim::q, Dim::embd, true},
    TensorRule{Role::attn_k, "blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight",
               Dim::k, Dim::embd, false},
    TensorRule{Role::attn_v, "blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight",
               Dim::v, Dim::embd, false},
    TensorRule{Role::attn_q_norm, "blk.{}.attn_q_norm.weight",
               "model.layers.{}.self_attn.q_norm.weight", Dim::one, Dim::head, true},
    TensorRule{Role::attn_k_norm, "blk.{}.attn_k_norm.weight",
               "model.layers.{}.self_attn.k_norm.weight", Dim::one, Dim::head, false},
    TensorRule{Role::attn_post_norm, "blk.{}.post_attention_norm.weight",
               "model.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true},
};
// The norms around the feed-forward block.
inline constexpr std::array kGemma4FeedForwardNorms = {
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight",
               "model.layers.{}.pre_feedforward_layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm, "blk.{}.post_ffw_norm.weight",
               "model.layers.{}.post_feedforward_layernorm.weight", Dim::one, Dim::embd, true},
};
inline constexpr std::array kGemma4LayerScale = {
    TensorRule{Role::layer_scale, "blk.{}.layer_output_scale.weight",
               "model.layers.{}.layer_scalar", Dim::one, Dim::one, false},
};
// The vectors of a layer for every token.
inline constexpr std::array kPerLayerVectors = {
    TensorRule{Role::per_layer_gate, "blk.{}.inp_gate.weight",
               "model.layers.{}.per_layer_input_gate.weight", Dim::per_layer, Dim::embd, false},
    TensorRule{Role::per_layer_proj, "blk.{}.proj.weight",
               "model.layers.{}.per_layer_projection.weight", Dim::embd, Dim::per_layer, false},
    TensorRule{Role::per_layer_post_norm, "blk.{}.post_norm.weight",
               "model.layers.{}.post_per_layer_input_norm.weight", Dim::one, Dim::embd, false},
};
inline constexpr std::array kGemma4Experts = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight", "model.layers.{}.router.proj.weight",
               Dim::experts, Dim::embd, true},
    TensorRule{Role::router_scale, "blk.{}.ffn_gate_inp.scale", "model.layers.{}.router.scale",
               Dim::one, Dim::embd, true},
    TensorRule{Role::experts_gate, "blk.{}.ffn_gate_exps.weight",
               "model.layers.{}.experts.{}.gate_proj.weight|"
               "model.layers.{}.experts.gate_up_proj@first_half",
               Dim::ff_expert, Dim::embd, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "model.layers.{}.experts.{}.up_proj.weight|"
               "model.layers.{}.experts.gate_up_proj@second_half",
               Dim::ff_expert, Dim::embd, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "model.layers.{}.experts.down_proj|model.layers.{}.experts.{}.down_proj.weight",
               Dim::embd, Dim::ff_expert, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_down_scale, "blk.{}.ffn_down_exps.scale",
               "model.layers.{}.router.per_expert_scale", Dim::one, Dim::experts, false},
    TensorRule{Role::dense_post_norm, "blk.{}.post_ffw_norm_1.weight",
               "model.layers.{}.post_feedforward_layernorm_1.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::experts_norm, "blk.{}.pre_ffw_norm_2.weight",
               "model.layers.{}.pre_feedforward_layernorm_2.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::experts_post_norm, "blk.{}.post_ffw_norm_2.weight",
               "model.layers.{}.post_feedforward_layernorm_2.weight", Dim::one, Dim::embd, true},
};

inline constexpr std::array kGemma4Keys = {
    ConfigRule{"attention.sliding_window", ConfigType::integer, "sliding_window"},
    ConfigRule{"attention.sliding_window_pattern", ConfigType::boolean, "layer_types"},
    ConfigRule{"attention.key_length_swa", ConfigType::integer, ""},
    ConfigRule{"attention.value_length_swa", ConfigType::integer, ""},
    ConfigRule{"attention.shared_kv_layers", ConfigType::integer, "num_kv_shared_layers", "0"},
    ConfigRule{"rope.freq_base_swa", ConfigType::number, ""},
    ConfigRule{"rope.dimension_count_swa", ConfigType::integer, ""},
    ConfigRule{"final_logit_softcapping", ConfigType::number, "final_logit_softcapping"},
    ConfigRule{"embedding_length_per_layer_input", ConfigType::integer,
               "hidden_size_per_layer_input", "0"},
    ConfigRule{"expert_count", ConfigType::integer, "num_experts"},
    ConfigRule{"expert_used_count", ConfigType::integer, "top_k_experts"},
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "moe_intermediate_size"},
};
inline constexpr auto kGemma4Tensors =
    join(kEmbeddingAndHead, kRopeFactors, kGemma4Globals, kNormBeforeAttention, kGemma4Attention,
         kAttentionOutput, kFeedForward, kGemma4FeedForwardNorms, kGemma4LayerScale,
         kPerLayerVectors, only_in(join(kGemma4Experts, kExpertsTogether), Where::experts));

inline constexpr ModelDescription kGemma4 = {
    .name = "gemma4",
    .hf_classes = kGemma4Classes,
    .rope = RopeStyle::halves,
    .tensors = kGemma4Tensors,
    .config = kGemma4Keys,
    .nonlinearity = Nonlinearity::gelu,
    .embd_times_root = true,
    .window_rope_base = 10000,
    .attn_scale = 1,
    .normed_values = true,
    .experts_beside_dense = true,
};

}  // namespace hrun::architecture
