// THE list of architectures.  Adding one is its data file and its name here.
#include <array>
#include <string>

#include "model/architectures/afmoe.h"
#include "model/architectures/apertus.h"
#include "model/architectures/arcee.h"
#include "model/architectures/bailingmoe2.h"
#include "model/architectures/bert.h"
#include "model/architectures/bitnet.h"
#include "model/architectures/chatglm.h"
#include "model/architectures/cohere2.h"
#include "model/architectures/cohere2moe.h"
#include "model/architectures/command_r.h"
#include "model/architectures/deepseek2.h"
#include "model/architectures/dots1.h"
#include "model/architectures/ernie4_5.h"
#include "model/architectures/ernie4_5_moe.h"
#include "model/architectures/exaone4.h"
#include "model/architectures/exaone_moe.h"
#include "model/architectures/falcon.h"
#include "model/architectures/falcon_h1.h"
#include "model/architectures/gemma.h"
#include "model/architectures/gemma2.h"
#include "model/architectures/gemma3.h"
#include "model/architectures/gemma3n.h"
#include "model/architectures/gemma_embedding.h"
#include "model/architectures/gemma4.h"
#include "model/architectures/glm4.h"
#include "model/architectures/glm4moe.h"
#include "model/architectures/gpt2.h"
#include "model/architectures/gpt_oss.h"
#include "model/architectures/gptneox.h"
#include "model/architectures/granite.h"
#include "model/architectures/granite_swa.h"
#include "model/architectures/granitehybrid.h"
#include "model/architectures/granitemoe.h"
#include "model/architectures/hunyuan_dense.h"
#include "model/architectures/hunyuan_moe.h"
#include "model/architectures/hy_v3.h"
#include "model/architectures/internlm2.h"
#include "model/architectures/jamba.h"
#include "model/architectures/jina_bert_v2.h"
#include "model/architectures/laguna.h"
#include "model/architectures/lfm2.h"
#include "model/architectures/lfm2moe.h"
#include "model/architectures/llama.h"
#include "model/architectures/mamba.h"
#include "model/architectures/mamba2.h"
#include "model/architectures/mimo2.h"
#include "model/architectures/minimax_m2.h"
#include "model/architectures/mistral3.h"
#include "model/architectures/modern_bert.h"
#include "model/architectures/muse_glimmer.h"
#include "model/architectures/nomic_bert.h"
#include "model/architectures/nomic_bert_moe.h"
#include "model/architectures/nemotron.h"
#include "model/architectures/nemotron_h.h"
#include "model/architectures/nemotron_h_moe.h"
#include "model/architectures/olmo.h"
#include "model/architectures/olmo2.h"
#include "model/architectures/olmoe.h"
#include "model/architectures/phi2.h"
#include "model/architectures/phi3.h"
#include "model/architectures/phimoe.h"
#include "model/architectures/qwen2.h"
#include "model/architectures/qwen2moe.h"
#include "model/architectures/qwen2vl.h"
#include "model/architectures/qwen3.h"
#include "model/architectures/qwen3moe.h"
#include "model/architectures/qwen3next.h"
#include "model/architectures/qwen35.h"
#include "model/architectures/qwen35moe.h"
#include "model/architectures/qwen3vl.h"
#include "model/architectures/qwen3vlmoe.h"
#include "model/architectures/rwkv7.h"
#include "model/architectures/seed_oss.h"
#include "model/architectures/smollm3.h"
#include "model/architectures/stablelm.h"
#include "model/architectures/starcoder2.h"

