// RWKV 7: layer norms with biases, a recurrence with a matrix for each head (blocks/wkv.h), and a
// feed-forward block that sees the token before.
//
// Names of checkpoints are those of flash-linear-attention.  The first layer has no part of the
// first layer's values, but llama.cpp's files have tensors in their places.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kRwkv7Classes[] = {"RWKV7ForCausalLM", "Rwkv7ForCausalLM"};

inline constexpr std::array kRwkv7Globals = {
    TensorRule{Role::token_embd, "token_embd.weight", "model.embeddings.weight", Dim::vocab,
               Dim::embd, true},
    TensorRule{Role::embd_norm, "token_embd_norm.weight", "model.layers.0.pre_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::embd_norm_bias, "token_embd_norm.bias", "model.layers.0.pre_norm.bias",
               Dim::one, Dim::embd, true},
};
inline constexpr std::array kRwkv7Norms = {
    TensorRule{Role::output_norm_bias, "output_norm.bias", "model.norm.bias", Dim::one, Dim::embd,
               true},
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.attn_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::attn_norm_bias, "blk.{}.attn_norm.bias", "model.layers.{}.attn_norm.bias",
               Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm, "blk.{}.attn_norm_2.weight", "model.layers.{}.ffn_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm_bias, "blk.{}.attn_norm_2.bias", "model.layers.{}.ffn_norm.bias",
               Dim::one, Dim::embd, true},
};
inline constexpr std::array kRwkv7Mixer = {
    TensorRule{Role::wkv_shift, "blk.{}.time_mix_lerp_fused.weight", "model.layers.{}.attn.x_{}",
               Dim::one, Dim::embd, true, Transform::fourth, Dim::wkv_shifts},
    TensorRule{Role::wkv_queries, "blk.{}.time_mix_receptance.weight",
               "model.layers.{}.attn.r_proj.weight", Dim::embd, Dim::embd, true},
    TensorRule{Role::wkv_keys, "blk.{}.time_mix_key.weight", "model.layers.{}.attn.k_proj.weight",
               Dim::embd, Dim::embd, true},
    TensorRule{Role::wkv_values, "blk.{}.time_mix_value.weight",
               "model.layers.{}.attn.v_proj.weight", Dim::embd, Dim::embd, true},
    TensorRule{Role::wkv_decay_in, "blk.{}.time_mix_w1.weight",
               "model.layers.{}.attn.w_lora.lora.0.weight", Dim::wkv_decay_rank, Dim::embd, true},
    TensorRule{Role::wkv_decay_out, "blk.{}.time_mix_w2.weight",
               "model.layers.{}.attn.w_lora.lora.2.weight", Dim::embd, Dim::wkv_decay_rank, true},
    TensorRule{Role::wkv_decay_bias, "blk.{}.time_mix_w0.weight",
               "model.layers.{}.attn.w_lora.lora.2.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::wkv_rate_in, "blk.{}.time_mix_a1.weight",
               "model.layers.{}.attn.a_lora.lora.0.weight", Dim::wkv_rate_rank, Dim::embd, true},
    TensorRule{Role::wkv_rate_out, "blk.{}.time_mix_a2.weight",
               "model.layers.{}.attn.a_lora.lora.2.weight", Dim::embd, Dim::wkv_rate_rank, true},
    TensorRule{Role::wkv_rate_bias, "blk.{}.time_mix_a0.weight",
               "model.layers.{}.attn.a_lora.lora.2.bias", Dim::one, Dim::embd, true},
    TensorRule{
        Role::wkv_first_in, "blk.{}.time_mix_v1.weight",
        "model.layers.{}.attn.v_lora.lora.0.weight|model.layers.{}.attn.a_lora.lora.0.weight",
        Dim::wkv_first_rank, Dim::embd, true},
    TensorRule{
        Role::wkv_first_out, "blk.{}.time_mix_v2.weight",
        "model.layers.{}.attn.v_lora.lora.2.weight|model.layers.{}.attn.a_lora.lora.2.weight",
        Dim::embd, Dim::wkv_first_rank, true},
    TensorRule{Role::wkv_first_bias, "blk.{}.time_mix_v0.weight",
               "model.layers.{}.attn.v_lora.lora.2.bias|model.layers.{}.attn.a_lora.lora.2.bias",
               Dim::one, Dim::embd, true},
    TensorRule{Role::wkv_gate_in, "blk.{}.time_mix_g1.weight",
               "model.layers.{}.attn.g_lora.lora.0.weight", Dim::wkv_gate_rank, Dim::embd, true},
    TensorRule{Role::wkv_gate_out, "blk.{}.time_mix_g2.weight",
               "model.layers.{}.attn.g_lora.lora.2.weight", Dim::embd, Dim::wkv_gate_rank, true},
    TensorRule{Role::wkv_removed, "blk.{}.time_mix_k_k.weight", "model.layers.{}.attn.k_k",
               Dim::one, Dim::embd, true},
    TensorRule{Role::wkv_replaced, "blk.{}.time_mix_k_a.weight", "model.layers.{}.attn.k_a",
               Dim::one, Dim::embd, true},
    TensorRule{Role::wkv_bonus, "blk.{}.time_mix_r_k.weight", "model.layers.{}.attn.r_k", Dim::one,
               Dim::embd, true},
    TensorRule{Role::wkv_norm, "blk.{}.time_mix_ln.weight", "model.layers.{}.attn.g_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::wkv_norm_bias, "blk.{}.time_mix_ln.bias", "model.layers.{}.attn.g_norm.bias",
               Dim::one, Dim::embd, true},
    TensorRule{Role::wkv_out, "blk.{}.time_mix_output.weight", "model.layers.{}.attn.o_proj.weight",
               Dim::embd, Dim::embd, true},
};
inline constexpr std::array kRwkv7FeedForward = {
    TensorRule{Role::ffn_shift, "blk.{}.channel_mix_lerp_k.weight", "model.layers.{}.ffn.x_k",
               Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_up, "blk.{}.channel_mix_key.weight", "model.layers.{}.ffn.key.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.channel_mix_value.weight",
               "model.layers.{}.ffn.value.weight", Dim::embd, Dim::ff, true},
};
inline constexpr std::array kRwkv7Keys = {
    ConfigRule{"wkv.head_size", ConfigType::integer, "head_dim", "64"},
    // The tensors of a checkpoint say these.
    ConfigRule{"attention.decay_lora_rank", ConfigType::integer, ""},
    ConfigRule{"attention.iclr_lora_rank", ConfigType::integer, ""},
    ConfigRule{"attention.value_residual_mix_lora_rank", ConfigType::integer, ""},
    ConfigRule{"attention.gate_lora_rank", ConfigType::integer, ""},
};
inline constexpr auto kRwkv7Tensors =
    join(kRwkv7Globals, kOutputNorm, kHead, kRwkv7Norms, kRwkv7Mixer, kRwkv7FeedForward);

inline constexpr ModelDescription kRwkv7 = {
    .name = "rwkv7",
    .hf_classes = kRwkv7Classes,
    .rope = RopeStyle::halves,
    .tensors = kRwkv7Tensors,
    .config = kRwkv7Keys,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::relu_squared,
    .rotary = false,
    .recurrent = Mixer::wkv,
    .recurrent_without_keys = true,
};

}  // namespace hrun::architecture
