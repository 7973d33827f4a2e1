// Command R: attention and feed-forward side by side behind one layer norm without bias, logits
// scaled, a tied head.  In Command R+ each head of queries and keys has a layer norm of its own.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kCommandRClasses[] = {"CohereForCausalLM"};

inline constexpr std::array kCommandRKeys = {
    ConfigRule{"logit_scale", ConfigType::number, "logit_scale", "0.0625"},
};
inline constexpr std::array kCommandRHeadNorms = {
    TensorRule{Role::attn_q_norm, "blk.{}.attn_q_norm.weight",
               "model.layers.{}.self_attn.q_norm.weight", Dim::one, Dim::head, false,
               Transform::none, Dim::heads, Where::every, "use_qk_norm"},
    TensorRule{Role::attn_k_norm, "blk.{}.attn_k_norm.weight",
               "model.layers.{}.self_attn.k_norm.weight", Dim::one, Dim::head, false,
               Transform::none, Dim::kv_heads, Where::every, "use_qk_norm"},
};
inline constexpr auto kCommandRTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kCommandRHeadNorms, kFeedForward);

inline constexpr ModelDescription kCommandR = {
    .name = "command-r",
    .hf_classes = kCommandRClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kCommandRTensors,
    .config = kCommandRKeys,
    .norm = Norm::layer,
    .parallel = true,
};

}  // namespace hrun::architecture
