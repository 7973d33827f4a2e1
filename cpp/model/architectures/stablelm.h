// StableLM: Llama with layer norms and rotation of a part of each head.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kStablelmClasses[] = {"StableLmForCausalLM",
                                                        "StableLMEpochForCausalLM"};

inline constexpr auto kStablelmTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, asked_by(kQkvBiases, "use_qkv_bias"),
         kNormBeforeFeedForward, kLayerNormBiases, kFeedForward);

inline constexpr ModelDescription kStablelm = {
    .name = "stablelm",
    .hf_classes = kStablelmClasses,
    .rope = RopeStyle::halves,
    .tensors = kStablelmTensors,
    .norm = Norm::layer,
    .rotary_part = 0.25,
};

}  // namespace hrun::architecture
