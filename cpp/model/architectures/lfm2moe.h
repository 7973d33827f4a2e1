// LFM2 with experts, after some dense layers.
#pragma once

#include "model/architectures/lfm2.h"

namespace hrun::architecture {

inline constexpr std::string_view kLfm2moeClasses[] = {"Lfm2MoeForCausalLM"};

inline constexpr std::array kLfm2Experts = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight",
               "model.layers.{}.feed_forward.gate.weight", Dim::experts, Dim::embd, true},
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b.bias",
               "model.layers.{}.feed_forward.expert_bias", Dim::one, Dim::experts, false},
    TensorRule{Role::experts_gate, "blk.{}.ffn_gate_exps.weight",
               "model.layers.{}.feed_forward.experts.{}.w1.weight|"
               "model.layers.{}.feed_forward.experts.gate_up_proj@first_half",
               Dim::ff_expert, Dim::embd, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "model.layers.{}.feed_forward.experts.{}.w3.weight|"
               "model.layers.{}.feed_forward.experts.gate_up_proj@second_half",
               Dim::ff_expert, Dim::embd, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "model.layers.{}.feed_forward.experts.{}.w2.weight|"
               "model.layers.{}.feed_forward.experts.down_proj",
               Dim::embd, Dim::ff_expert, true, Transform::none, Dim::experts},
};
inline constexpr std::array kLfm2moeKeys = {
    ConfigRule{"shortconv.l_cache", ConfigType::integer, "conv_L_cache", "3"},
    ConfigRule{"leading_dense_block_count", ConfigType::integer, "num_dense_layers", "2"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "norm_topk_prob", "true"},
    ConfigRule{"expert_weights_scale", ConfigType::number, "routed_scaling_factor", "1"},
};
inline constexpr auto kLfm2moeConfig = join(kExpertKeys, kExpertBlockKeys, kLfm2moeKeys);
inline constexpr auto kLfm2moeTensors =
    join(kLfm2Globals, kLfm2Layer, kLfm2Mixers, only_in(kLfm2FeedForward, Where::dense),
         only_in(kLfm2Experts, Where::experts));

inline constexpr ModelDescription kLfm2moe = {
    .name = "lfm2moe",
    .hf_classes = kLfm2moeClasses,
    .rope = RopeStyle::halves,
    .tensors = kLfm2moeTensors,
    .config = kLfm2moeConfig,
    .gating = Gating::sigmoid,
    .recurrent = Mixer::short_conv,
    .recurrent_without_keys = true,
};

}  // namespace hrun::architecture
