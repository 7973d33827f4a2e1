// GLM 4 9B and 1.5 Edge: GLM 4 (0414) without norms after the blocks.
#pragma once

#include "model/architectures/glm4.h"

namespace hrun::architecture {

inline constexpr std::string_view kChatglmClasses[] = {"GlmForCausalLM"};

inline constexpr auto kChatglmTensors = join(kEmbeddingAndHead, kNormBeforeAttention, kAttention,
                                             kQkvBiases, kNormBeforeFeedForward, kGlm4FeedForward);

inline constexpr ModelDescription kChatglm = {
    .name = "chatglm",
    .hf_classes = kChatglmClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kChatglmTensors,
    .rotary_part = 0.5,
};

}  // namespace hrun::architecture
