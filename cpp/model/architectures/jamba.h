// Jamba: Mamba 1 in place of most layers' attention, with norms of what its steps, b and c are made
// of, and experts in some layers, which have a router.  Nothing is turned.
#pragma once

#include "model/architectures/falcon_h1.h"
#include "model/architectures/mamba.h"

namespace hrun::architecture {

inline constexpr std::string_view kJambaClasses[] = {"JambaForCausalLM"};

inline constexpr std::array kJambaStateSpace = {
    TensorRule{Role::ssm_in, "blk.{}.ssm_in.weight", "model.layers.{}.mamba.in_proj.weight",
               Dim::ssm_inner_twice, Dim::embd, true},
    TensorRule{Role::ssm_conv, "blk.{}.ssm_conv1d.weight", "model.layers.{}.mamba.conv1d.weight",
               Dim::ssm_inner, Dim::conv_taps, true, Transform::taps},
    TensorRule{Role::ssm_conv_bias, "blk.{}.ssm_conv1d.bias", "model.layers.{}.mamba.conv1d.bias",
               Dim::one, Dim::ssm_inner, false},
    TensorRule{Role::ssm_mix, "blk.{}.ssm_x.weight", "model.layers.{}.mamba.x_proj.weight",
               Dim::ssm_mix, Dim::ssm_inner, true},
    TensorRule{Role::ssm_step_norm, "blk.{}.ssm_dt_norm.weight",
               "model.layers.{}.mamba.dt_layernorm.weight", Dim::one, Dim::ssm_rank, true},
    TensorRule{Role::ssm_b_norm, "blk.{}.ssm_b_norm.weight",
               "model.layers.{}.mamba.b_layernorm.weight", Dim::one, Dim::ssm_state, true},
    TensorRule{Role::ssm_c_norm, "blk.{}.ssm_c_norm.weight",
               "model.layers.{}.mamba.c_layernorm.weight", Dim::one, Dim::ssm_state, true},
    TensorRule{Role::ssm_step, "blk.{}.ssm_dt.weight", "model.layers.{}.mamba.dt_proj.weight",
               Dim::ssm_inner, Dim::ssm_rank, true},
    TensorRule{Role::ssm_step_bias, "blk.{}.ssm_dt.bias", "model.layers.{}.mamba.dt_proj.bias",
               Dim::one, Dim::ssm_inner, true},
    TensorRule{Role::ssm_rate, "blk.{}.ssm_a", "model.layers.{}.mamba.A_log", Dim::ssm_inner,
               Dim::ssm_state, true, Transform::minus_exp},
    TensorRule{Role::ssm_skip, "blk.{}.ssm_d", "model.layers.{}.mamba.D", Dim::one, Dim::ssm_inner,
               true},
    TensorRule{Role::ssm_out, "blk.{}.ssm_out.weight", "model.layers.{}.mamba.out_proj.weight",
               Dim::embd, Dim::ssm_inner, true},
};
inline constexpr std::array kJambaFeedForwardNorm = {
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight", "model.layers.{}.pre_ff_layernorm.weight",
               Dim::one, Dim::embd, true},
};
inline constexpr std::array kJambaExperts = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight",
               "model.layers.{}.feed_forward.router.weight", Dim::experts, Dim::embd, true},
    TensorRule{Role::experts_gate, "blk.{}.ffn_gate_exps.weight",
               "model.layers.{}.feed_forward.experts.{}.gate_proj.weight|"
               "model.layers.{}.feed_forward.experts.gate_up_proj@first_half",
               Dim::ff_expert, Dim::embd, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "model.layers.{}.feed_forward.experts.{}.up_proj.weight|"
               "model.layers.{}.feed_forward.experts.gate_up_proj@second_half",
               Dim::ff_expert, Dim::embd, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "model.layers.{}.feed_forward.experts.{}.down_proj.weight|"
               "model.layers.{}.feed_forward.experts.down_proj",
               Dim::embd, Dim::ff_expert, true, Transform::none, Dim::experts},
};

inline constexpr std::array kJambaStateSpaceKeys = {
    ConfigRule{"ssm.conv_kernel", ConfigType::integer, "mamba_d_conv", "4"},
    ConfigRule{"ssm.state_size", ConfigType::integer, "mamba_d_state", "16"},
    ConfigRule{"ssm.time_step_rank", ConfigType::integer, "mamba_dt_rank"},
    ConfigRule{"ssm.inner_size", ConfigType::integer, "mamba_expand"},
};
inline constexpr auto kJambaKeys = join(kJambaStateSpaceKeys, kExpertKeys);
inline constexpr auto kJambaTensors =
    join(kFalconH1Globals, kNormBeforeAttention, only_in(kAttention, Where::attention),
         only_in(kJambaStateSpace, Where::recurrent), kJambaFeedForwardNorm,
         only_in(kFalconH1FeedForward, Where::dense), only_in(kJambaExperts, Where::experts));

inline constexpr ModelDescription kJamba = {
    .name = "jamba",
    .hf_classes = kJambaClasses,
    .rope = RopeStyle::halves,
    .tensors = kJambaTensors,
    .config = kJambaKeys,
    .rotary = false,
    .experts_normed = false,
    .experts_by_router = true,
    .recurrent = Mixer::channel_state_space,
    .recurrent_without_keys = true,
};

}  // namespace hrun::architecture
