// StarCoder 2: layer norms, biases everywhere, a feed-forward block of two matrices with GELU.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kStarcoder2Classes[] = {"Starcoder2ForCausalLM"};

inline constexpr std::array kStarcoder2Own = {
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.c_fc.weight", Dim::ff,
               Dim::embd, true},
    TensorRule{Role::ffn_up_bias, "blk.{}.ffn_up.bias", "model.layers.{}.mlp.c_fc.bias", Dim::one,
               Dim::ff, false},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.c_proj.weight",
               Dim::embd, Dim::ff, true},
    TensorRule{Role::ffn_down_bias, "blk.{}.ffn_down.bias", "model.layers.{}.mlp.c_proj.bias",
               Dim::one, Dim::embd, false},
};
inline constexpr auto kStarcoder2Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kQkvBiases, kAttentionOutputBias,
         kNormBeforeFeedForward, kLayerNormBiases, kStarcoder2Own);

inline constexpr ModelDescription kStarcoder2 = {
    .name = "starcoder2",
    .hf_classes = kStarcoder2Classes,
    .rope = RopeStyle::halves,
    .tensors = kStarcoder2Tensors,
    .config = kWindowKeys,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::gelu,
};

}  // namespace hrun::architecture
