// K-EXAONE: norms before the blocks, and norms of the heads of queries and keys; windows in three
// of four layers and rotation in these layers alone; dense leading layers, experts chosen by
// corrected sigmoids, shared experts.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kExaoneMoeClasses[] = {"ExaoneMoeForCausalLM",
                                                         "ExaoneMoEForCausalLM"};

inline constexpr std::array kExaoneMoeCorrection = {
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b.bias",
               "model.layers.{}.mlp.e_score_correction_bias|"
               "model.layers.{}.mlp.gate.e_score_correction_bias",
               Dim::one, Dim::experts, false},
};
inline constexpr std::array kExaoneMoeOwn = {
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer, ""},
    ConfigRule{"nextn_predict_layers", ConfigType::integer, ""},
};
inline constexpr auto kExaoneMoeKeys =
    join(kExpertKeys, kRoutingKeys, kExaoneMoeOwn, kWindowedLayerKeys);
inline constexpr auto kExaoneMoeTensors =
    join(kEmbeddingAndHead, kRopeFactors, kNormBeforeAttention, kAttention, kHeadNorms,
         kNormBeforeFeedForward, only_in(kFeedForward, Where::dense),
         only_in(join(kExperts, kExaoneMoeCorrection, kSharedExperts), Where::experts));

inline constexpr ModelDescription kExaoneMoe = {
    .name = "exaone-moe",
    .hf_classes = kExaoneMoeClasses,
    .rope = RopeStyle::halves,
    .tensors = kExaoneMoeTensors,
    .config = kExaoneMoeKeys,
    .window_period = 4,
    .rope_in_windows = true,
    .gating = Gating::sigmoid,
};

}  // namespace hrun::architecture
