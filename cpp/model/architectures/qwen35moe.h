// Qwen 3.5 (3.6, 3.8) with experts: its layers, and Qwen 2's experts beside a shared one.
#pragma once

#include "model/architectures/qwen2moe.h"
#include "model/architectures/qwen35.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen35moeClasses[] = {"Qwen3_5MoeForConditionalGeneration",
                                                         "Qwen3_5MoeForCausalLM"};

inline constexpr auto kQwen35moeKeys = join(kExpertKeys, kQwen2moeWidths, kQwen35Keys);

inline constexpr auto kQwen35moeTensors =
    join(kQwen35Globals, kQwen35Norms, kQwen35Attention, only_in(kDeltaRule, Where::recurrent),
         kExperts, kQwen2moeShared);

inline constexpr ModelDescription kQwen35moe = {
    .name = "qwen35moe",
    .hf_classes = kQwen35moeClasses,
    .rope = RopeStyle::halves,
    .tensors = kQwen35moeTensors,
    .config = kQwen35moeKeys,
    .recurrent = Mixer::delta_rule,
    .attention_period = 4,
};

}  // namespace hrun::architecture
