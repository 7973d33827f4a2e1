// BitNet b1.58: Llama with norms before the last matrix of both blocks.  The nonlinearity is the
// file's: SiLU in the first models (whose files do not say it), the squared positive part in 2B-4T.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kBitnetClasses[] = {"BitNetForCausalLM", "BitnetForCausalLM"};

inline constexpr std::array kSubNorms = {
    TensorRule{Role::attn_sub_norm, "blk.{}.attn_sub_norm.weight",
               "model.layers.{}.self_attn.attn_sub_norm.weight|"
               "model.layers.{}.self_attn.inner_attn_ln.weight",
               Dim::one, Dim::q_out, true},
    TensorRule{Role::ffn_sub_norm, "blk.{}.ffn_sub_norm.weight",
               "model.layers.{}.mlp.ffn_sub_norm.weight|model.layers.{}.mlp.ffn_layernorm.weight",
               Dim::one, Dim::ff, true},
};
inline constexpr std::array kBitnetKeys = {
    ConfigRule{"hidden_activation", ConfigType::text, "hidden_act", "relu2"},
};
inline constexpr auto kBitnetTensors = join(kEmbeddingAndHead, kNormBeforeAttention, kAttention,
                                            kNormBeforeFeedForward, kFeedForward, kSubNorms);

inline constexpr ModelDescription kBitnet = {
    .name = "bitnet",
    .hf_classes = kBitnetClasses,
    .rope = RopeStyle::halves,
    .tensors = kBitnetTensors,
    .config = kBitnetKeys,
};

}  // namespace hrun::architecture
