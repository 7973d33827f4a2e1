// GLM 4 (0414): norms before and after both blocks, rotation of half of each head, one matrix for
// gate and up.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kGlm4Classes[] = {"Glm4ForCausalLM"};

inline constexpr std::array kGlm4Own = {
    TensorRule{Role::attn_post_norm, "blk.{}.post_attention_norm.weight",
               "model.layers.{}.post_self_attn_layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm, "blk.{}.post_ffw_norm.weight",
               "model.layers.{}.post_mlp_layernorm.weight", Dim::one, Dim::embd, true},
};
inline constexpr std::array kGlm4FeedForward = {
    TensorRule{Role::ffn_gate_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.gate_up_proj.weight",
               Dim::ff_twice, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight",
               Dim::embd, Dim::ff, true},
};
inline constexpr auto kGlm4Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kQkvBiases, kNormBeforeFeedForward,
         kGlm4Own, kGlm4FeedForward);

inline constexpr ModelDescription kGlm4 = {
    .name = "glm4",
    .hf_classes = kGlm4Classes,
    .rope = RopeStyle::interleaved,
    .tensors = kGlm4Tensors,
    .rotary_part = 0.5,
};

}  // namespace hrun::architecture
