// Ling 2 and Ring 2 (Bailing): GLM 4.5's blocks under other names, one matrix for q, k and v.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kBailingmoe2Classes[] = {"BailingMoeV2ForCausalLM"};

inline constexpr std::array kBailingmoe2Own = {
    TensorRule{Role::token_embd, "token_embd.weight", "model.word_embeddings.weight", Dim::vocab,
               Dim::embd, true},
    TensorRule{Role::output_norm, "output_norm.weight", "model.norm.weight", Dim::one, Dim::embd,
               true},
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
    TensorRule{Role::attn_qkv, "blk.{}.attn_qkv.weight",
               "model.layers.{}.attention.query_key_value.weight", Dim::qkv, Dim::embd, true},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "model.layers.{}.attention.dense.weight", Dim::embd, Dim::q_out, true},
    TensorRule{Role::attn_q_norm, "blk.{}.attn_q_norm.weight",
               "model.layers.{}.attention.query_layernorm.weight", Dim::one, Dim::head, true,
               Transform::none, Dim::one, Where::every, "use_qk_norm"},
    TensorRule{Role::attn_k_norm, "blk.{}.attn_k_norm.weight",
               "model.layers.{}.attention.key_layernorm.weight", Dim::one, Dim::head, true,
               Transform::none, Dim::one, Where::every, "use_qk_norm"},
};
inline constexpr std::array kBailingmoe2Correction = {
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b.bias",
               "model.layers.{}.mlp.gate.expert_bias", Dim::one, Dim::experts, false},
};
inline constexpr std::array kBailingmoe2More = {
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer, ""},
    ConfigRule{"nextn_predict_layers", ConfigType::integer, ""},
};
inline constexpr auto kBailingmoe2Keys = join(kExpertKeys, kRoutingKeys, kBailingmoe2More);
inline constexpr auto kBailingmoe2Tensors =
    join(kBailingmoe2Own, kNormBeforeAttention, kNormBeforeFeedForward,
         only_in(kFeedForward, Where::dense),
         only_in(join(kExperts, kBailingmoe2Correction, kSharedExperts), Where::experts));

inline constexpr ModelDescription kBailingmoe2 = {
    .name = "bailingmoe2",
    .hf_classes = kBailingmoe2Classes,
    .rope = RopeStyle::halves,
    .tensors = kBailingmoe2Tensors,
    .config = kBailingmoe2Keys,
    .rotary_part = 0.5,
    .gating = Gating::sigmoid,
};

}  // namespace hrun::architecture
