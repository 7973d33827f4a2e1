// Gemma (1): Llama with a GELU gate, scaled embeddings and norms that multiply by 1 + weight; GGUF
// holds the sum.
#pragma once

#include "model/architectures/gemma2.h"

namespace hrun::architecture {

inline constexpr std::string_view kGemmaClasses[] = {"GemmaForCausalLM"};

inline constexpr auto kGemmaTensors = join(
    kGemmaGlobals,
    with_transform(kNormBeforeAttention, Role::attn_norm, Role::attn_norm, Transform::plus_one),
    kAttention,
    with_transform(kNormBeforeFeedForward, Role::ffn_norm, Role::ffn_norm, Transform::plus_one),
    kFeedForward);

inline constexpr ModelDescription kGemma = {
    .name = "gemma",
    .hf_classes = kGemmaClasses,
    .rope = RopeStyle::halves,
    .tensors = kGemmaTensors,
    .nonlinearity = Nonlinearity::gelu,
    .embd_times_root = true,
};

}  // namespace hrun::architecture
