// Mamba 2: layers of a state space model alone.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kMamba2Classes[] = {"Mamba2ForCausalLM"};

inline constexpr std::array kBackboneGlobals = {
    TensorRule{Role::token_embd, "token_embd.weight",
               "backbone.embeddings.weight|backbone.embedding.weight|model.embeddings.weight",
               Dim::vocab, Dim::embd, true},
    TensorRule{Role::output_norm, "output_norm.weight",
               "backbone.norm_f.weight|model.norm_f.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
};
inline constexpr std::array kBackboneNorm = {
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight",
               "backbone.layers.{}.norm.weight|model.layers.{}.norm.weight", Dim::one, Dim::embd,
               true},
};
// The tensors of the state space model, under the name of the layer's one block.
inline constexpr std::array kStateSpaceInMixer = {
    TensorRule{Role::ssm_in, "blk.{}.ssm_in.weight",
               "backbone.layers.{}.mixer.in_proj.weight|model.layers.{}.mixer.in_proj.weight",
               Dim::ssm_in, Dim::embd, true},
    TensorRule{Role::ssm_conv, "blk.{}.ssm_conv1d.weight",
               "backbone.layers.{}.mixer.conv1d.weight|model.layers.{}.mixer.conv1d.weight",
               Dim::ssm_conv, Dim::conv_taps, true, Transform::taps},
    TensorRule{Role::ssm_conv_bias, "blk.{}.ssm_conv1d.bias",
               "backbone.layers.{}.mixer.conv1d.bias|model.layers.{}.mixer.conv1d.bias", Dim::one,
               Dim::ssm_conv, false},
    TensorRule{Role::ssm_step_bias, "blk.{}.ssm_dt.bias",
               "backbone.layers.{}.mixer.dt_bias|model.layers.{}.mixer.dt_bias", Dim::one,
               Dim::ssm_heads, true},
    TensorRule{Role::ssm_rate, "blk.{}.ssm_a",
               "backbone.layers.{}.mixer.A_log|model.layers.{}.mixer.A_log", Dim::ssm_heads,
               Dim::one, true, Transform::column_minus_exp},
    TensorRule{Role::ssm_skip, "blk.{}.ssm_d", "backbone.layers.{}.mixer.D|model.layers.{}.mixer.D",
               Dim::ssm_heads, Dim::one, true, Transform::column},
    TensorRule{Role::ssm_norm, "blk.{}.ssm_norm.weight",
               "backbone.layers.{}.mixer.norm.weight|model.layers.{}.mixer.norm.weight", Dim::one,
               Dim::ssm_group, true, Transform::groups, Dim::ssm_groups},
    TensorRule{Role::ssm_out, "blk.{}.ssm_out.weight",
               "backbone.layers.{}.mixer.out_proj.weight|model.layers.{}.mixer.out_proj.weight",
               Dim::embd, Dim::ssm_inner, true},
};

inline constexpr std::array kStateSpaceKeys = {
    ConfigRule{"ssm.conv_kernel", ConfigType::integer, "mamba_d_conv|conv_kernel", "4"},
    ConfigRule{"ssm.state_size", ConfigType::integer, "mamba_d_state|ssm_state_size|state_size"},
    ConfigRule{"ssm.group_count", ConfigType::integer, "mamba_n_groups|n_groups", "1"},
    ConfigRule{"ssm.time_step_rank", ConfigType::integer,
               "mamba_n_heads|mamba_num_heads|num_heads"},
    ConfigRule{"ssm.inner_size", ConfigType::integer, ""},
};
inline constexpr auto kMamba2Tensors = join(kBackboneGlobals, kBackboneNorm, kStateSpaceInMixer);

inline constexpr ModelDescription kMamba2 = {
    .name = "mamba2",
    .hf_classes = kMamba2Classes,
    .rope = RopeStyle::halves,
    .tensors = kMamba2Tensors,
    .config = kStateSpaceKeys,
    .rotary = false,
    .recurrent = Mixer::state_space,
    .recurrent_without_keys = true,
    .one_block = true,
};

}  // namespace hrun::architecture
