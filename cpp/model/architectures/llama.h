// Llama: pre-norm decoder, grouped-query attention with rotary positions, SwiGLU.
//
// GGUF stores the rows of attn_q and attn_k so that the rotated pairs are neighbours; Hugging Face has them half a head
// apart, hence the two transforms.  The llama3 rope scaling arrives as the tensor rope_freqs.weight.
#pragma once

#include "model/description.h"

namespace hrun::architecture {

inline constexpr std::string_view kLlamaClasses[] = {"LlamaForCausalLM"};

inline constexpr TensorRule kLlamaTensors[] = {
    {Role::token_embd, "token_embd.weight", "model.embed_tokens.weight", Dim::vocab, Dim::embd, true},
    {Role::output_norm, "output_norm.weight", "model.norm.weight", Dim::one, Dim::embd, true},
    {Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
    {Role::rope_freqs, "rope_freqs.weight", "", Dim::one, Dim::half_rot, false},

    {Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight", Dim::one, Dim::embd, true},
    {Role::attn_q, "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight", Dim::q, Dim::embd, true,
     Transform::interleave_q_heads},
    {Role::attn_k, "blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight", Dim::k, Dim::embd, true,
     Transform::interleave_k_heads},
    {Role::attn_v, "blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight", Dim::v, Dim::embd, true},
    {Role::attn_q_bias, "blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias", Dim::one, Dim::q, false,
     Transform::interleave_q_heads},
    {Role::attn_k_bias, "blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias", Dim::one, Dim::k, false,
     Transform::interleave_k_heads},
    {Role::attn_v_bias, "blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias", Dim::one, Dim::v, false},
    {Role::attn_output, "blk.{}.attn_output.weight", "model.layers.{}.self_attn.o_proj.weight", Dim::embd, Dim::q_out, true},
    {Role::attn_output_bias, "blk.{}.attn_output.bias", "model.layers.{}.self_attn.o_proj.bias", Dim::one, Dim::embd, false},

    {Role::ffn_norm, "blk.{}.ffn_norm.weight", "model.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true},
    {Role::ffn_gate, "blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight", Dim::ff, Dim::embd, true},
    {Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight", Dim::ff, Dim::embd, true},
    {Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight", Dim::embd, Dim::ff, true},
    {Role::ffn_gate_bias, "blk.{}.ffn_gate.bias", "model.layers.{}.mlp.gate_proj.bias", Dim::one, Dim::ff, false},
    {Role::ffn_up_bias, "blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias", Dim::one, Dim::ff, false},
    {Role::ffn_down_bias, "blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias", Dim::one, Dim::embd, false},
};

inline constexpr ModelDescription kLlama = {"llama", kLlamaClasses, RopeStyle::interleaved, kLlamaTensors};

}  // namespace hrun::architecture
