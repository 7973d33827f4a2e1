// GPT-NeoX, Pythia, Dolly: attention and feed-forward side by side, each behind a layer norm of its
// own (in some models one after the other, which the file says), biases everywhere, rotation of a
// part of each head.  Checkpoints hold the query, key and value of a head together.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kGptneoxClasses[] = {"GPTNeoXForCausalLM"};

inline constexpr std::array kGptneoxTensors = {
    TensorRule{Role::token_embd, "token_embd.weight", "gpt_neox.embed_in.weight", Dim::vocab,
               Dim::embd, true},
    TensorRule{Role::output_norm, "output_norm.weight", "gpt_neox.final_layer_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::output_norm_bias, "output_norm.bias", "gpt_neox.final_layer_norm.bias",
               Dim::one, Dim::embd, true},
    TensorRule{Role::output, "output.weight", "embed_out.weight|lm_head.weight", Dim::vocab,
               Dim::embd, false},
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight",
               "gpt_neox.layers.{}.input_layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::attn_norm_bias, "blk.{}.attn_norm.bias",
               "gpt_neox.layers.{}.input_layernorm.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::attn_qkv, "blk.{}.attn_qkv.weight",
               "gpt_neox.layers.{}.attention.query_key_value.weight", Dim::qkv, Dim::embd, true,
               Transform::key_groups},
    TensorRule{Role::attn_qkv_bias, "blk.{}.attn_qkv.bias",
               "gpt_neox.layers.{}.attention.query_key_value.bias", Dim::one, Dim::qkv, false,
               Transform::key_groups},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "gpt_neox.layers.{}.attention.dense.weight", Dim::embd, Dim::q_out, true},
    TensorRule{Role::attn_output_bias, "blk.{}.attn_output.bias",
               "gpt_neox.layers.{}.attention.dense.bias", Dim::one, Dim::embd, false},
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight",
               "gpt_neox.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm_bias, "blk.{}.ffn_norm.bias",
               "gpt_neox.layers.{}.post_attention_layernorm.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "gpt_neox.layers.{}.mlp.dense_h_to_4h.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_up_bias, "blk.{}.ffn_up.bias", "gpt_neox.layers.{}.mlp.dense_h_to_4h.bias",
               Dim::one, Dim::ff, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight",
               "gpt_neox.layers.{}.mlp.dense_4h_to_h.weight", Dim::embd, Dim::ff, true},
    TensorRule{Role::ffn_down_bias, "blk.{}.ffn_down.bias",
               "gpt_neox.layers.{}.mlp.dense_4h_to_h.bias", Dim::one, Dim::embd, true},
};
inline constexpr std::array kGptneoxKeys = {
    ConfigRule{"use_parallel_residual", ConfigType::boolean, "use_parallel_residual", "true"},
};

inline constexpr ModelDescription kGptneox = {
    .name = "gptneox",
    .hf_classes = kGptneoxClasses,
    .rope = RopeStyle::halves,
    .tensors = kGptneoxTensors,
    .config = kGptneoxKeys,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::gelu_erf,
    .parallel = true,
    .rotary_part = 0.25,
};

}  // namespace hrun::architecture
