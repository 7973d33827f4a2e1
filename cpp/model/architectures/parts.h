// Groups of tensors that several architectures share.  An architecture is a join of such groups and
// its own.
#pragma once

#include <array>

#include "model/description.h"

namespace hrun::architecture {

template <class Rule, size_t... n>
constexpr auto join(const std::array<Rule, n>&... parts) {
  std::array<Rule, (n + ...)> out{};
  size_t at = 0;
  const auto append = [&](const auto& part) {
    for (const Rule& rule : part) out[at++] = rule;
  };
  (append(parts), ...);
  return out;
}

// The rules with another transform for the roles from `first` to `last`.
template <size_t n>
constexpr auto with_transform(std::array<TensorRule, n> rules, Role first, Role last,
                              Transform transform) {
  for (TensorRule& rule : rules)
    if (rule.role >= first && rule.role <= last) rule.transform = transform;
  return rules;
}

// The rules with another number of rows for one role.
template <size_t n>
constexpr auto with_rows(std::array<TensorRule, n> rules, Role role, Dim rows) {
  for (TensorRule& rule : rules)
    if (rule.role == role) rule.rows = rows;
  return rules;
}

template <size_t n>
constexpr auto made_required(std::array<TensorRule, n> rules) {
  for (TensorRule& rule : rules) rule.required = true;
  return rules;
}

template <size_t n>
constexpr auto made_optional(std::array<TensorRule, n> rules) {
  for (TensorRule& rule : rules) rule.required = false;
  return rules;
}

// The rules with one role made optional.
template <size_t n>
constexpr auto without_required(std::array<TensorRule, n> rules, Role role) {
  for (TensorRule& rule : rules)
    if (rule.role == role) rule.required = false;
  return rules;
}

// The rules with another boolean of config.json, which says whether the model has them.
template <size_t n>
constexpr auto asked_by(std::array<TensorRule, n> rules, std::string_view hf_if) {
  for (TensorRule& rule : rules) rule.hf_if = hf_if;
  return rules;
}

template <size_t n>
constexpr auto only_in(std::array<TensorRule, n> rules, Where where) {
  for (TensorRule& rule : rules) rule.where = where;
  return rules;
}

inline constexpr std::array kEmbedding = {
    TensorRule{Role::token_embd, "token_embd.weight", "model.embed_tokens.weight", Dim::vocab,
               Dim::embd, true},
};
inline constexpr std::array kOutputNorm = {
    TensorRule{Role::output_norm, "output_norm.weight", "model.norm.weight", Dim::one, Dim::embd,
               true},
};
inline constexpr std::array kHead = {
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
};
inline constexpr auto kEmbeddingAndHead = join(kEmbedding, kOutputNorm, kHead);

// The llama3 scaling of the rotary frequencies.
inline constexpr std::array kRopeFactors = {
    TensorRule{Role::rope_freqs, "rope_freqs.weight", "", Dim::one, Dim::half_rot, false},
};
inline constexpr std::array kLongropeFactors = {
    TensorRule{Role::rope_long, "rope_factors_long.weight", "", Dim::one, Dim::half_rot, false},
    TensorRule{Role::rope_short, "rope_factors_short.weight", "", Dim::one, Dim::half_rot, false},
};

inline constexpr std::array kNormBeforeAttention = {
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight",
               Dim::one, Dim::embd, true},
};
inline constexpr std::array kNormBeforeFeedForward = {
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight",
               "model.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true},
};

// Norms before and after both blocks that multiply by 1 + weight.
inline constexpr std::array kGemmaNorms = {
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight",
               Dim::one, Dim::embd, true, Transform::plus_one},
    TensorRule{Role::attn_post_norm, "blk.{}.post_attention_norm.weight",
               "model.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true,
               Transform::plus_one},
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm.weight",
               "model.layers.{}.pre_feedforward_layernorm.weight", Dim::one, Dim::embd, true,
               Transform::plus_one},
    TensorRule{Role::ffn_post_norm, "blk.{}.post_ffw_norm.weight",
               "model.layers.{}.post_feedforward_layernorm.weight", Dim::one, Dim::embd, true,
               Transform::plus_one},
};

