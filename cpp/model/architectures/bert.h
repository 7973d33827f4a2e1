// BERT, RoBERTa, XLM-RoBERTa, DistilBERT: encoders with learned positions, biases, and norms of the
// sums after each block.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kBertClasses[] = {
    "BertModel",       "BertForMaskedLM",       "BertForSequenceClassification",
    "XLMRobertaModel", "XLMRobertaForMaskedLM", "XLMRobertaForSequenceClassification",
    "RobertaModel",    "RobertaForMaskedLM",    "RobertaForSequenceClassification",
    "CamembertModel",  "DistilBertModel",       "DistilBertForMaskedLM"};

inline constexpr std::array kBertEmbeddings = {
    TensorRule{Role::token_embd, "token_embd.weight", "embeddings.word_embeddings.weight",
               Dim::vocab, Dim::embd, true},
    TensorRule{Role::token_types, "token_types.weight", "embeddings.token_type_embeddings.weight",
               Dim::token_types, Dim::embd, false},
};
inline constexpr std::array kBertEmbeddingNorm = {
    TensorRule{Role::embd_norm, "token_embd_norm.weight", "embeddings.LayerNorm.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::embd_norm_bias, "token_embd_norm.bias", "embeddings.LayerNorm.bias", Dim::one,
               Dim::embd, true},
};
inline constexpr std::array kBertPositions = {
    TensorRule{Role::position_embd, "position_embd.weight", "embeddings.position_embeddings.weight",
               Dim::ctx, Dim::embd, true, Transform::after_padding},
};
inline constexpr std::array kBertAttention = {
    TensorRule{Role::attn_q, "blk.{}.attn_q.weight",
               "encoder.layer.{}.attention.self.query.weight|"
               "transformer.layer.{}.attention.q_lin.weight",
               Dim::q, Dim::embd, false},
    TensorRule{Role::attn_k, "blk.{}.attn_k.weight",
               "encoder.layer.{}.attention.self.key.weight|"
               "transformer.layer.{}.attention.k_lin.weight",
               Dim::k, Dim::embd, false},
    TensorRule{Role::attn_v, "blk.{}.attn_v.weight",
               "encoder.layer.{}.attention.self.value.weight|"
               "transformer.layer.{}.attention.v_lin.weight",
               Dim::v, Dim::embd, false},
    TensorRule{Role::attn_q_bias, "blk.{}.attn_q.bias",
               "encoder.layer.{}.attention.self.query.bias|"
               "transformer.layer.{}.attention.q_lin.bias",
               Dim::one, Dim::q, false},
    TensorRule{Role::attn_k_bias, "blk.{}.attn_k.bias",
               "encoder.layer.{}.attention.self.key.bias|"
               "transformer.layer.{}.attention.k_lin.bias",
               Dim::one, Dim::k, false},
    TensorRule{Role::attn_v_bias, "blk.{}.attn_v.bias",
               "encoder.layer.{}.attention.self.value.bias|"
               "transformer.layer.{}.attention.v_lin.bias",
               Dim::one, Dim::v, false},
    // Some files hold queries, keys and values in one matrix.
    TensorRule{Role::attn_qkv, "blk.{}.attn_qkv.weight", "", Dim::qkv, Dim::embd, false},
    TensorRule{Role::attn_qkv_bias, "blk.{}.attn_qkv.bias", "", Dim::one, Dim::qkv, false},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "encoder.layer.{}.attention.output.dense.weight|"
               "transformer.layer.{}.attention.out_lin.weight",
               Dim::embd, Dim::q_out, true},
    TensorRule{Role::attn_output_bias, "blk.{}.attn_output.bias",
               "encoder.layer.{}.attention.output.dense.bias|"
               "transformer.layer.{}.attention.out_lin.bias",
               Dim::one, Dim::embd, false},
    TensorRule{Role::attn_post_norm, "blk.{}.attn_output_norm.weight",
               "encoder.layer.{}.attention.output.LayerNorm.weight|"
               "transformer.layer.{}.sa_layer_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::attn_post_norm_bias, "blk.{}.attn_output_norm.bias",
               "encoder.layer.{}.attention.output.LayerNorm.bias|"
               "transformer.layer.{}.sa_layer_norm.bias",
               Dim::one, Dim::embd, true},
};
inline constexpr std::array kBertFeedForward = {
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight",
               "encoder.layer.{}.intermediate.dense.weight|"
               "transformer.layer.{}.ffn.lin1.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_up_bias, "blk.{}.ffn_up.bias",
               "encoder.layer.{}.intermediate.dense.bias|"
               "transformer.layer.{}.ffn.lin1.bias",
               Dim::one, Dim::ff, false},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight",
               "encoder.layer.{}.output.dense.weight|"
               "transformer.layer.{}.ffn.lin2.weight",
               Dim::embd, Dim::ff, true},
    TensorRule{Role::ffn_down_bias, "blk.{}.ffn_down.bias",
               "encoder.layer.{}.output.dense.bias|"
               "transformer.layer.{}.ffn.lin2.bias",
               Dim::one, Dim::embd, false},
    TensorRule{Role::ffn_post_norm, "blk.{}.layer_output_norm.weight",
               "encoder.layer.{}.output.LayerNorm.weight|"
               "transformer.layer.{}.output_layer_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm_bias, "blk.{}.layer_output_norm.bias",
               "encoder.layer.{}.output.LayerNorm.bias|"
               "transformer.layer.{}.output_layer_norm.bias",
               Dim::one, Dim::embd, true},
};
inline constexpr std::array kBertClassDense = {
    TensorRule{Role::class_dense, "cls.weight", "classifier.dense.weight|pooler.dense.weight",
               Dim::embd, Dim::embd, false},
    TensorRule{Role::class_dense_bias, "cls.bias", "classifier.dense.bias|pooler.dense.bias",
               Dim::one, Dim::embd, false},
};

inline constexpr auto kBertTensors =
    join(kBertEmbeddings, kBertEmbeddingNorm, kBertPositions, kBertAttention, kBertFeedForward,
         kBertClassDense, kClassOutput, kClassOutputBias);

inline constexpr ModelDescription kBert = {
    .name = "bert",
    .hf_classes = kBertClasses,
    .rope = RopeStyle::halves,
    .tensors = kBertTensors,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::gelu_erf,
    .causal = false,
    .norm_after_add = true,
    .rotary = false,
};

}  // namespace hrun::architecture