namespace hrun {
namespace {

constexpr std::array kArchitectures = {
    &architecture::kLlama,         &architecture::kQwen2,        &architecture::kQwen3,
    &architecture::kQwen2moe,      &architecture::kQwen3moe,     &architecture::kGemma2,
    &architecture::kGemma3,        &architecture::kPhi3,         &architecture::kOlmo2,
    &architecture::kGranite,       &architecture::kStarcoder2,   &architecture::kGpt2,
    &architecture::kGptOss,        &architecture::kDeepseek2,    &architecture::kCommandR,
    &architecture::kQwen35,        &architecture::kQwen35moe,    &architecture::kQwen3next,
    &architecture::kQwen2vl,       &architecture::kQwen3vl,      &architecture::kQwen3vlmoe,
    &architecture::kSeedOss,       &architecture::kGlm4,         &architecture::kGlm4moe,
    &architecture::kMinimaxM2,     &architecture::kErnie45,      &architecture::kErnie45moe,
    &architecture::kGemma,         &architecture::kSmollm3,      &architecture::kCohere2,
    &architecture::kExaone4,       &architecture::kMistral3,     &architecture::kHunyuanDense,
    &architecture::kStablelm,      &architecture::kGranitemoe,   &architecture::kOlmoe,
    &architecture::kDots1,         &architecture::kPhi2,         &architecture::kBert,
    &architecture::kNomicBert,     &architecture::kModernBert,   &architecture::kGemmaEmbedding,
    &architecture::kLfm2,          &architecture::kLfm2moe,      &architecture::kGemma4,
    &architecture::kMamba2,        &architecture::kNemotronH,    &architecture::kNemotronHMoe,
    &architecture::kGranitehybrid, &architecture::kFalconH1,     &architecture::kArcee,
    &architecture::kNemotron,      &architecture::kGptneox,      &architecture::kFalcon,
    &architecture::kInternlm2,     &architecture::kBitnet,       &architecture::kHunyuanMoe,
    &architecture::kHyV3,          &architecture::kAfmoe,        &architecture::kLaguna,
    &architecture::kExaoneMoe,     &architecture::kCohere2moe,   &architecture::kMuseGlimmer,
    &architecture::kGraniteSwa,    &architecture::kMimo2,        &architecture::kChatglm,
    &architecture::kOlmo,          &architecture::kBailingmoe2,  &architecture::kApertus,
    &architecture::kGemma3n,       &architecture::kMamba,        &architecture::kJamba,
    &architecture::kPhimoe,        &architecture::kNomicBertMoe, &architecture::kJinaBertV2,
    &architecture::kRwkv7,
};

constexpr std::array<std::string_view, static_cast<size_t>(Role::count)> kRoleNames = {
    "token_embd",
    "position_embd",
    "token_types",
    "embd_norm",
    "embd_norm_bias",
    "per_layer_embd",
    "per_layer_model_proj",
    "per_layer_norm",
    "altup_proj",
    "altup_unembd",
    "output_norm",
    "output_norm_bias",
    "output",
    "output_bias",
    "rope_freqs",
    "rope_long",
    "rope_short",
    "class_dense",
    "class_dense_bias",
    "class_norm",
    "class_output",
    "class_output_bias",
    "dense_2",
    "dense_3",
    "attn_norm",
    "attn_norm_bias",
    "attn_qkv",
    "attn_qkv_bias",
    "attn_q",
    "attn_k",
    "attn_v",
    "attn_q_bias",
    "attn_k_bias",
    "attn_v_bias",
    "attn_q_norm",
    "attn_k_norm",
    "attn_v_norm",
    "attn_sinks",
    "attn_gate",
    "attn_sub_norm",
    "attn_q_a",
    "attn_q_a_norm",
    "attn_q_b",
    "attn_kv_a",
    "attn_kv_a_norm",
    "attn_k_b",
    "attn_v_b",
    "attn_kv_b",
    "delta_qkv",
    "delta_gate",
    "delta_conv",
    "delta_step",
    "delta_beta",
    "delta_beta_step",
    "delta_step_bias",
    "delta_rate",
    "delta_norm",
    "delta_out",
    "shortconv_in",
    "shortconv_taps",
    "shortconv_out",
    "ssm_in",
    "ssm_conv",
    "ssm_conv_bias",
    "ssm_mix",
    "ssm_step",
    "ssm_step_norm",
    "ssm_b_norm",
    "ssm_c_norm",
    "ssm_step_bias",
    "ssm_rate",
    "ssm_skip",
    "ssm_norm",
    "ssm_out",
    "shift_taps",
    "wkv_shift",
    "wkv_queries",
    "wkv_keys",
    "wkv_values",
    "wkv_decay_in",
    "wkv_decay_out",
    "wkv_decay_bias",
    "wkv_rate_in",
    "wkv_rate_out",
    "wkv_rate_bias",
    "wkv_first_in",
    "wkv_first_out",
    "wkv_first_bias",
    "wkv_gate_in",
    "wkv_gate_out",
    "wkv_removed",
    "wkv_replaced",
    "wkv_bonus",
    "wkv_head_norm",
    "wkv_norm",
    "wkv_norm_bias",
    "wkv_out",
    "attn_output",
    "attn_output_bias",
    "attn_post_norm",
    "attn_post_norm_bias",
    "ffn_norm",
    "ffn_norm_bias",
    "ffn_shift",
    "ffn_gate_up",
    "ffn_gate",
    "ffn_up",
    "ffn_down",
    "ffn_gate_bias",
    "ffn_up_bias",
    "ffn_down_bias",
    "ffn_post_norm",
    "ffn_post_norm_bias",
    "ffn_sub_norm",
    "router",
    "router_bias",
    "router_correction",
    "router_scale",
    "experts_gate_up",
    "experts_gate",
    "experts_up",
    "experts_down",
    "experts_gate_bias",
    "experts_up_bias",
    "experts_down_bias",
    "experts_down_scale",
    "dense_post_norm",
    "experts_norm",
    "experts_post_norm",
    "shared_router",
    "shared_gate",
    "shared_up",
    "shared_down",
    "per_layer_gate",
    "per_layer_proj",
    "per_layer_post_norm",
    "layer_scale",
    "altup_router",
    "altup_router_norm",
    "altup_predict",
    "altup_correct",
    "altup_correct_scale",
    "laurel_left",
    "laurel_right",
    "laurel_post_norm",
};
static_assert(!kRoleNames.back().empty(), "a role without a name");

constexpr std::array<std::string_view, static_cast<size_t>(Dim::count)> kDimNames = {
    "one",
    "embd",
    "vocab",
    "ctx",
    "ff",
    "ff_twice",
    "heads",
    "kv_heads",
    "head",
    "q",
    "k",
    "v",
    "qkv",
    "q_out",
    "half_rot",
    "experts",
    "ff_expert",
    "ff_shared",
    "latent_q",
    "latent_kv",
    "latent_kv_rot",
    "latent_heads",
    "nope",
    "latent_v",
    "latent_out",
    "latent_expanded",
    "q_gated",
    "delta_qkv",
    "delta_v",
    "delta_heads",
    "delta_heads_twice",
    "delta_head",
    "conv_taps",
    "token_types",
    "classes",
    "dense",
    "embd_thrice",
    "ssm_in",
    "ssm_conv",
    "ssm_inner",
    "ssm_heads",
    "ssm_groups",
    "ssm_group",
    "ssm_state",
    "ssm_inner_twice",
    "ssm_rank",
    "ssm_mix",
    "ff_expert_twice",
    "per_layer",
    "per_layer_all",
    "gate",
    "states",
    "states_squared",
    "states_beside",
    "laurel",
    "wkv_shifts",
    "wkv_decay_rank",
    "wkv_rate_rank",
    "wkv_first_rank",
    "wkv_gate_rank",
};
static_assert(!kDimNames.back().empty(), "a dim without a name");

constexpr std::array<std::string_view, static_cast<size_t>(Transform::count)> kTransformNames = {
    "none",
    "interleave_q_heads",
    "interleave_k_heads",
    "transpose",
    "plus_one",
    "even_rows_transposed",
    "odd_rows_transposed",
    "first_half",
    "second_half",
    "first_half_transposed",
    "second_half_transposed",
    "even_values",
    "odd_values",
    "latent_keys",
    "latent_values",
    "taps",
    "tile_heads",
    "tile_last_heads",
    "tile_head_columns",
    "tile_heads_minus_exp",
    "minus_exp",
    "delta_groups_qkv",
    "delta_groups_gate",
    "after_padding",
    "column",
    "column_minus_exp",
    "groups",
    "key_groups",
    "key_groups_q",
    "key_groups_k",
    "key_groups_v",
    "first_row_beyond",
    "joined",
    "joined_transpose",
    "fourth",
};
static_assert(!kTransformNames.back().empty(), "a transform without a name");

constexpr std::array<std::string_view, static_cast<size_t>(Where::count)> kWhereNames = {
    "every", "dense", "experts", "feed", "attention", "recurrent", "mixer",
};
static_assert(!kWhereNames.back().empty(), "layers without a name");

constexpr std::array<std::string_view, static_cast<size_t>(Mixer::count)> kMixerNames = {
    "attention",   "latent_attention",    "delta_rule", "short_conv",
    "state_space", "channel_state_space", "wkv",        "attention_and_state_space",
    "none"};
static_assert(!kMixerNames.back().empty(), "a mixer without a name");

}  // namespace

std::span<const ModelDescription* const> architectures() { return kArchitectures; }

const ModelDescription* find_architecture(std::string_view name) {
  for (const ModelDescription* d : kArchitectures)
    if (d->name == name) return d;
  return nullptr;
}

std::string_view role_name(Role role) { return kRoleNames[static_cast<size_t>(role)]; }
std::string_view mixer_name(Mixer mixer) {
  return mixer == Mixer::count ? "" : kMixerNames[static_cast<size_t>(mixer)];
}
std::string_view where_name(Where where) { return kWhereNames[static_cast<size_t>(where)]; }
std::string_view dim_name(Dim dim) { return kDimNames[static_cast<size_t>(dim)]; }
std::string_view transform_name(Transform transform) {
  return kTransformNames[static_cast<size_t>(transform)];
}

std::string layer_name(std::string_view pattern, int64_t layer) {
  const size_t at = pattern.find("{}");
  if (at == std::string_view::npos) return std::string(pattern);
  return std::string(pattern.substr(0, at)) + std::to_string(layer) +
         std::string(pattern.substr(at + 2));
}

}  // namespace hrun
