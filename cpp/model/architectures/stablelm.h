// StableLM: Llama with layer norms and a part of each head turned.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kStablelmClasses[] = {"StableLmForCausalLM",
                                                        "StableLMEpochForCausalLM"};

// Of the three layer norms of most models that have them.
inline constexpr std::array kLayerNormBiases = {
    TensorRule{Role::output_norm_bias, "output_norm.bias", "model.norm.bias", Dim::one, Dim::embd,
               true},
    TensorRule{Role::attn_norm_bias, "blk.{}.attn_norm.bias",
               "model.layers.{}.input_layernorm.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm_bias, "blk.{}.ffn_norm.bias",
               "model.layers.{}.post_attention_layernorm.bias", Dim::one, Dim::embd, true},
};
inline constexpr auto kStablelmTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, asked_by(kQkvBiases, "use_qkv_bias"),
         kNormBeforeFeedForward, kLayerNormBiases, kFeedForward);

inline constexpr ModelDescription kStablelm = {
    .name = "stablelm",
    .hf_classes = kStablelmClasses,
    .rope = RopeStyle::halves,
    .tensors = kStablelmTensors,
    .norm = Norm::layer,
    .rotary_part = 0.25,
};

}  // namespace hrun::architecture
