// ModernBERT: an encoder with norms before its blocks, rotary positions of two bases, windows in
// all but every third layer, and a gated feed-forward block whose two matrices lie in one.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kModernBertClasses[] = {
    "ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"};

inline constexpr std::array kModernBertTensors = {
    TensorRule{Role::token_embd, "token_embd.weight", "embeddings.tok_embeddings.weight",
               Dim::vocab, Dim::embd, true},
    TensorRule{Role::embd_norm, "token_embd_norm.weight", "embeddings.norm.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::output_norm, "output_norm.weight", "final_norm.weight", Dim::one, Dim::embd,
               true},
    // The first layer has no such norm.
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight", "layers.{}.attn_norm.weight", Dim::one,
               Dim::embd, false},
    TensorRule{Role::attn_qkv, "blk.{}.attn_qkv.weight", "layers.{}.attn.Wqkv.weight", Dim::qkv,
               Dim::embd, true},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight", "layers.{}.attn.Wo.weight",
               Dim::embd, Dim::q_out, true},
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight", "layers.{}.mlp_norm.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::ffn_gate_up, "blk.{}.ffn_up.weight", "layers.{}.mlp.Wi.weight", Dim::ff_twice,
               Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "layers.{}.mlp.Wo.weight", Dim::embd,
               Dim::ff, true},
    TensorRule{Role::class_dense, "cls.weight", "head.dense.weight", Dim::embd, Dim::embd, false},
    TensorRule{Role::class_norm, "cls.norm.weight", "head.norm.weight", Dim::one, Dim::embd, false},
};
inline constexpr std::array kModernBertKeys = {
    ConfigRule{"attention.sliding_window", ConfigType::integer, "local_attention", "128"},
    ConfigRule{"attention.sliding_window_pattern", ConfigType::integer,
               "global_attn_every_n_layers"},
    ConfigRule{"rope.freq_base_swa", ConfigType::number, "local_rope_theta"},
    ConfigRule{"hidden_activation", ConfigType::text, "hidden_activation"},
};
inline constexpr auto kModernBertAll = join(kModernBertTensors, kClassOutput, kClassOutputBias);

inline constexpr ModelDescription kModernBert = {
    .name = "modern-bert",
    .hf_classes = kModernBertClasses,
    .rope = RopeStyle::halves,
    .tensors = kModernBertAll,
    .config = kModernBertKeys,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::gelu_erf,
    .causal = false,
    .class_pooling = Pooling::mean,
    .class_gelu = true,
    .window_period = 3,
    .full_layer_first = true,
    .window_rope_base = 10000,
};

}  // namespace hrun::architecture
