// MiniMax M2: norms of whole queries and keys, rotation of a part of each head, experts chosen by
// corrected sigmoids.
#pragma once

#include "model/architectures/llama.h"
#include "model/architectures/olmo2.h"

namespace hrun::architecture {

inline constexpr std::string_view kMinimaxM2Classes[] = {"MiniMaxM2ForCausalLM"};

inline constexpr std::array kMinimaxM2Correction = {
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b.bias",
               "model.layers.{}.block_sparse_moe.e_score_correction_bias", Dim::one, Dim::experts,
               true},
};
inline constexpr std::array kMinimaxM2Widths = {
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "intermediate_size"},
    ConfigRule{"expert_gating_func", ConfigType::integer, "scoring_func"},
};
inline constexpr auto kMinimaxM2Keys = join(kExpertKeys, kMinimaxM2Widths);
inline constexpr auto kMinimaxM2Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kWholeHeadNorms,
         kNormBeforeFeedForward, kMixtralExperts, kMinimaxM2Correction);

inline constexpr ModelDescription kMinimaxM2 = {
    .name = "minimax-m2",
    .hf_classes = kMinimaxM2Classes,
    .rope = RopeStyle::halves,
    .tensors = kMinimaxM2Tensors,
    .config = kMinimaxM2Keys,
    .gating = Gating::sigmoid,
};

}  // namespace hrun::architecture
