// SmolLM 3: Llama whose every fourth layer has no rotation.  Files do not say so.
#pragma once

#include "model/architectures/llama.h"

namespace hrun::architecture {

inline constexpr std::string_view kSmollm3Classes[] = {"SmolLM3ForCausalLM"};

inline constexpr ModelDescription kSmollm3 = {
    .name = "smollm3",
    .hf_classes = kSmollm3Classes,
    .rope = RopeStyle::interleaved,
    .tensors = kDenseLlamaTensors,
    .no_rope_period = 4,
};

}  // namespace hrun::architecture
