// The language model of Qwen 2 VL and 2.5 VL: Qwen 2.  Text has one position where images have
// three, so that its rotation is the plain one.
#pragma once

#include "model/architectures/qwen2.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen2vlClasses[] = {"Qwen2VLForConditionalGeneration",
                                                       "Qwen2_5_VLForConditionalGeneration"};

// The keys say which pairs of a head turn by which of an image's positions.
inline constexpr std::array kPositionSections = {
    ConfigRule{"rope.dimension_sections", ConfigType::integer, "mrope_section", ""},
};

inline constexpr ModelDescription kQwen2vl = {
    .name = "qwen2vl",
    .hf_classes = kQwen2vlClasses,
    .rope = RopeStyle::halves,
    .tensors = kQwen2Tensors,
    .config = kPositionSections,
};

}  // namespace hrun::architecture
