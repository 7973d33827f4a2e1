// Laguna (Poolside): gates of the mixed values, one for a head or one for each value; dense leading
// layers, experts chosen by corrected sigmoids, a shared expert.  Some layers of the large models
// have a window, other heads and another rotation.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kLagunaClasses[] = {"LagunaForCausalLM"};

inline constexpr std::array kLagunaGate = {
    TensorRule{Role::attn_gate, "blk.{}.attn_gate.weight",
               "model.layers.{}.self_attn.g_proj.weight", Dim::gate, Dim::embd, true},
};
inline constexpr std::array kLagunaExperts = {
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b.bias",
               "model.layers.{}.mlp.experts.e_score_correction_bias|"
               "model.layers.{}.mlp.gate.e_score_correction_bias",
               Dim::one, Dim::experts, false},
    TensorRule{Role::shared_gate, "blk.{}.ffn_gate_shexp.weight",
               "model.layers.{}.mlp.shared_expert.gate_proj.weight|"
               "model.layers.{}.mlp.shared_experts.gate_proj.weight",
               Dim::ff_shared, Dim::embd, true},
    TensorRule{Role::shared_up, "blk.{}.ffn_up_shexp.weight",
               "model.layers.{}.mlp.shared_expert.up_proj.weight|"
               "model.layers.{}.mlp.shared_experts.up_proj.weight",
               Dim::ff_shared, Dim::embd, true},
    TensorRule{Role::shared_down, "blk.{}.ffn_down_shexp.weight",
               "model.layers.{}.mlp.shared_expert.down_proj.weight|"
               "model.layers.{}.mlp.shared_experts.down_proj.weight",
               Dim::embd, Dim::ff_shared, true},
};
inline constexpr std::array kLagunaOwn = {
    ConfigRule{"leading_dense_block_count", ConfigType::integer, "mlp_layer_types", "1"},
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer,
               "shared_expert_intermediate_size"},
    ConfigRule{"expert_shared_count", ConfigType::integer, "", "1"},
    ConfigRule{"expert_weights_scale", ConfigType::number, "moe_routed_scaling_factor", "1"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "", "true"},
    ConfigRule{"rope.freq_base_swa", ConfigType::number, ""},
    ConfigRule{"rope.dimension_count_swa", ConfigType::integer, ""},
};
inline constexpr auto kLagunaKeys =
    join(kExpertKeys, kExpertBlockKeys, kWindowedLayerKeys, kLagunaOwn);
inline constexpr auto kLagunaTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kHeadNorms, kLagunaGate,
         kNormBeforeFeedForward, only_in(kFeedForward, Where::dense),
         only_in(join(kExperts, kLagunaExperts), Where::experts));

inline constexpr ModelDescription kLaguna = {
    .name = "laguna",
    .hf_classes = kLagunaClasses,
    .rope = RopeStyle::halves,
    .tensors = kLagunaTensors,
    .config = kLagunaKeys,
    .window_period = 4,
    .full_layer_first = true,
    .window_rope_base = 10000,
    .gating = Gating::sigmoid,
    .gate = Nonlinearity::softplus,
};

}  // namespace hrun::architecture
