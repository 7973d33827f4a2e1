// Granite 3: Llama with scales on embeddings, scores, residual sums and logits.
#pragma once

#include "model/architectures/llama.h"

namespace hrun::architecture {

inline constexpr std::string_view kGraniteClasses[] = {"GraniteForCausalLM"};

inline constexpr std::array kGraniteKeys = {
    ConfigRule{"attention.scale", ConfigType::number, "attention_multiplier"},
    ConfigRule{"embedding_scale", ConfigType::number, "embedding_multiplier"},
    ConfigRule{"residual_scale", ConfigType::number, "residual_multiplier"},
    ConfigRule{"logit_scale", ConfigType::number, "logits_scaling", "1"},
};

inline constexpr ModelDescription kGranite = {
    .name = "granite",
    .hf_classes = kGraniteClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kDenseLlamaTensors,
    .config = kGraniteKeys,
    .divides_logits = true,
};

}  // namespace hrun::architecture
