// LFM2 (and 2.5): most layers are a gated short convolution, and some are attention, as the numbers
// of heads of keys say.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kLfm2Classes[] = {"Lfm2ForCausalLM", "LFM2ForCausalLM"};

inline constexpr std::array kLfm2Globals = {
    TensorRule{Role::token_embd, "token_embd.weight", "model.embed_tokens.weight", Dim::vocab,
               Dim::embd, true},
    // The file has this name for the norm after the last layer.
    TensorRule{Role::output_norm, "token_embd_norm.weight", "model.embedding_norm.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
};
inline constexpr std::array kLfm2Layer = {
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.operator_norm.weight",
               Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight", "model.layers.{}.ffn_norm.weight",
               Dim::one, Dim::embd, true},
};
inline constexpr std::array kLfm2HeadNorms = {
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "model.layers.{}.self_attn.out_proj.weight", Dim::embd, Dim::q_out, true},
    TensorRule{Role::attn_q_norm, "blk.{}.attn_q_norm.weight",
               "model.layers.{}.self_attn.q_layernorm.weight", Dim::one, Dim::head, true},
    TensorRule{Role::attn_k_norm, "blk.{}.attn_k_norm.weight",
               "model.layers.{}.self_attn.k_layernorm.weight", Dim::one, Dim::head, true},
};
inline constexpr std::array kShortConv = {
    TensorRule{Role::shortconv_in, "blk.{}.shortconv.in_proj.weight",
               "model.layers.{}.conv.in_proj.weight", Dim::embd_thrice, Dim::embd, true},
    TensorRule{Role::shortconv_taps, "blk.{}.shortconv.conv.weight",
               "model.layers.{}.conv.conv.weight", Dim::embd, Dim::conv_taps, true,
               Transform::taps},
    TensorRule{Role::shortconv_out, "blk.{}.shortconv.out_proj.weight",
               "model.layers.{}.conv.out_proj.weight", Dim::embd, Dim::embd, true},
};
inline constexpr std::array kLfm2FeedForward = {
    TensorRule{Role::ffn_gate, "blk.{}.ffn_gate.weight", "model.layers.{}.feed_forward.w1.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.feed_forward.w3.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.feed_forward.w2.weight",
               Dim::embd, Dim::ff, true},
};
inline constexpr auto kLfm2Mixers =
    join(only_in(kQueriesKeysValues, Where::attention), only_in(kLfm2HeadNorms, Where::attention),
         only_in(kShortConv, Where::recurrent));

inline constexpr std::array kShortConvKeys = {
    ConfigRule{"shortconv.l_cache", ConfigType::integer, "conv_L_cache", "3"},
};
inline constexpr auto kLfm2Tensors = join(kLfm2Globals, kLfm2Layer, kLfm2Mixers, kLfm2FeedForward);

inline constexpr ModelDescription kLfm2 = {
    .name = "lfm2",
    .hf_classes = kLfm2Classes,
    .rope = RopeStyle::halves,
    .tensors = kLfm2Tensors,
    .config = kShortConvKeys,
    .recurrent = Mixer::short_conv,
    .recurrent_without_keys = true,
};

}  // namespace hrun::architecture
