// MiMo V2 Flash and later: layers with a window have more heads of keys, sinks and another base of
// their rotation; values have fewer numbers than keys, and are scaled; a dense leading layer,
// experts chosen by corrected sigmoids.  Files by llama.cpp's converter do not say how many layers
// are dense.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kMimo2Classes[] = {"MiMoV2FlashForCausalLM", "MiMoV2ForCausalLM"};

inline constexpr std::array kMimo2Sinks = {
    TensorRule{Role::attn_sinks, "blk.{}.attn_sinks.weight",
               "model.layers.{}.self_attn.attention_sink_bias|model.layers.{}.self_attn.sinks",
               Dim::one, Dim::heads, false},
};
inline constexpr std::array kMimo2Own = {
    ConfigRule{"leading_dense_block_count", ConfigType::integer, "mlp_layer_types|moe_layer_freq",
               "1"},
    ConfigRule{"expert_weights_scale", ConfigType::number, "routed_scaling_factor", "1"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "norm_topk_prob", "true"},
    ConfigRule{"rope.freq_base_swa", ConfigType::number, "swa_rope_theta"},
    ConfigRule{"attention.value_scale", ConfigType::number, "attention_value_scale"},
    ConfigRule{"nextn_predict_layers", ConfigType::integer, ""},
};
inline constexpr auto kMimo2Keys =
    join(kExpertKeys, kExpertBlockKeys, kWindowedLayerKeys, kMimo2Own);
inline constexpr auto kMimo2Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kQkvBiases, kMimo2Sinks,
         kNormBeforeFeedForward, only_in(kFeedForward, Where::dense),
         only_in(join(kExperts, kScoreCorrection), Where::experts));

inline constexpr ModelDescription kMimo2 = {
    .name = "mimo2",
    .hf_classes = kMimo2Classes,
    .rope = RopeStyle::halves,
    .tensors = kMimo2Tensors,
    .config = kMimo2Keys,
    .window_rope_base = 10000,
    .gating = Gating::sigmoid,
    .leading_dense = 1,
};

}  // namespace hrun::architecture
