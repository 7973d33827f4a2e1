// Llama: pre-norm decoder, grouped-query attention with rotary positions, SwiGLU; Mistral adds a
// window, Mixtral experts.
//
// GGUF stores the rows of attn_q and attn_k so that the rotated pairs are neighbours; Hugging Face
// has them half a head apart, hence the two transforms.  The llama3 rope scaling arrives as the
// tensor rope_freqs.weight.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kLlamaClasses[] = {
    "LlamaForCausalLM",     "LLaMAForCausalLM",       "MistralForCausalLM", "MixtralForCausalLM",
    "InternLM3ForCausalLM", "IQuestCoderForCausalLM", "LlamaModel",         "MistralModel"};

inline constexpr std::array kLlamaAttention = {
    TensorRule{Role::attn_q, "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight",
               Dim::q, Dim::embd, true, Transform::interleave_q_heads},
    TensorRule{Role::attn_k, "blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight",
               Dim::k, Dim::embd, true, Transform::interleave_k_heads},
    TensorRule{Role::attn_v, "blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight",
               Dim::v, Dim::embd, true},
    TensorRule{Role::attn_q_bias, "blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias",
               Dim::one, Dim::q, false, Transform::interleave_q_heads, Dim::one, Where::every,
               "attention_bias"},
    TensorRule{Role::attn_k_bias, "blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias",
               Dim::one, Dim::k, false, Transform::interleave_k_heads, Dim::one, Where::every,
               "attention_bias"},
    TensorRule{Role::attn_v_bias, "blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias",
               Dim::one, Dim::v, false, Transform::none, Dim::one, Where::every, "attention_bias"},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "model.layers.{}.self_attn.o_proj.weight", Dim::embd, Dim::q_out, true},
    TensorRule{Role::attn_output_bias, "blk.{}.attn_output.bias",
               "model.layers.{}.self_attn.o_proj.bias", Dim::one, Dim::embd, false, Transform::none,
               Dim::one, Where::every, "attention_bias"},
};

inline constexpr std::array kFeedForwardBiases = {
    TensorRule{Role::ffn_gate_bias, "blk.{}.ffn_gate.bias", "model.layers.{}.mlp.gate_proj.bias",
               Dim::one, Dim::ff, false, Transform::none, Dim::one, Where::dense, "mlp_bias"},
    TensorRule{Role::ffn_up_bias, "blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias",
               Dim::one, Dim::ff, false, Transform::none, Dim::one, Where::dense, "mlp_bias"},
    TensorRule{Role::ffn_down_bias, "blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias",
               Dim::one, Dim::embd, false, Transform::none, Dim::one, Where::dense, "mlp_bias"},
};

inline constexpr std::array kMixtralExperts = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight",
               "model.layers.{}.block_sparse_moe.gate.weight", Dim::experts, Dim::embd, true},
    TensorRule{Role::experts_gate, "blk.{}.ffn_gate_exps.weight",
               "model.layers.{}.block_sparse_moe.experts.{}.w1.weight", Dim::ff_expert, Dim::embd,
               true, Transform::none, Dim::experts},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "model.layers.{}.block_sparse_moe.experts.{}.w3.weight", Dim::ff_expert, Dim::embd,
               true, Transform::none, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "model.layers.{}.block_sparse_moe.experts.{}.w2.weight", Dim::embd, Dim::ff_expert,
               true, Transform::none, Dim::experts},
};

// The tensors of models without experts.
inline constexpr auto kDenseLlamaTensors =
    join(kEmbeddingAndHead, kRopeFactors, kNormBeforeAttention, kLlamaAttention,
         kNormBeforeFeedForward, kFeedForward, kFeedForwardBiases);
inline constexpr auto kLlamaTensors =
    join(kEmbeddingAndHead, kRopeFactors, kNormBeforeAttention, kLlamaAttention,
         kNormBeforeFeedForward, only_in(kFeedForward, Where::dense), kFeedForwardBiases,
         only_in(kMixtralExperts, Where::experts));
inline constexpr auto kLlamaKeys = join(kWindowKeys, kExpertKeys);

inline constexpr ModelDescription kLlama = {
    .name = "llama",
    .hf_classes = kLlamaClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kLlamaTensors,
    .config = kLlamaKeys,
};

}  // namespace hrun::architecture
