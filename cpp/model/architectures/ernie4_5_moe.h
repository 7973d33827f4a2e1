// ERNIE 4.5 with experts: dense leading layers, experts chosen by corrected softmax, shared
// experts.
#pragma once

#include "model/architectures/ernie4_5.h"

namespace hrun::architecture {

inline constexpr std::string_view kErnie45moeClasses[] = {"Ernie4_5_MoeForCausalLM"};

inline constexpr std::array kErnie45moeCorrection = {
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b.bias",
               "model.layers.{}.mlp.moe_statics.e_score_correction_bias", Dim::one, Dim::experts,
               false},
};
inline constexpr std::array kErnie45moeKeys = {
    ConfigRule{"expert_count", ConfigType::integer, "moe_num_experts"},
    ConfigRule{"expert_used_count", ConfigType::integer, "moe_k"},
    ConfigRule{"interleave_moe_layer_step", ConfigType::integer, "moe_layer_interval", "1"},
    ConfigRule{"leading_dense_block_count", ConfigType::integer, "moe_layer_start_index", "0"},
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "moe_intermediate_size"},
    ConfigRule{"expert_shared_count", ConfigType::integer, "moe_num_shared_experts", "0"},
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer, ""},
};
inline constexpr auto kErnie45moeTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kErnie45Attention, kNormBeforeFeedForward,
         only_in(kFeedForward, Where::dense), only_in(kExperts, Where::experts),
         only_in(kErnie45moeCorrection, Where::experts),
         only_in(made_optional(kSharedExperts), Where::experts));

inline constexpr ModelDescription kErnie45moe = {
    .name = "ernie4_5-moe",
    .hf_classes = kErnie45moeClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kErnie45moeTensors,
    .config = kErnie45moeKeys,
};

}  // namespace hrun::architecture
