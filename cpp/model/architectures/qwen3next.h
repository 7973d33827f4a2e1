// Qwen 3 Next: Qwen 3.5's layers with experts, and matrices whose outputs are grouped by key head.
#pragma once

#include "model/architectures/qwen35moe.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen3nextClasses[] = {"Qwen3NextForCausalLM"};

inline constexpr std::array kDeltaRuleByKeyHead = {
    TensorRule{Role::delta_qkv, "blk.{}.attn_qkv.weight",
               "model.layers.{}.linear_attn.in_proj_qkvz.weight", Dim::delta_qkv, Dim::embd, true,
               Transform::delta_groups_qkv},
    TensorRule{Role::delta_gate, "blk.{}.attn_gate.weight",
               "model.layers.{}.linear_attn.in_proj_qkvz.weight", Dim::delta_v, Dim::embd, true,
               Transform::delta_groups_gate},
    TensorRule{Role::delta_beta_step, "blk.{}.ssm_ba.weight",
               "model.layers.{}.linear_attn.in_proj_ba.weight", Dim::delta_heads_twice, Dim::embd,
               true},
    TensorRule{Role::delta_conv, "blk.{}.ssm_conv1d.weight",
               "model.layers.{}.linear_attn.conv1d.weight", Dim::delta_qkv, Dim::conv_taps, true,
               Transform::taps},
    TensorRule{Role::delta_step_bias, "blk.{}.ssm_dt.bias", "model.layers.{}.linear_attn.dt_bias",
               Dim::one, Dim::delta_heads, true},
    TensorRule{Role::delta_rate, "blk.{}.ssm_a", "model.layers.{}.linear_attn.A_log", Dim::one,
               Dim::delta_heads, true, Transform::minus_exp},
    TensorRule{Role::delta_norm, "blk.{}.ssm_norm.weight",
               "model.layers.{}.linear_attn.norm.weight", Dim::one, Dim::delta_head, true},
    TensorRule{Role::delta_out, "blk.{}.ssm_out.weight",
               "model.layers.{}.linear_attn.out_proj.weight", Dim::embd, Dim::delta_v, true},
};

inline constexpr std::array kQwen3nextWeights = {
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "norm_topk_prob", "true"},
};
inline constexpr auto kQwen3nextKeys =
    join(kExpertKeys, kQwen2moeWidths, kDeltaKeys, kQwen3nextWeights);

inline constexpr auto kQwen3nextTensors =
    join(kQwen35Globals, kQwen35Norms, kQwen35Attention,
         only_in(kDeltaRuleByKeyHead, Where::recurrent), kExperts, kQwen2moeShared);

inline constexpr ModelDescription kQwen3next = {
    .name = "qwen3next",
    .hf_classes = kQwen3nextClasses,
    .rope = RopeStyle::halves,
    .tensors = kQwen3nextTensors,
    .config = kQwen3nextKeys,
    .recurrent = Mixer::delta_rule,
    .attention_period = 4,
    .delta_grouped = true,
};

}  // namespace hrun::architecture
