// Jina's BERT (jina-embeddings-v2): no positions but the distances by which scores shrink (ALiBi),
// and a gated feed-forward block whose two matrices lie in one.
#pragma once

#include "model/architectures/bert.h"

namespace hrun::architecture {

inline constexpr std::string_view kJinaBertV2Classes[] = {"JinaBertModel", "JinaBertForMaskedLM"};

inline constexpr std::array kJinaBertV2FeedForward = {
    TensorRule{Role::ffn_gate_up, "blk.{}.ffn_up.weight",
               "encoder.layer.{}.mlp.gated_layers.weight", Dim::ff_twice, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "encoder.layer.{}.mlp.wo.weight",
               Dim::embd, Dim::ff, true},
    TensorRule{Role::ffn_down_bias, "blk.{}.ffn_down.bias", "encoder.layer.{}.mlp.wo.bias",
               Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm, "blk.{}.layer_output_norm.weight",
               "encoder.layer.{}.mlp.layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm_bias, "blk.{}.layer_output_norm.bias",
               "encoder.layer.{}.mlp.layernorm.bias", Dim::one, Dim::embd, true},
};
inline constexpr auto kJinaBertV2Tensors =
    join(kBertEmbeddings, kBertEmbeddingNorm, kBertAttention, kJinaBertV2FeedForward);

inline constexpr ModelDescription kJinaBertV2 = {
    .name = "jina-bert-v2",
    .hf_classes = kJinaBertV2Classes,
    .rope = RopeStyle::halves,
    .tensors = kJinaBertV2Tensors,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::gelu_erf,
    .causal = false,
    .norm_after_add = true,
    .rotary = false,
    .max_alibi_bias = 8,
};

}  // namespace hrun::architecture
