// gpt-oss: experts with biases and a clamped gate, attention sinks, windows in every other layer,
// yarn.
//
// Checkpoints hold the experts as [inputs, outputs] with gate and up in turn, in bf16 or MXFP4.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kGptOssClasses[] = {"GptOssForCausalLM"};

inline constexpr std::array kGptOssOwn = {
    TensorRule{Role::attn_sinks, "blk.{}.attn_sinks.weight", "model.layers.{}.self_attn.sinks",
               Dim::one, Dim::heads, true},
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.router.weight",
               Dim::experts, Dim::embd, true},
    TensorRule{Role::router_bias, "blk.{}.ffn_gate_inp.bias", "model.layers.{}.mlp.router.bias",
               Dim::one, Dim::experts, true},
    TensorRule{Role::experts_gate, "blk.{}.ffn_gate_exps.weight",
               "model.layers.{}.mlp.experts.gate_up_proj", Dim::ff_expert, Dim::embd, true,
               Transform::even_rows_transposed, Dim::experts},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "model.layers.{}.mlp.experts.gate_up_proj", Dim::ff_expert, Dim::embd, true,
               Transform::odd_rows_transposed, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "model.layers.{}.mlp.experts.down_proj", Dim::embd, Dim::ff_expert, true,
               Transform::transpose, Dim::experts},
    TensorRule{Role::experts_gate_bias, "blk.{}.ffn_gate_exps.bias",
               "model.layers.{}.mlp.experts.gate_up_proj_bias", Dim::one, Dim::ff_expert, true,
               Transform::even_values, Dim::experts},
    TensorRule{Role::experts_up_bias, "blk.{}.ffn_up_exps.bias",
               "model.layers.{}.mlp.experts.gate_up_proj_bias", Dim::one, Dim::ff_expert, true,
               Transform::odd_values, Dim::experts},
    TensorRule{Role::experts_down_bias, "blk.{}.ffn_down_exps.bias",
               "model.layers.{}.mlp.experts.down_proj_bias", Dim::one, Dim::embd, true,
               Transform::none, Dim::experts},
};
inline constexpr std::array kGptOssWidths = {
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "intermediate_size"},
    ConfigRule{"rope.scaling.yarn_truncate", ConfigType::boolean, ""},
};
inline constexpr auto kGptOssTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, made_required(kQkvBiases),
         made_required(kAttentionOutputBias), kPostNormBeforeFeedForward, kGptOssOwn);
inline constexpr auto kGptOssKeys = join(kAlternatingWindowKeys, kExpertKeys, kGptOssWidths);

inline constexpr ModelDescription kGptOss = {
    .name = "gpt-oss",
    .hf_classes = kGptOssClasses,
    .rope = RopeStyle::halves,
    .tensors = kGptOssTensors,
    .config = kGptOssKeys,
    .nonlinearity = Nonlinearity::clamped_silu,
    .window_period = 2,
    .gating = Gating::softmax_of_selected,
    .experts_normed = false,
    .yarn_truncates = false,
};

}  // namespace hrun::architecture
