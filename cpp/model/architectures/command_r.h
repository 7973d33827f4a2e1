// Command R: attention and feed-forward side by side behind one layer norm without bias, logits scaled, a tied head.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kCommandRClasses[] = {"CohereForCausalLM"};

inline constexpr std::array kCommandRKeys = {
    ConfigRule{"logit_scale", ConfigType::number, "logit_scale", "0.0625"},
};
inline constexpr auto kCommandRTensors = join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kFeedForward);

inline constexpr ModelDescription kCommandR = {
    .name = "command-r",
    .hf_classes = kCommandRClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kCommandRTensors,
    .config = kCommandRKeys,
    .norm = Norm::layer,
    .parallel = true,
};

}  // namespace hrun::architecture
