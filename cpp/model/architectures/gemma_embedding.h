// EmbeddingGemma: Gemma 3 as an encoder, with two projections of a text's vector.
#pragma once

#include "model/architectures/gemma3.h"

namespace hrun::architecture {

inline constexpr std::string_view kGemmaEmbeddingClasses[] = {"Gemma3TextModel"};

inline constexpr std::array kDenseProjections = {
    TensorRule{Role::dense_2, "dense_2.weight", "2_Dense.linear.weight", Dim::dense, Dim::embd,
               false},
    TensorRule{Role::dense_3, "dense_3.weight", "3_Dense.linear.weight", Dim::embd, Dim::dense,
               false},
};
inline constexpr auto kGemmaEmbeddingTensors =
    join(std::array{kGemmaGlobals[0], kGemmaGlobals[1]}, kGemmaNorms, kAttention,
         with_transform(kHeadNorms, Role::attn_q_norm, Role::attn_k_norm, Transform::plus_one),
         kFeedForward, kDenseProjections);

inline constexpr ModelDescription kGemmaEmbedding = {
    .name = "gemma-embedding",
    .hf_classes = kGemmaEmbeddingClasses,
    .rope = RopeStyle::halves,
    .tensors = kGemmaEmbeddingTensors,
    .config = kGemma3Keys,
    .nonlinearity = Nonlinearity::gelu,
    .causal = false,
    .embd_times_root = true,
    .window_period = 6,
    .window_rope_base = 10000,
};

}  // namespace hrun::architecture
