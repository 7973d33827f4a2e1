// dots.llm1: Qwen 3's attention, DeepSeek's experts.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kDots1Classes[] = {"Dots1ForCausalLM"};

inline constexpr auto kDots1Keys = join(kExpertKeys, kRoutingKeys);
inline constexpr auto kDots1Tensors = join(kEmbeddingAndHead, kNormBeforeAttention, kAttention,
                                           kHeadNorms, kNormBeforeFeedForward, kDenseThenExperts);

inline constexpr ModelDescription kDots1 = {
    .name = "dots1",
    .hf_classes = kDots1Classes,
    .rope = RopeStyle::halves,
    .tensors = kDots1Tensors,
    .config = kDots1Keys,
    .gating = Gating::sigmoid,
};

}  // namespace hrun::architecture
