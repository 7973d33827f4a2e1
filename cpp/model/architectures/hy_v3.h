// Hunyuan 3 (Hy3): Qwen 3's attention, a dense leading layer, experts chosen by corrected sigmoids,
// shared experts.  Files by llama.cpp's converter may not say how many layers are dense.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kHyV3Classes[] = {"HYV3ForCausalLM"};

inline constexpr std::array kHyV3Experts = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight",
               "model.layers.{}.mlp.router.gate.weight|model.layers.{}.mlp.gate.weight",
               Dim::experts, Dim::embd, true},
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b",
               "model.layers.{}.mlp.expert_bias|model.layers.{}.mlp.e_score_correction_bias",
               Dim::one, Dim::experts, false},
    TensorRule{Role::shared_gate, "blk.{}.ffn_gate_shexp.weight",
               "model.layers.{}.mlp.shared_mlp.gate_proj.weight|"
               "model.layers.{}.mlp.shared_experts.gate_proj.weight",
               Dim::ff_shared, Dim::embd, true},
    TensorRule{Role::shared_up, "blk.{}.ffn_up_shexp.weight",
               "model.layers.{}.mlp.shared_mlp.up_proj.weight|"
               "model.layers.{}.mlp.shared_experts.up_proj.weight",
               Dim::ff_shared, Dim::embd, true},
    TensorRule{Role::shared_down, "blk.{}.ffn_down_shexp.weight",
               "model.layers.{}.mlp.shared_mlp.down_proj.weight|"
               "model.layers.{}.mlp.shared_experts.down_proj.weight",
               Dim::embd, Dim::ff_shared, true},
};
inline constexpr std::array kHyV3Own = {
    ConfigRule{"leading_dense_block_count", ConfigType::integer,
               "first_k_dense_replace|mlp_layer_types", "1"},
    ConfigRule{"expert_shared_count", ConfigType::integer, "num_shared_experts", "1"},
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer, ""},
    ConfigRule{"expert_weights_scale", ConfigType::number, "router_scaling_factor", "1"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "route_norm", "true"},
    ConfigRule{"nextn_predict_layers", ConfigType::integer, ""},
};
inline constexpr auto kHyV3Keys = join(kExpertKeys, kExpertBlockKeys, kHyV3Own);
inline constexpr auto kHyV3Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kHeadNorms, kNormBeforeFeedForward,
         only_in(kFeedForward, Where::dense),
         only_in(join(kHyV3Experts, kExpertMatrices, kExpertsTogether), Where::experts));

inline constexpr ModelDescription kHyV3 = {
    .name = "hy_v3",
    .hf_classes = kHyV3Classes,
    .rope = RopeStyle::halves,
    .tensors = kHyV3Tensors,
    .config = kHyV3Keys,
    .gating = Gating::sigmoid,
    .leading_dense = 1,
};

}  // namespace hrun::architecture
