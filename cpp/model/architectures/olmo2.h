// OLMo 2 and 3: norms after the blocks instead of before them, and norms of whole queries and
// keys.  OLMo 3 has windows in three of four layers, whose rotation is not scaled.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kOlmo2Classes[] = {"Olmo2ForCausalLM", "Olmo3ForCausalLM"};

// The norms of whole queries and keys, over all heads together.
inline constexpr std::array kWholeHeadNorms = {
    TensorRule{Role::attn_q_norm, "blk.{}.attn_q_norm.weight",
               "model.layers.{}.self_attn.q_norm.weight", Dim::one, Dim::q, true},
    TensorRule{Role::attn_k_norm, "blk.{}.attn_k_norm.weight",
               "model.layers.{}.self_attn.k_norm.weight", Dim::one, Dim::k, true},
};
inline constexpr std::array kNormsAfter = {
    TensorRule{Role::attn_post_norm, "blk.{}.post_attention_norm.weight",
               "model.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm, "blk.{}.post_ffw_norm.weight",
               "model.layers.{}.post_feedforward_layernorm.weight", Dim::one, Dim::embd, true},
};
inline constexpr auto kOlmo2Tensors =
    join(kEmbeddingAndHead, kAttention, kWholeHeadNorms, kNormsAfter, kFeedForward);

inline constexpr std::array kWindowBase = {
    ConfigRule{"rope.freq_base_swa", ConfigType::number, "rope_local_base_freq"},
};
inline constexpr auto kOlmo2Keys = join(kAlternatingWindowKeys, kWindowBase);

inline constexpr ModelDescription kOlmo2 = {
    .name = "olmo2",
    .hf_classes = kOlmo2Classes,
    .rope = RopeStyle::halves,
    .tensors = kOlmo2Tensors,
    .config = kOlmo2Keys,
    .window_period = 4,
    .window_rope_unscaled = true,
};

}  // namespace hrun::architecture
