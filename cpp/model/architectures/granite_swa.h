// Granite with windows: Granite whose heads have sinks.  The file says for each layer whether it
// has a window and whether it has rotation.
#pragma once

#include "model/architectures/granite.h"

namespace hrun::architecture {

inline constexpr std::string_view kGraniteSwaClasses[] = {"GraniteSWAForCausalLM"};

inline constexpr std::array kSinks = {
    TensorRule{Role::attn_sinks, "blk.{}.attn_sinks.weight", "model.layers.{}.self_attn.sinks",
               Dim::one, Dim::heads, true},
};
inline constexpr std::array kTurnedLayerKeys = {
    ConfigRule{"attention.rope_pattern", ConfigType::boolean, "layer_rope_theta|no_rope_layers"},
};
inline constexpr auto kGraniteSwaKeys = join(kGraniteKeys, kWindowedLayerKeys, kTurnedLayerKeys);
inline constexpr auto kGraniteSwaTensors = join(kDenseLlamaTensors, kSinks);

inline constexpr ModelDescription kGraniteSwa = {
    .name = "granite_swa",
    .hf_classes = kGraniteSwaClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kGraniteSwaTensors,
    .config = kGraniteSwaKeys,
    .divides_logits = true,
};

}  // namespace hrun::architecture
