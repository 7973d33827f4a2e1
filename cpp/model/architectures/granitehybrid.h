// Granite 4 H: Granite with a state space model in place of most layers' attention, and dense or
// expert feed-forward blocks.  Most models have no rotation, which the file says.  Bamba has
// Granite's blocks without its scales and experts, under names of its own, and turns half of each
// head.
#pragma once

#include "model/architectures/granitemoe.h"
#include "model/architectures/mamba2.h"

namespace hrun::architecture {

inline constexpr std::string_view kGranitehybridClasses[] = {"GraniteMoeHybridForCausalLM",
                                                             "BambaForCausalLM"};

inline constexpr std::array kStateSpaceBesideNorm = {
    TensorRule{Role::ssm_in, "blk.{}.ssm_in.weight", "model.layers.{}.mamba.in_proj.weight",
               Dim::ssm_in, Dim::embd, true},
    TensorRule{Role::ssm_conv, "blk.{}.ssm_conv1d.weight", "model.layers.{}.mamba.conv1d.weight",
               Dim::ssm_conv, Dim::conv_taps, true, Transform::taps},
    TensorRule{Role::ssm_conv_bias, "blk.{}.ssm_conv1d.bias", "model.layers.{}.mamba.conv1d.bias",
               Dim::one, Dim::ssm_conv, false},
    TensorRule{Role::ssm_step_bias, "blk.{}.ssm_dt.bias", "model.layers.{}.mamba.dt_bias", Dim::one,
               Dim::ssm_heads, true},
    TensorRule{Role::ssm_rate, "blk.{}.ssm_a", "model.layers.{}.mamba.A_log", Dim::ssm_heads,
               Dim::one, true, Transform::column_minus_exp},
    TensorRule{Role::ssm_skip, "blk.{}.ssm_d", "model.layers.{}.mamba.D", Dim::ssm_heads, Dim::one,
               true, Transform::column},
    TensorRule{Role::ssm_norm, "blk.{}.ssm_norm.weight", "model.layers.{}.mamba.norm.weight",
               Dim::one, Dim::ssm_group, true, Transform::groups, Dim::ssm_groups},
    TensorRule{Role::ssm_out, "blk.{}.ssm_out.weight", "model.layers.{}.mamba.out_proj.weight",
               Dim::embd, Dim::ssm_inner, true},
};
// The feed-forward block of dense models is the shared expert of the others.
inline constexpr std::array kGranitehybridDense = {
    TensorRule{Role::ffn_gate, "blk.{}.ffn_gate.weight",
               "model.layers.{}.shared_mlp.input_linear.weight@first_half|"
               "model.layers.{}.feed_forward.gate_proj.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight",
               "model.layers.{}.shared_mlp.input_linear.weight@second_half|"
               "model.layers.{}.feed_forward.up_proj.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight",
               "model.layers.{}.shared_mlp.output_linear.weight|"
               "model.layers.{}.feed_forward.down_proj.weight",
               Dim::embd, Dim::ff, true},
};
inline constexpr std::array kGranitehybridNorms = {
    TensorRule{Role::output_norm, "output_norm.weight",
               "model.norm.weight|model.final_layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight",
               "model.layers.{}.post_attention_layernorm.weight|"
               "model.layers.{}.pre_ff_layernorm.weight",
               Dim::one, Dim::embd, true},
};
inline constexpr std::array kTurned = {
    ConfigRule{"rope.scaling.finetuned", ConfigType::boolean, "position_embedding_type"},
};
inline constexpr auto kGranitehybridKeys = join(kGranitemoeKeys, kStateSpaceKeys, kTurned);
inline constexpr auto kGranitehybridTensors = join(
    kEmbedding, kGranitehybridNorms, kHead, kRopeFactors, kNormBeforeAttention,
    only_in(kLlamaAttention, Where::attention), only_in(kStateSpaceBesideNorm, Where::recurrent),
    only_in(kGranitehybridDense, Where::dense), only_in(kGranitemoeExperts, Where::experts));

inline constexpr ModelDescription kGranitehybrid = {
    .name = "granitehybrid",
    .hf_classes = kGranitehybridClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kGranitehybridTensors,
    .config = kGranitehybridKeys,
    .divides_logits = true,
    .recurrent = Mixer::state_space,
    .recurrent_without_keys = true,
};

}  // namespace hrun::architecture
