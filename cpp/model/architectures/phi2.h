// Phi 1.5 and 2: attention and feed-forward side by side behind one layer norm, biases everywhere,
// rotation of a part of each head, a head with a bias.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kPhi2Classes[] = {"PhiForCausalLM"};

inline constexpr std::array kPhi2Own = {
    TensorRule{Role::token_embd, "token_embd.weight", "model.embed_tokens.weight", Dim::vocab,
               Dim::embd, true},
    TensorRule{Role::output_norm, "output_norm.weight", "model.final_layernorm.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::output_norm_bias, "output_norm.bias", "model.final_layernorm.bias", Dim::one,
               Dim::embd, true},
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, true},
    TensorRule{Role::output_bias, "output.bias", "lm_head.bias", Dim::one, Dim::vocab, true},
    TensorRule{Role::attn_norm_bias, "blk.{}.attn_norm.bias",
               "model.layers.{}.input_layernorm.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::attn_output_bias, "blk.{}.attn_output.bias",
               "model.layers.{}.self_attn.dense.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "model.layers.{}.self_attn.dense.weight", Dim::embd, Dim::q_out, true},
};
inline constexpr std::array kPhi2FeedForward = {
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.fc1.weight", Dim::ff,
               Dim::embd, true},
    TensorRule{Role::ffn_up_bias, "blk.{}.ffn_up.bias", "model.layers.{}.mlp.fc1.bias", Dim::one,
               Dim::ff, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.fc2.weight",
               Dim::embd, Dim::ff, true},
    TensorRule{Role::ffn_down_bias, "blk.{}.ffn_down.bias", "model.layers.{}.mlp.fc2.bias",
               Dim::one, Dim::embd, true},
};
inline constexpr auto kPhi2Tensors = join(kNormBeforeAttention, made_required(kQkvBiases), kPhi2Own,
                                          kQueriesKeysValues, kPhi2FeedForward);

inline constexpr ModelDescription kPhi2 = {
    .name = "phi2",
    .hf_classes = kPhi2Classes,
    .rope = RopeStyle::halves,
    .tensors = kPhi2Tensors,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::gelu,
    .parallel = true,
    .rotary_part = 0.5,
};

}  // namespace hrun::architecture
