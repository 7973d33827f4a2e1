// GPT-2: learned positions, layer norms, biases, a feed-forward block of two matrices with GELU.
//
// Checkpoints hold the matrices as [inputs, outputs].
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kGpt2Classes[] = {"GPT2LMHeadModel"};

inline constexpr std::array kGpt2Tensors = {
    TensorRule{Role::token_embd, "token_embd.weight", "transformer.wte.weight|wte.weight",
               Dim::vocab, Dim::embd, true},
    TensorRule{Role::position_embd, "position_embd.weight", "transformer.wpe.weight|wpe.weight",
               Dim::ctx, Dim::embd, true},
    TensorRule{Role::output_norm, "output_norm.weight", "transformer.ln_f.weight|ln_f.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::output_norm_bias, "output_norm.bias", "transformer.ln_f.bias|ln_f.bias",
               Dim::one, Dim::embd, true},
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight",
               "transformer.h.{}.ln_1.weight|h.{}.ln_1.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::attn_norm_bias, "blk.{}.attn_norm.bias",
               "transformer.h.{}.ln_1.bias|h.{}.ln_1.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::attn_qkv, "blk.{}.attn_qkv.weight",
               "transformer.h.{}.attn.c_attn.weight|h.{}.attn.c_attn.weight", Dim::qkv, Dim::embd,
               true, Transform::transpose},
    TensorRule{Role::attn_qkv_bias, "blk.{}.attn_qkv.bias",
               "transformer.h.{}.attn.c_attn.bias|h.{}.attn.c_attn.bias", Dim::one, Dim::qkv, true},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "transformer.h.{}.attn.c_proj.weight|h.{}.attn.c_proj.weight", Dim::embd, Dim::q_out,
               true, Transform::transpose},
    TensorRule{Role::attn_output_bias, "blk.{}.attn_output.bias",
               "transformer.h.{}.attn.c_proj.bias|h.{}.attn.c_proj.bias", Dim::one, Dim::embd,
               true},
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight",
               "transformer.h.{}.ln_2.weight|h.{}.ln_2.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm_bias, "blk.{}.ffn_norm.bias",
               "transformer.h.{}.ln_2.bias|h.{}.ln_2.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight",
               "transformer.h.{}.mlp.c_fc.weight|h.{}.mlp.c_fc.weight", Dim::ff, Dim::embd, true,
               Transform::transpose},
    TensorRule{Role::ffn_up_bias, "blk.{}.ffn_up.bias",
               "transformer.h.{}.mlp.c_fc.bias|h.{}.mlp.c_fc.bias", Dim::one, Dim::ff, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight",
               "transformer.h.{}.mlp.c_proj.weight|h.{}.mlp.c_proj.weight", Dim::embd, Dim::ff,
               true, Transform::transpose},
    TensorRule{Role::ffn_down_bias, "blk.{}.ffn_down.bias",
               "transformer.h.{}.mlp.c_proj.bias|h.{}.mlp.c_proj.bias", Dim::one, Dim::embd, true},
};

inline constexpr ModelDescription kGpt2 = {
    .name = "gpt2",
    .hf_classes = kGpt2Classes,
    .rope = RopeStyle::halves,
    .tensors = kGpt2Tensors,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::gelu,
    .rotary = false,
};

}  // namespace hrun::architecture
