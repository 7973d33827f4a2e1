// The language model of Qwen 3 VL: Qwen 3 (see qwen2vl.h).
#pragma once

#include "model/architectures/qwen2vl.h"
#include "model/architectures/qwen3.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen3vlClasses[] = {"Qwen3VLForConditionalGeneration"};

inline constexpr std::array kDeepstackKeys = {
    ConfigRule{"n_deepstack_layers", ConfigType::integer, ""},
};
inline constexpr auto kQwen3vlKeys = join(kPositionSections, kDeepstackKeys);

inline constexpr ModelDescription kQwen3vl = {
    .name = "qwen3vl",
    .hf_classes = kQwen3vlClasses,
    .rope = RopeStyle::halves,
    .tensors = kQwen3Tensors,
    .config = kQwen3vlKeys,
};

}  // namespace hrun::architecture
