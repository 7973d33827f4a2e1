// Qwen 3.5 (3.6, 3.8), text: three layers of the gated delta rule to one of attention, whose values
// are gated by the other half of the queries' matrix; a quarter of each head turns.
//
// The rotary embedding of these models has sections for time, height and width: with text all three
// are the position, so it is the plain one.  Layers beyond the last, which predict several tokens
// at once, stay in the file and are not run.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen35Classes[] = {"Qwen3_5ForConditionalGeneration",
                                                      "Qwen3_5ForCausalLM"};

inline constexpr std::array kQwen35Norms = {
    TensorRule{Role::output_norm, "output_norm.weight", "model.norm.weight", Dim::one, Dim::embd,
               true, Transform::plus_one},
    TensorRule{Role::attn_norm, "blk.{}.attn_norm.weight", "model.layers.{}.input_layernorm.weight",
               Dim::one, Dim::embd, true, Transform::plus_one},
    TensorRule{Role::ffn_norm, "blk.{}.post_attention_norm.weight",
               "model.layers.{}.post_attention_layernorm.weight", Dim::one, Dim::embd, true,
               Transform::plus_one},
};
inline constexpr std::array kQwen35Globals = {
    TensorRule{Role::token_embd, "token_embd.weight", "model.embed_tokens.weight", Dim::vocab,
               Dim::embd, true},
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
};
inline constexpr auto kQwen35Attention = only_in(
    join(with_rows(kAttention, Role::attn_q, Dim::q_gated),
         with_transform(kHeadNorms, Role::attn_q_norm, Role::attn_k_norm, Transform::plus_one)),
    Where::attention);

// Value heads lie in the order of the key heads that they read, 0, 1, 2, ... over and over; in
// checkpoints those of one key head lie together.
inline constexpr std::array kDeltaRule = {
    TensorRule{Role::delta_qkv, "blk.{}.attn_qkv.weight",
               "model.layers.{}.linear_attn.in_proj_qkv.weight", Dim::delta_qkv, Dim::embd, true,
               Transform::tile_last_heads},
    TensorRule{Role::delta_gate, "blk.{}.attn_gate.weight",
               "model.layers.{}.linear_attn.in_proj_z.weight", Dim::delta_v, Dim::embd, true,
               Transform::tile_heads},
    TensorRule{Role::delta_step, "blk.{}.ssm_alpha.weight",
               "model.layers.{}.linear_attn.in_proj_a.weight", Dim::delta_heads, Dim::embd, true,
               Transform::tile_heads},
    TensorRule{Role::delta_beta, "blk.{}.ssm_beta.weight",
               "model.layers.{}.linear_attn.in_proj_b.weight", Dim::delta_heads, Dim::embd, true,
               Transform::tile_heads},
    TensorRule{Role::delta_conv, "blk.{}.ssm_conv1d.weight",
               "model.layers.{}.linear_attn.conv1d.weight", Dim::delta_qkv, Dim::conv_taps, true,
               Transform::tile_last_heads},
    TensorRule{Role::delta_step_bias, "blk.{}.ssm_dt.bias", "model.layers.{}.linear_attn.dt_bias",
               Dim::one, Dim::delta_heads, true, Transform::tile_heads},
    TensorRule{Role::delta_rate, "blk.{}.ssm_a", "model.layers.{}.linear_attn.A_log", Dim::one,
               Dim::delta_heads, true, Transform::tile_heads_minus_exp},
    TensorRule{Role::delta_norm, "blk.{}.ssm_norm.weight",
               "model.layers.{}.linear_attn.norm.weight", Dim::one, Dim::delta_head, true},
    TensorRule{Role::delta_out, "blk.{}.ssm_out.weight",
               "model.layers.{}.linear_attn.out_proj.weight", Dim::embd, Dim::delta_v, true,
               Transform::tile_head_columns},
};

inline constexpr std::array kDeltaKeys = {
    ConfigRule{"ssm.conv_kernel", ConfigType::integer, "linear_conv_kernel_dim"},
    ConfigRule{"ssm.state_size", ConfigType::integer, "linear_key_head_dim"},
    ConfigRule{"ssm.group_count", ConfigType::integer, "linear_num_key_heads"},
    ConfigRule{"ssm.time_step_rank", ConfigType::integer, "linear_num_value_heads"},
    ConfigRule{"ssm.inner_size", ConfigType::integer, ""},
    ConfigRule{"full_attention_interval", ConfigType::integer, "layer_types"},
    ConfigRule{"attention.recurrent_layers", ConfigType::boolean, ""},
    ConfigRule{"nextn_predict_layers", ConfigType::integer, ""},
};
inline constexpr std::array kRopeSections = {
    ConfigRule{"rope.dimension_sections", ConfigType::integer, "mrope_section", "11,11,10"},
};
inline constexpr auto kQwen35Keys = join(kDeltaKeys, kRopeSections);

inline constexpr auto kQwen35Tensors = join(kQwen35Globals, kQwen35Norms, kQwen35Attention,
                                            only_in(kDeltaRule, Where::recurrent), kFeedForward);

inline constexpr ModelDescription kQwen35 = {
    .name = "qwen35",
    .hf_classes = kQwen35Classes,
    .rope = RopeStyle::halves,
    .tensors = kQwen35Tensors,
    .config = kQwen35Keys,
    .recurrent = Mixer::delta_rule,
    .attention_period = 4,
};

}  // namespace hrun::architecture
