// Command with experts (North Mini Code): Command R7B with experts, which may be averaged with
// shared ones.  The leading layers are dense, and have rotation.  Norms are layer norms or not, as
// the file's epsilon says.
#pragma once

#include "model/architectures/command_r.h"

namespace hrun::architecture {

inline constexpr std::string_view kCohere2moeClasses[] = {"Cohere2MoeForCausalLM"};

inline constexpr std::array kCohere2moeOwn = {
    ConfigRule{"leading_dense_block_count", ConfigType::integer,
               "mlp_layer_types|first_k_dense_replace", "0"},
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "intermediate_size"},
    ConfigRule{"expert_shared_count", ConfigType::integer, "num_shared_experts", "0"},
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer, ""},
    ConfigRule{"expert_gating_func", ConfigType::integer, "expert_selection_fn"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "norm_topk_prob", "true"},
    ConfigRule{"nextn_predict_layers", ConfigType::integer, ""},
};
inline constexpr auto kCohere2moeKeys =
    join(kCommandRKeys, kExpertKeys, kCohere2moeOwn, kWindowedLayerKeys);
inline constexpr auto kCohere2moeTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, only_in(kFeedForward, Where::dense),
         only_in(join(kExperts, made_optional(kSharedExperts)), Where::experts));

inline constexpr ModelDescription kCohere2moe = {
    .name = "cohere2moe",
    .hf_classes = kCohere2moeClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kCohere2moeTensors,
    .config = kCohere2moeKeys,
    .norm = Norm::layer,
    .parallel = true,
    .window_period = 4,
    .full_layer_first = true,
    .rope_in_windows = true,
    .gating = Gating::sigmoid,
    .rope_in_leading = true,
    .shared_averaged = true,
    .either_norm = true,
};

}  // namespace hrun::architecture
