// OLMoE: norms of whole queries and keys, experts, no shared expert.
#pragma once

#include "model/architectures/olmo2.h"

namespace hrun::architecture {

inline constexpr std::string_view kOlmoeClasses[] = {"OlmoeForCausalLM"};

inline constexpr std::array kOlmoeWidths = {
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "norm_topk_prob", "false"},
};
inline constexpr auto kOlmoeKeys = join(kExpertKeys, kOlmoeWidths);
inline constexpr auto kOlmoeTensors = join(kEmbeddingAndHead, kNormBeforeAttention, kAttention,
                                           kWholeHeadNorms, kNormBeforeFeedForward, kExperts);

inline constexpr ModelDescription kOlmoe = {
    .name = "olmoe",
    .hf_classes = kOlmoeClasses,
    .rope = RopeStyle::halves,
    .tensors = kOlmoeTensors,
    .config = kOlmoeKeys,
    .experts_normed = false,
};

}  // namespace hrun::architecture
