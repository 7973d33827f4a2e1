// Mamba 1 and Falcon Mamba: layers of a state space model whose channels decay by themselves.
#pragma once

#include "model/architectures/mamba2.h"

namespace hrun::architecture {

inline constexpr std::string_view kMambaClasses[] = {"MambaForCausalLM", "FalconMambaForCausalLM"};

inline constexpr std::array kChannelStateSpace = {
    TensorRule{Role::ssm_in, "blk.{}.ssm_in.weight", "backbone.layers.{}.mixer.in_proj.weight",
               Dim::ssm_inner_twice, Dim::embd, true},
    TensorRule{Role::ssm_conv, "blk.{}.ssm_conv1d.weight", "backbone.layers.{}.mixer.conv1d.weight",
               Dim::ssm_inner, Dim::conv_taps, true, Transform::taps},
    TensorRule{Role::ssm_conv_bias, "blk.{}.ssm_conv1d.bias",
               "backbone.layers.{}.mixer.conv1d.bias", Dim::one, Dim::ssm_inner, false},
    TensorRule{Role::ssm_mix, "blk.{}.ssm_x.weight", "backbone.layers.{}.mixer.x_proj.weight",
               Dim::ssm_mix, Dim::ssm_inner, true},
    TensorRule{Role::ssm_step, "blk.{}.ssm_dt.weight", "backbone.layers.{}.mixer.dt_proj.weight",
               Dim::ssm_inner, Dim::ssm_rank, true},
    TensorRule{Role::ssm_step_bias, "blk.{}.ssm_dt.bias", "backbone.layers.{}.mixer.dt_proj.bias",
               Dim::one, Dim::ssm_inner, true},
    TensorRule{Role::ssm_rate, "blk.{}.ssm_a", "backbone.layers.{}.mixer.A_log", Dim::ssm_inner,
               Dim::ssm_state, true, Transform::minus_exp},
    TensorRule{Role::ssm_skip, "blk.{}.ssm_d", "backbone.layers.{}.mixer.D", Dim::one,
               Dim::ssm_inner, true},
    TensorRule{Role::ssm_out, "blk.{}.ssm_out.weight", "backbone.layers.{}.mixer.out_proj.weight",
               Dim::embd, Dim::ssm_inner, true},
};

inline constexpr std::array kMambaKeys = {
    ConfigRule{"ssm.conv_kernel", ConfigType::integer, "conv_kernel|d_conv", "4"},
    ConfigRule{"ssm.state_size", ConfigType::integer, "state_size|d_state", "16"},
    ConfigRule{"ssm.time_step_rank", ConfigType::integer, "time_step_rank|dt_rank"},
    ConfigRule{"ssm.inner_size", ConfigType::integer, "intermediate_size|d_inner"},
    ConfigRule{"ssm.dt_b_c_rms", ConfigType::boolean, ""},
    ConfigRule{"ssm.dt_b_c_rms_epsilon", ConfigType::number, "mixer_rms_eps"},
};
inline constexpr auto kMambaTensors = join(kBackboneGlobals, kBackboneNorm, kChannelStateSpace);

inline constexpr ModelDescription kMamba = {
    .name = "mamba",
    .hf_classes = kMambaClasses,
    .rope = RopeStyle::halves,
    .tensors = kMambaTensors,
    .config = kMambaKeys,
    .rotary = false,
    .recurrent = Mixer::channel_state_space,
    .recurrent_without_keys = true,
    .one_block = true,
};

}  // namespace hrun::architecture
