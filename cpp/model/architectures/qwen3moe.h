// Qwen 3 with experts: Qwen 3's attention, no shared expert.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen3moeClasses[] = {"Qwen3MoeForCausalLM"};

inline constexpr std::array kQwen3moeWidths = {
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "moe_intermediate_size"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "norm_topk_prob", "false"},
};
inline constexpr auto kQwen3moeKeys = join(kExpertKeys, kQwen3moeWidths);

inline constexpr auto kQwen3moeTensors = join(kEmbeddingAndHead, kNormBeforeAttention, kAttention,
                                              kHeadNorms, kNormBeforeFeedForward, kExperts);

inline constexpr ModelDescription kQwen3moe = {
    .name = "qwen3moe",
    .hf_classes = kQwen3moeClasses,
    .rope = RopeStyle::halves,
    .tensors = kQwen3moeTensors,
    .config = kQwen3moeKeys,
};

}  // namespace hrun::architecture
