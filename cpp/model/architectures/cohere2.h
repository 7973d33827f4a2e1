// Command R7B, Command A: Command R with windows in three of four layers and rotation in these
// layers alone.
#pragma once

#include "model/architectures/command_r.h"

namespace hrun::architecture {

inline constexpr std::string_view kCohere2Classes[] = {"Cohere2ForCausalLM"};

inline constexpr auto kCohere2Keys = join(kCommandRKeys, kAlternatingWindowKeys);
inline constexpr auto kCohere2Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kFeedForward);

inline constexpr ModelDescription kCohere2 = {
    .name = "cohere2",
    .hf_classes = kCohere2Classes,
    .rope = RopeStyle::interleaved,
    .tensors = kCohere2Tensors,
    .config = kCohere2Keys,
    .norm = Norm::layer,
    .parallel = true,
    .window_period = 4,
    .rope_in_windows = true,
};

}  // namespace hrun::architecture