// The same norm under the name that some of llama.cpp's files have for it.
inline constexpr std::array kPostNormBeforeFeedForward = {
    TensorRule{Role::ffn_norm, "blk.{}.post_attention_norm.weight",
               "model.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true},
};

// The biases of layer norms before both blocks and after the last layer.
inline constexpr std::array kLayerNormBiases = {
    TensorRule{Role::output_norm_bias, "output_norm.bias", "model.norm.bias", Dim::one, Dim::embd,
               true},
    TensorRule{Role::attn_norm_bias, "blk.{}.attn_norm.bias",
               "model.layers.{}.input_layernorm.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_norm_bias, "blk.{}.ffn_norm.bias",
               "model.layers.{}.post_attention_layernorm.bias", Dim::one, Dim::embd, true},
};

inline constexpr std::array kQueriesKeysValues = {
    TensorRule{Role::attn_q, "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight",
               Dim::q, Dim::embd, true},
    TensorRule{Role::attn_k, "blk.{}.attn_k.weight", "model.layers.{}.self_attn.k_proj.weight",
               Dim::k, Dim::embd, true},
    TensorRule{Role::attn_v, "blk.{}.attn_v.weight", "model.layers.{}.self_attn.v_proj.weight",
               Dim::v, Dim::embd, true},
};
inline constexpr std::array kAttentionOutput = {
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "model.layers.{}.self_attn.o_proj.weight", Dim::embd, Dim::q_out, true},
};
inline constexpr auto kAttention = join(kQueriesKeysValues, kAttentionOutput);
inline constexpr std::array kQkvBiases = {
    TensorRule{Role::attn_q_bias, "blk.{}.attn_q.bias", "model.layers.{}.self_attn.q_proj.bias",
               Dim::one, Dim::q, false},
    TensorRule{Role::attn_k_bias, "blk.{}.attn_k.bias", "model.layers.{}.self_attn.k_proj.bias",
               Dim::one, Dim::k, false},
    TensorRule{Role::attn_v_bias, "blk.{}.attn_v.bias", "model.layers.{}.self_attn.v_proj.bias",
               Dim::one, Dim::v, false},
};
inline constexpr std::array kAttentionOutputBias = {
    TensorRule{Role::attn_output_bias, "blk.{}.attn_output.bias",
               "model.layers.{}.self_attn.o_proj.bias", Dim::one, Dim::embd, false},
};
// The norms of the heads of queries and keys, applied before they are turned.
inline constexpr std::array kHeadNorms = {
    TensorRule{Role::attn_q_norm, "blk.{}.attn_q_norm.weight",
               "model.layers.{}.self_attn.q_norm.weight", Dim::one, Dim::head, true},
    TensorRule{Role::attn_k_norm, "blk.{}.attn_k_norm.weight",
               "model.layers.{}.self_attn.k_norm.weight", Dim::one, Dim::head, true},
};

inline constexpr std::array kFeedForward = {
    TensorRule{Role::ffn_gate, "blk.{}.ffn_gate.weight", "model.layers.{}.mlp.gate_proj.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight", Dim::ff,
               Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight",
               Dim::embd, Dim::ff, true},
};

// The tensors of experts as Qwen and DeepSeek name them, one by one or all in one tensor.
inline constexpr std::array kExpertRouter = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.gate.weight",
               Dim::experts, Dim::embd, true},
};
inline constexpr std::array kExpertMatrices = {
    TensorRule{Role::experts_gate, "blk.{}.ffn_gate_exps.weight",
               "model.layers.{}.mlp.experts.{}.gate_proj.weight|"
               "model.layers.{}.mlp.experts.gate_up_proj@first_half",
               Dim::ff_expert, Dim::embd, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "model.layers.{}.mlp.experts.{}.up_proj.weight|"
               "model.layers.{}.mlp.experts.gate_up_proj@second_half",
               Dim::ff_expert, Dim::embd, true, Transform::none, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "model.layers.{}.mlp.experts.{}.down_proj.weight|"
               "model.layers.{}.mlp.experts.down_proj",
               Dim::embd, Dim::ff_expert, true, Transform::none, Dim::experts},
};

