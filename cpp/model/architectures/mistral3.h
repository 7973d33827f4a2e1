// Ministral 3 and what goes with it: Llama whose queries grow with the logarithm of their position
// beyond the context of pretraining.
#pragma once

#include "model/architectures/llama.h"

namespace hrun::architecture {

inline constexpr std::string_view kMistral3Classes[] = {"Ministral3ForCausalLM",
                                                        "Mistral3ForConditionalGeneration"};

inline constexpr std::array kQueryTemperature = {
    ConfigRule{"attention.temperature_scale", ConfigType::number, "llama_4_scaling_beta"},
    ConfigRule{"rope.scaling.yarn_log_multiplier", ConfigType::number, ""},
};
inline constexpr auto kMistral3Keys = join(kLlamaKeys, kQueryTemperature);

inline constexpr ModelDescription kMistral3 = {
    .name = "mistral3",
    .hf_classes = kMistral3Classes,
    .rope = RopeStyle::interleaved,
    .tensors = kLlamaTensors,
    .config = kMistral3Keys,
};

}  // namespace hrun::architecture
