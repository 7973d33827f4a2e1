// Falcon 7B, 11B, 40B and 180B: attention and feed-forward side by side behind one layer norm, in
// the large ones behind two, and no biases.  Files name the second after attention.  Checkpoints
// hold the queries that read a head of keys together with it and its values.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kFalconClasses[] = {"FalconForCausalLM", "RWForCausalLM"};

inline constexpr std::array kFalconTensors = {
    TensorRule{Role::token_embd, "token_embd.weight", "transformer.word_embeddings.weight",
               Dim::vocab, Dim::embd, true},
    TensorRule{Role::output_norm, "output_norm.weight", "transformer.ln_f.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::output_norm_bias, "output_norm.bias", "transformer.ln_f.bias", Dim::one,
               Dim::embd, true},
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
    TensorRule{Role::ffn_norm, "blk.{}.attn_norm.weight",
               "transformer.h.{}.ln_mlp.weight|transformer.h.{}.input_layernorm.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::ffn_norm_bias, "blk.{}.attn_norm.bias",
               "transformer.h.{}.ln_mlp.bias|transformer.h.{}.input_layernorm.bias", Dim::one,
               Dim::embd, true},
    TensorRule{Role::attn_norm, "blk.{}.attn_norm_2.weight", "transformer.h.{}.ln_attn.weight",
               Dim::one, Dim::embd, false},
    TensorRule{Role::attn_norm_bias, "blk.{}.attn_norm_2.bias", "transformer.h.{}.ln_attn.bias",
               Dim::one, Dim::embd, false},
    TensorRule{Role::attn_qkv, "blk.{}.attn_qkv.weight",
               "transformer.h.{}.self_attention.query_key_value.weight", Dim::qkv, Dim::embd, true,
               Transform::key_groups},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "transformer.h.{}.self_attention.dense.weight", Dim::embd, Dim::q_out, true},
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "transformer.h.{}.mlp.dense_h_to_4h.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight",
               "transformer.h.{}.mlp.dense_4h_to_h.weight", Dim::embd, Dim::ff, true},
};

inline constexpr ModelDescription kFalcon = {
    .name = "falcon",
    .hf_classes = kFalconClasses,
    .rope = RopeStyle::halves,
    .tensors = kFalconTensors,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::gelu_erf,
    .parallel = true,
};

}  // namespace hrun::architecture