// Some files hold the gates and the values of an expert in one matrix.
inline constexpr std::array kExpertsTogether = {
    TensorRule{Role::experts_gate_up, "blk.{}.ffn_gate_up_exps.weight", "", Dim::ff_expert_twice,
               Dim::embd, false, Transform::none, Dim::experts},
};
inline constexpr auto kExperts = join(kExpertRouter, kExpertMatrices, kExpertsTogether);

// DeepSeek and the models after it have two things beside the experts: a correction of the scores
// by which experts are chosen, and experts that all tokens share.
inline constexpr std::array kScoreCorrection = {
    TensorRule{Role::router_correction, "blk.{}.exp_probs_b.bias",
               "model.layers.{}.mlp.gate.e_score_correction_bias", Dim::one, Dim::experts, false},
};
inline constexpr std::array kSharedExperts = {
    TensorRule{Role::shared_gate, "blk.{}.ffn_gate_shexp.weight",
               "model.layers.{}.mlp.shared_experts.gate_proj.weight", Dim::ff_shared, Dim::embd,
               true},
    TensorRule{Role::shared_up, "blk.{}.ffn_up_shexp.weight",
               "model.layers.{}.mlp.shared_experts.up_proj.weight", Dim::ff_shared, Dim::embd,
               true},
    TensorRule{Role::shared_down, "blk.{}.ffn_down_shexp.weight",
               "model.layers.{}.mlp.shared_experts.down_proj.weight", Dim::embd, Dim::ff_shared,
               true},
};

// Both kinds of feed-forward block, where the leading layers are dense and the experts are like
// DeepSeek's.
inline constexpr auto kDenseThenExperts =
    join(only_in(kFeedForward, Where::dense),
         only_in(join(kExperts, kScoreCorrection, kSharedExperts), Where::experts));

// The matrix that makes scores of a text's vector, in a model that scores texts.
inline constexpr std::array kClassOutput = {
    TensorRule{Role::class_output, "cls.output.weight",
               "score.weight|classifier.out_proj.weight|classifier.weight", Dim::classes, Dim::embd,
               false},
};
inline constexpr std::array kClassOutputBias = {
    TensorRule{Role::class_output_bias, "cls.output.bias",
               "classifier.out_proj.bias|classifier.bias", Dim::one, Dim::classes, false},
};

inline constexpr std::array kExpertKeys = {
    ConfigRule{"expert_count", ConfigType::integer,
               "num_local_experts|num_experts|n_routed_experts"},
    ConfigRule{"expert_used_count", ConfigType::integer, "num_experts_per_tok"},
};

// The width of an expert, and what makes weights of the router's scores.
inline constexpr std::array kExpertBlockKeys = {
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "moe_intermediate_size"},
    ConfigRule{"expert_gating_func", ConfigType::integer, "scoring_func"},
};

// The keys that say how experts are chosen and weighted, in models whose config.json has
// DeepSeek's.
inline constexpr std::array kDeepseekRouting = {
    ConfigRule{"leading_dense_block_count", ConfigType::integer,
               "first_k_dense_replace|mlp_layer_types", "0"},
    ConfigRule{"expert_shared_count", ConfigType::integer, "n_shared_experts|num_shared_experts"},
    ConfigRule{"expert_weights_scale", ConfigType::number, "routed_scaling_factor", "1"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "norm_topk_prob", "false"},
    ConfigRule{"expert_group_count", ConfigType::integer, "n_group"},
    ConfigRule{"expert_group_used_count", ConfigType::integer, "topk_group"},
};
inline constexpr auto kRoutingKeys = join(kExpertBlockKeys, kDeepseekRouting);

inline constexpr std::array kWindowKeys = {
    ConfigRule{"attention.sliding_window", ConfigType::integer, "sliding_window"},
};
// The keys that say one by one which layers have a window.
inline constexpr std::array kWindowedLayerKeys = {
    ConfigRule{"attention.sliding_window", ConfigType::integer, "sliding_window"},
    ConfigRule{"attention.sliding_window_pattern", ConfigType::boolean, "layer_types"},
};
inline constexpr std::array kAlternatingWindowKeys = {
    ConfigRule{"attention.sliding_window", ConfigType::integer, "sliding_window"},
    ConfigRule{"attention.sliding_window_pattern", ConfigType::integer,
               "layer_types|sliding_window_pattern|_sliding_window_pattern"},
};

}  // namespace hrun::architecture
