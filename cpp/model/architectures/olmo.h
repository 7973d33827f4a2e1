// OLMo (1): Llama with layer norms that have neither weights nor biases.
#pragma once

#include "model/architectures/llama.h"

namespace hrun::architecture {

inline constexpr std::string_view kOlmoClasses[] = {"OlmoForCausalLM"};

inline constexpr std::array kOlmoGlobals = {
    TensorRule{Role::token_embd, "token_embd.weight", "model.embed_tokens.weight", Dim::vocab,
               Dim::embd, true},
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
};
inline constexpr auto kOlmoTensors = join(kOlmoGlobals, kLlamaAttention, kFeedForward);

inline constexpr ModelDescription kOlmo = {
    .name = "olmo",
    .hf_classes = kOlmoClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kOlmoTensors,
    .norm = Norm::layer,
    .plain_norms = true,
};

}  // namespace hrun::architecture
