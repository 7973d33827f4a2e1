// Gemma 3 (text): Gemma 2 with head norms instead of the cap on scores, five layers with a window
// to one without, and a rotary base of its own in the layers with a window.
#pragma once

#include "model/architectures/gemma2.h"

namespace hrun::architecture {

inline constexpr std::string_view kGemma3Classes[] = {"Gemma3ForCausalLM",
                                                      "Gemma3ForConditionalGeneration"};

inline constexpr std::array kGemma3Base = {
    ConfigRule{"rope.freq_base_swa", ConfigType::number, "rope_local_base_freq"},
};
inline constexpr auto kGemma3Tensors =
    join(kGemmaGlobals, kGemmaNorms, kAttention,
         with_transform(kHeadNorms, Role::attn_q_norm, Role::attn_k_norm, Transform::plus_one),
         kFeedForward);
inline constexpr auto kGemma3Keys = join(kAlternatingWindowKeys, kGemmaScales, kGemma3Base);

inline constexpr ModelDescription kGemma3 = {
    .name = "gemma3",
    .hf_classes = kGemma3Classes,
    .rope = RopeStyle::halves,
    .tensors = kGemma3Tensors,
    .config = kGemma3Keys,
    .nonlinearity = Nonlinearity::gelu,
    .embd_times_root = true,
    .window_period = 6,
    .window_rope_base = 10000,
    .width_scaled_layers = 62,  // 27B
};

}  // namespace hrun::architecture
