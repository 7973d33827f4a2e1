// Nemotron 3 and 4, Minitron: layer norms that multiply by 1 + weight (GGUF holds the sum), and
// rotation of a part of each head.  The feed-forward block is the up matrix, the squared positive
// part, and the down matrix.
#pragma once

#include "model/architectures/arcee.h"

namespace hrun::architecture {

inline constexpr std::string_view kNemotronClasses[] = {"NemotronForCausalLM"};

inline constexpr auto kNemotronTensors = join(
    with_transform(kEmbeddingAndHead, Role::output_norm, Role::output_norm, Transform::plus_one),
    with_transform(kNormBeforeAttention, Role::attn_norm, Role::attn_norm, Transform::plus_one),
    kAttention, asked_by(kQkvBiases, "attention_bias"),
    asked_by(kAttentionOutputBias, "attention_bias"),
    with_transform(kNormBeforeFeedForward, Role::ffn_norm, Role::ffn_norm, Transform::plus_one),
    kLayerNormBiases, kUpDown);

inline constexpr ModelDescription kNemotron = {
    .name = "nemotron",
    .hf_classes = kNemotronClasses,
    .rope = RopeStyle::halves,
    .tensors = kNemotronTensors,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::relu_squared,
    .rotary_part = 0.5,
};

}  // namespace hrun::architecture
