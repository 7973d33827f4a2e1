// Nemotron-H whose feed-forward blocks are experts without gates, beside a shared expert.
#pragma once

#include "model/architectures/nemotron_h.h"

namespace hrun::architecture {

inline constexpr std::array kNemotronHExperts = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight",
               "backbone.layers.{}.mixer.gate.weight|model.layers.{}.mixer.gate.weight",
               Dim::experts, Dim::embd, true},
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b.bias",
               "backbone.layers.{}.mixer.gate.e_score_correction_bias|"
               "model.layers.{}.mixer.gate.e_score_correction_bias",
               Dim::one, Dim::experts, true},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "backbone.layers.{}.mixer.experts.{}.up_proj.weight|"
               "model.layers.{}.mixer.experts.{}.up_proj.weight",
               Dim::ff_expert, Dim::embd, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "backbone.layers.{}.mixer.experts.{}.down_proj.weight|"
               "model.layers.{}.mixer.experts.{}.down_proj.weight",
               Dim::embd, Dim::ff_expert, true, Transform::none, Dim::experts},
    TensorRule{Role::shared_up, "blk.{}.ffn_up_shexp.weight",
               "backbone.layers.{}.mixer.shared_experts.up_proj.weight|"
               "model.layers.{}.mixer.shared_experts.up_proj.weight",
               Dim::ff_shared, Dim::embd, true},
    TensorRule{Role::shared_down, "blk.{}.ffn_down_shexp.weight",
               "backbone.layers.{}.mixer.shared_experts.down_proj.weight|"
               "model.layers.{}.mixer.shared_experts.down_proj.weight",
               Dim::embd, Dim::ff_shared, true},
};
inline constexpr std::array kNemotronHExpertKeys = {
    ConfigRule{"expert_count", ConfigType::integer, "n_routed_experts"},
    ConfigRule{"expert_used_count", ConfigType::integer, "num_experts_per_tok"},
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "moe_intermediate_size"},
    ConfigRule{"expert_shared_count", ConfigType::integer, "n_shared_experts", "1"},
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer,
               "moe_shared_expert_intermediate_size"},
    ConfigRule{"expert_weights_scale", ConfigType::number, "routed_scaling_factor", "1"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "norm_topk_prob", "true"},
    ConfigRule{"expert_group_count", ConfigType::integer, "n_group"},
    ConfigRule{"expert_group_used_count", ConfigType::integer, "topk_group"},
};
inline constexpr auto kNemotronHMoeKeys = join(kNemotronHKeys, kNemotronHExpertKeys);
inline constexpr auto kNemotronHMoeTensors =
    join(kNemotronHMixers, only_in(kNemotronHExperts, Where::experts));

inline constexpr ModelDescription kNemotronHMoe = {
    .name = "nemotron_h_moe",
    .hf_classes = kNemotronHClasses,
    .rope = RopeStyle::halves,
    .tensors = kNemotronHMoeTensors,
    .config = kNemotronHMoeKeys,
    .nonlinearity = Nonlinearity::relu_squared,
    .rotary = false,
    .gating = Gating::sigmoid,
    .recurrent = Mixer::state_space,
    .recurrent_without_keys = true,
    .one_block = true,
};

}  // namespace hrun::architecture
