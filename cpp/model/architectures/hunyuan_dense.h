// Hunyuan 0.5B to 7B: Qwen 3 whose heads of queries and keys are rotated before they are normed.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kHunyuanDenseClasses[] = {"HunYuanDenseV1ForCausalLM"};

inline constexpr std::array kHunyuanHeadNorms = {
    TensorRule{Role::attn_q_norm, "blk.{}.attn_q_norm.weight",
               "model.layers.{}.self_attn.query_layernorm.weight", Dim::one, Dim::head, true},
    TensorRule{Role::attn_k_norm, "blk.{}.attn_k_norm.weight",
               "model.layers.{}.self_attn.key_layernorm.weight", Dim::one, Dim::head, true},
};
inline constexpr auto kHunyuanDenseTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention,
         asked_by(kHunyuanHeadNorms, "use_qk_norm"), kNormBeforeFeedForward, kFeedForward);

inline constexpr ModelDescription kHunyuanDense = {
    .name = "hunyuan-dense",
    .hf_classes = kHunyuanDenseClasses,
    .rope = RopeStyle::halves,
    .tensors = kHunyuanDenseTensors,
    .turned_before_normed = true,
};

}  // namespace hrun::architecture
