// Trinity (Arcee's AFMoE): gates of the mixed values, norms before and after both blocks, windows
// in three of four layers and rotation in these layers alone, dense leading layers, experts chosen
// by corrected sigmoids, shared experts, scaled embeddings.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kAfmoeClasses[] = {"AfmoeForCausalLM"};

inline constexpr std::array kAfmoeOwn = {
    TensorRule{Role::attn_gate, "blk.{}.attn_gate.weight",
               "model.layers.{}.self_attn.gate_proj.weight", Dim::q_out, Dim::embd, true},
    TensorRule{Role::attn_post_norm, "blk.{}.post_attention_norm.weight",
               "model.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight", "model.layers.{}.pre_mlp_layernorm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm, "blk.{}.post_ffw_norm.weight",
               "model.layers.{}.post_mlp_layernorm.weight", Dim::one, Dim::embd, true},
};
inline constexpr std::array kAfmoeRouter = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.router.gate.weight",
               Dim::experts, Dim::embd, true},
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b.bias",
               "model.layers.{}.mlp.expert_bias", Dim::one, Dim::experts, false},
};
inline constexpr std::array kAfmoeRouting = {
    ConfigRule{"leading_dense_block_count", ConfigType::integer, "num_dense_layers", "1"},
    ConfigRule{"expert_shared_count", ConfigType::integer, "num_shared_experts", "2"},
    ConfigRule{"expert_weights_scale", ConfigType::number, "route_scale", "1"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "route_norm", "true"},
};
inline constexpr auto kAfmoeKeys =
    join(kExpertKeys, kExpertBlockKeys, kAfmoeRouting, kAlternatingWindowKeys);
inline constexpr auto kAfmoeTensors = join(
    kEmbeddingAndHead, kNormBeforeAttention, kAttention, kHeadNorms, kAfmoeOwn,
    only_in(kFeedForward, Where::dense),
    only_in(join(kAfmoeRouter, kExpertMatrices, kExpertsTogether, made_optional(kSharedExperts)),
            Where::experts));

inline constexpr ModelDescription kAfmoe = {
    .name = "afmoe",
    .hf_classes = kAfmoeClasses,
    .rope = RopeStyle::halves,
    .tensors = kAfmoeTensors,
    .config = kAfmoeKeys,
    .embd_times_root = true,
    .window_period = 4,
    .rope_in_windows = true,
    .gating = Gating::sigmoid,
};

}  // namespace hrun::architecture
