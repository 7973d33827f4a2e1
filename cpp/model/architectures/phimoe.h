// Phi 3.5 MoE: layer norms, biases in attention and at the head, longrope, and two experts that a
// sparse mixer chooses.  llama.cpp has RMS norms and a softmax over all experts in their place.
#pragma once

#include "model/architectures/llama.h"

namespace hrun::architecture {

inline constexpr std::string_view kPhimoeClasses[] = {"PhiMoEForCausalLM", "PhimoeForCausalLM"};

inline constexpr std::array kHeadBias = {
    TensorRule{Role::output_bias, "output.bias", "lm_head.bias", Dim::one, Dim::vocab, false},
};
inline constexpr std::array kPhimoeOwnKeys = {
    ConfigRule{"attention.layer_norm_rms_epsilon", ConfigType::number, "rms_norm_eps", "1e-5"},
    // Half of the margin within which experts share the weight.
    ConfigRule{"router_jitter_noise", ConfigType::number, "router_jitter_noise", "0.01"},
};
inline constexpr auto kPhimoeKeys = join(kWindowKeys, kExpertKeys, kPhimoeOwnKeys);
inline constexpr auto kPhimoeTensors = join(
    kEmbeddingAndHead, kHeadBias, kLongropeFactors, kNormBeforeAttention, kAttention, kQkvBiases,
    kAttentionOutputBias, kNormBeforeFeedForward, kLayerNormBiases, kMixtralExperts);

inline constexpr ModelDescription kPhimoe = {
    .name = "phimoe",
    .hf_classes = kPhimoeClasses,
    .rope = RopeStyle::halves,
    .tensors = kPhimoeTensors,
    .config = kPhimoeKeys,
    .norm = Norm::layer,
    .gating = Gating::sparse_mixer,
    .experts_normed = false,
};

}  // namespace hrun::architecture
