// OLMo 2: norms after the blocks instead of before, and of whole queries and keys.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kOlmo2Classes[] = {"Olmo2ForCausalLM"};

inline constexpr std::array kOlmo2Norms = {
    TensorRule{Role::attn_q_norm, "blk.{}.attn_q_norm.weight",
               "model.layers.{}.self_attn.q_norm.weight", Dim::one, Dim::q, true},
    TensorRule{Role::attn_k_norm, "blk.{}.attn_k_norm.weight",
               "model.layers.{}.self_attn.k_norm.weight", Dim::one, Dim::k, true},
    TensorRule{Role::attn_post_norm, "blk.{}.post_attention_norm.weight",
               "model.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm, "blk.{}.post_ffw_norm.weight",
               "model.layers.{}.post_feedforward_layernorm.weight", Dim::one, Dim::embd, true},
};
inline constexpr auto kOlmo2Tensors =
    join(kEmbeddingAndHead, kAttention, kOlmo2Norms, kFeedForward);

inline constexpr ModelDescription kOlmo2 = {
    .name = "olmo2",
    .hf_classes = kOlmo2Classes,
    .rope = RopeStyle::halves,
    .tensors = kOlmo2Tensors,
};

}  // namespace hrun::architecture
