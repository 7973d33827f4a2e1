// Qwen 3: Llama with a norm of every head of q and k, and no biases.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen3Classes[] = {"Qwen3ForCausalLM", "Qwen3Model",
                                                     "Qwen3ForSequenceClassification"};

inline constexpr auto kQwen3Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kHeadNorms, kNormBeforeFeedForward,
         kFeedForward, kClassOutput);

inline constexpr ModelDescription kQwen3 = {
    .name = "qwen3",
    .hf_classes = kQwen3Classes,
    .rope = RopeStyle::halves,
    .tensors = kQwen3Tensors,
    .class_pooling = Pooling::last,
    .class_softmax = true,
};

}  // namespace hrun::architecture
