// Nomic's BERT: rotary positions, a gated feed-forward block, no biases in the matrices.
#pragma once

#include "model/architectures/bert.h"

namespace hrun::architecture {

inline constexpr std::string_view kNomicBertClasses[] = {"NomicBertModel"};

inline constexpr std::array kNomicBertLayers = {
    TensorRule{Role::embd_norm, "token_embd_norm.weight",
               "emb_ln.weight|embeddings.LayerNorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::embd_norm_bias, "token_embd_norm.bias",
               "emb_ln.bias|embeddings.LayerNorm.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::attn_qkv, "blk.{}.attn_qkv.weight", "encoder.layers.{}.attn.Wqkv.weight",
               Dim::qkv, Dim::embd, false},
    TensorRule{Role::attn_q, "blk.{}.attn_q.weight", "layers.{}.self_attn.q_proj.weight", Dim::q,
               Dim::embd, false},
    TensorRule{Role::attn_k, "blk.{}.attn_k.weight", "layers.{}.self_attn.k_proj.weight", Dim::k,
               Dim::embd, false},
    TensorRule{Role::attn_v, "blk.{}.attn_v.weight", "layers.{}.self_attn.v_proj.weight", Dim::v,
               Dim::embd, false},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "encoder.layers.{}.attn.out_proj.weight|layers.{}.self_attn.o_proj.weight",
               Dim::embd, Dim::q_out, true},
    TensorRule{Role::attn_post_norm, "blk.{}.attn_output_norm.weight",
               "encoder.layers.{}.norm1.weight|layers.{}.post_attention_layernorm.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::attn_post_norm_bias, "blk.{}.attn_output_norm.bias",
               "encoder.layers.{}.norm1.bias|layers.{}.post_attention_layernorm.bias", Dim::one,
               Dim::embd, true},
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight",
               "encoder.layers.{}.mlp.fc11.weight|layers.{}.mlp.up_proj.weight", Dim::ff, Dim::embd,
               true},
    TensorRule{Role::ffn_gate, "blk.{}.ffn_gate.weight",
               "encoder.layers.{}.mlp.fc12.weight|layers.{}.mlp.gate_proj.weight", Dim::ff,
               Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight",
               "encoder.layers.{}.mlp.fc2.weight|layers.{}.mlp.down_proj.weight", Dim::embd,
               Dim::ff, true},
    TensorRule{Role::ffn_post_norm, "blk.{}.layer_output_norm.weight",
               "encoder.layers.{}.norm2.weight|layers.{}.post_mlp_layernorm.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::ffn_post_norm_bias, "blk.{}.layer_output_norm.bias",
               "encoder.layers.{}.norm2.bias|layers.{}.post_mlp_layernorm.bias", Dim::one,
               Dim::embd, true},
};
inline constexpr auto kNomicBertTensors = join(kBertEmbeddings, kNomicBertLayers);

inline constexpr ModelDescription kNomicBert = {
    .name = "nomic-bert",
    .hf_classes = kNomicBertClasses,
    .rope = RopeStyle::halves,
    .tensors = kNomicBertTensors,
    .norm = Norm::layer,
    .causal = false,
    .norm_after_add = true,
};

}  // namespace hrun::architecture
