// Qwen 1.5 and 2 with experts: Qwen 2's attention.  Beside the selected experts there is one that
// all tokens share, behind a gate.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen2moeClasses[] = {"Qwen2MoeForCausalLM"};

inline constexpr std::array kQwen2moeShared = {
    TensorRule{Role::shared_router, "blk.{}.ffn_gate_inp_shexp.weight",
               "model.layers.{}.mlp.shared_expert_gate.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::shared_gate, "blk.{}.ffn_gate_shexp.weight",
               "model.layers.{}.mlp.shared_expert.gate_proj.weight", Dim::ff_shared, Dim::embd,
               true},
    TensorRule{Role::shared_up, "blk.{}.ffn_up_shexp.weight",
               "model.layers.{}.mlp.shared_expert.up_proj.weight", Dim::ff_shared, Dim::embd, true},
    TensorRule{Role::shared_down, "blk.{}.ffn_down_shexp.weight",
               "model.layers.{}.mlp.shared_expert.down_proj.weight", Dim::embd, Dim::ff_shared,
               true},
};

inline constexpr std::array kQwen2moeWidths = {
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "moe_intermediate_size"},
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer,
               "shared_expert_intermediate_size"},
};
inline constexpr std::array kQwen2moeWeights = {
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "norm_topk_prob", "false"},
};
inline constexpr auto kQwen2moeKeys = join(kExpertKeys, kQwen2moeWidths, kQwen2moeWeights);

inline constexpr auto kQwen2moeTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, made_required(kQkvBiases),
         kNormBeforeFeedForward, kExperts, kQwen2moeShared);

inline constexpr ModelDescription kQwen2moe = {
    .name = "qwen2moe",
    .hf_classes = kQwen2moeClasses,
    .rope = RopeStyle::halves,
    .tensors = kQwen2moeTensors,
    .config = kQwen2moeKeys,
    .experts_normed = false,
};

}  // namespace hrun::architecture
