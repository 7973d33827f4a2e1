// Apertus: Llama with normed heads of queries and keys, and a feed-forward block of two matrices
// with xIELU between them, whose numbers each layer has for itself.
#pragma once

#include "model/architectures/arcee.h"

namespace hrun::architecture {

inline constexpr std::string_view kApertusClasses[] = {"ApertusForCausalLM"};

inline constexpr std::array kApertusNorms = {
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight",
               "model.layers.{}.attention_layernorm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight",
               "model.layers.{}.feedforward_layernorm.weight", Dim::one, Dim::embd, true},
};
inline constexpr auto kApertusTensors =
    join(kEmbeddingAndHead, kRopeFactors, kApertusNorms, kAttention,
         asked_by(kQkvBiases, "attention_bias"), asked_by(kAttentionOutputBias, "attention_bias"),
         kHeadNorms, kUpDown);

inline constexpr ModelDescription kApertus = {
    .name = "apertus",
    .hf_classes = kApertusClasses,
    .rope = RopeStyle::halves,
    .tensors = kApertusTensors,
    .nonlinearity = Nonlinearity::xielu,
};

}  // namespace hrun::architecture
