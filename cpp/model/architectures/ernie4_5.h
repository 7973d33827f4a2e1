// ERNIE 4.5: Llama whose checkpoints have the rotated pairs side by side.
#pragma once

#include "model/architectures/llama.h"

namespace hrun::architecture {

inline constexpr std::string_view kErnie45Classes[] = {"Ernie4_5ForCausalLM",
                                                       "Ernie4_5_ForCausalLM"};

inline constexpr auto kErnie45Attention =
    join(kAttention, asked_by(kQkvBiases, "use_bias"), asked_by(kAttentionOutputBias, "use_bias"));
inline constexpr auto kErnie45Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kErnie45Attention, kNormBeforeFeedForward,
         kFeedForward, asked_by(kFeedForwardBiases, "use_bias"));

inline constexpr ModelDescription kErnie45 = {
    .name = "ernie4_5",
    .hf_classes = kErnie45Classes,
    .rope = RopeStyle::interleaved,
    .tensors = kErnie45Tensors,
};

}  // namespace hrun::architecture
