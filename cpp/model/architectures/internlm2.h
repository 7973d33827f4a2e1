// InternLM 2 and 2.5: Llama whose checkpoints hold the queries that read a head of keys together
// with it and its values.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kInternlm2Classes[] = {"InternLM2ForCausalLM"};

inline constexpr std::array kInternlm2Tensors = {
    TensorRule{Role::token_embd, "token_embd.weight", "model.tok_embeddings.weight", Dim::vocab,
               Dim::embd, true},
    TensorRule{Role::output_norm, "output_norm.weight", "model.norm.weight", Dim::one, Dim::embd,
               true},
    TensorRule{Role::output, "output.weight", "output.weight", Dim::vocab, Dim::embd, false},
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.attention_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::attn_q, "blk.{}.attn_q.weight", "model.layers.{}.attention.wqkv.weight",
               Dim::q, Dim::embd, true, Transform::key_groups_q},
    TensorRule{Role::attn_k, "blk.{}.attn_k.weight", "model.layers.{}.attention.wqkv.weight",
               Dim::k, Dim::embd, true, Transform::key_groups_k},
    TensorRule{Role::attn_v, "blk.{}.attn_v.weight", "model.layers.{}.attention.wqkv.weight",
               Dim::v, Dim::embd, true, Transform::key_groups_v},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "model.layers.{}.attention.wo.weight", Dim::embd, Dim::q_out, true},
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight", "model.layers.{}.ffn_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_gate, "blk.{}.ffn_gate.weight", "model.layers.{}.feed_forward.w1.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.feed_forward.w3.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.feed_forward.w2.weight",
               Dim::embd, Dim::ff, true},
};

inline constexpr ModelDescription kInternlm2 = {
    .name = "internlm2",
    .hf_classes = kInternlm2Classes,
    .rope = RopeStyle::interleaved,
    .tensors = kInternlm2Tensors,
};

}  // namespace hrun::architecture
