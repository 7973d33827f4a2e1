// GLM 4.5, 4.6 and 4.7, Solar Open: dense leading layers, experts chosen by corrected sigmoids,
// shared experts, rotation of a part of each head.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kGlm4moeClasses[] = {"Glm4MoeForCausalLM",
                                                       "SolarOpenForCausalLM"};

inline constexpr auto kGlm4moeKeys = join(kExpertKeys, kRoutingKeys);
inline constexpr auto kGlm4moeTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kQkvBiases,
         asked_by(made_optional(kHeadNorms), "use_qk_norm"), kPostNormBeforeFeedForward,
         kDenseThenExperts);

inline constexpr ModelDescription kGlm4moe = {
    .name = "glm4moe",
    .hf_classes = kGlm4moeClasses,
    .rope = RopeStyle::halves,
    .tensors = kGlm4moeTensors,
    .config = kGlm4moeKeys,
    .gating = Gating::sigmoid,
};

}  // namespace hrun::architecture
