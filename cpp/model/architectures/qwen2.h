// Qwen 2 and 2.5: Llama with biases of q, k and v.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen2Classes[] = {"Qwen2ForCausalLM", "Qwen2Model"};

inline constexpr auto kQwen2Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, made_required(kQkvBiases),
         kNormBeforeFeedForward, kFeedForward);

inline constexpr ModelDescription kQwen2 = {
    .name = "qwen2",
    .hf_classes = kQwen2Classes,
    .rope = RopeStyle::halves,
    .tensors = kQwen2Tensors,
};

}  // namespace hrun::architecture
