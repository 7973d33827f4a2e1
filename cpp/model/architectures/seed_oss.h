// Seed-OSS: Qwen 2 whose heads have a width of their own.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kSeedOssClasses[] = {"SeedOssForCausalLM"};

inline constexpr auto kSeedOssTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kQkvBiases, kAttentionOutputBias,
         kFeedForward, kPostNormBeforeFeedForward);

inline constexpr ModelDescription kSeedOss = {
    .name = "seed_oss",
    .hf_classes = kSeedOssClasses,
    .rope = RopeStyle::halves,
    .tensors = kSeedOssTensors,
};

}  // namespace hrun::architecture
