// Gemma 2: norms before and after both blocks, GELU gate, windows in every other layer, soft caps
// on scores and logits.
//
// Norms multiply by 1 + weight; GGUF holds the sum.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kGemma2Classes[] = {"Gemma2ForCausalLM"};

inline constexpr auto kGemmaGlobals =
    with_transform(kEmbeddingAndHead, Role::output_norm, Role::output_norm, Transform::plus_one);

inline constexpr std::array kGemmaScales = {
    ConfigRule{"attention.scale", ConfigType::number, "query_pre_attn_scalar", "",
               ConfigMap::inverse_root},
    ConfigRule{"final_logit_softcapping", ConfigType::number, "final_logit_softcapping"},
};
inline constexpr std::array kGemma2Cap = {
    ConfigRule{"attn_logit_softcapping", ConfigType::number, "attn_logit_softcapping"},
};

inline constexpr auto kGemma2Tensors = join(kGemmaGlobals, kGemmaNorms, kAttention, kFeedForward);
inline constexpr auto kGemma2Keys = join(kAlternatingWindowKeys, kGemmaScales, kGemma2Cap);

inline constexpr ModelDescription kGemma2 = {
    .name = "gemma2",
    .hf_classes = kGemma2Classes,
    .rope = RopeStyle::halves,
    .tensors = kGemma2Tensors,
    .config = kGemma2Keys,
    .nonlinearity = Nonlinearity::gelu,
    .embd_times_root = true,
    .window_period = 2,
    .width_scaled_layers = 46,  // 27B
};

}  // namespace hrun::architecture
