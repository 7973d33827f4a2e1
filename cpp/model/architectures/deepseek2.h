// DeepSeek V2, V2.5, V3 and R1, GLM 4.7 Flash: latent attention, one or more shared experts, dense
// leading layers.
//
// Keys and values of all heads come from one latent vector per position, which is all that the
// cache holds: the matrices that would expand it are applied to the queries and to the mixed
// latents instead (blocks/latent_attention.cpp).
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kDeepseek2Classes[] = {
    "DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM", "Glm4MoeLiteForCausalLM", "YoutuForCausalLM"};

inline constexpr std::array kLatentAttention = {
    TensorRule{Role::attn_q, "blk.{}.attn_q.weight", "model.layers.{}.self_attn.q_proj.weight",
               Dim::latent_heads, Dim::embd, false},
    TensorRule{Role::attn_q_a, "blk.{}.attn_q_a.weight",
               "model.layers.{}.self_attn.q_a_proj.weight", Dim::latent_q, Dim::embd, false},
    TensorRule{Role::attn_q_a_norm, "blk.{}.attn_q_a_norm.weight",
               "model.layers.{}.self_attn.q_a_layernorm.weight", Dim::one, Dim::latent_q, false},
    TensorRule{Role::attn_q_b, "blk.{}.attn_q_b.weight",
               "model.layers.{}.self_attn.q_b_proj.weight", Dim::latent_heads, Dim::latent_q,
               false},
    TensorRule{Role::attn_kv_a, "blk.{}.attn_kv_a_mqa.weight",
               "model.layers.{}.self_attn.kv_a_proj_with_mqa.weight", Dim::latent_kv_rot, Dim::embd,
               true},
    TensorRule{Role::attn_kv_a_norm, "blk.{}.attn_kv_a_norm.weight",
               "model.layers.{}.self_attn.kv_a_layernorm.weight", Dim::one, Dim::latent_kv, true},
    TensorRule{Role::attn_k_b, "blk.{}.attn_k_b.weight",
               "model.layers.{}.self_attn.kv_b_proj.weight", Dim::latent_kv, Dim::nope, false,
               Transform::latent_keys, Dim::heads},
    TensorRule{Role::attn_v_b, "blk.{}.attn_v_b.weight",
               "model.layers.{}.self_attn.kv_b_proj.weight", Dim::latent_v, Dim::latent_kv, false,
               Transform::latent_values, Dim::heads},
    // Keys and values in one matrix, for each head the keys first, as files had it until 2025.  The
    // matrix is taken apart when it is loaded.
    TensorRule{Role::attn_kv_b, "blk.{}.attn_kv_b.weight", "", Dim::latent_expanded, Dim::latent_kv,
               false},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "model.layers.{}.self_attn.o_proj.weight", Dim::embd, Dim::latent_out, true},
};
inline constexpr std::array kLatentKeys = {
    ConfigRule{"attention.q_lora_rank", ConfigType::integer, "q_lora_rank"},
    ConfigRule{"attention.kv_lora_rank", ConfigType::integer, "kv_lora_rank"},
    ConfigRule{"attention.key_length_mla", ConfigType::integer, ""},
    ConfigRule{"attention.value_length_mla", ConfigType::integer, "v_head_dim"},
    ConfigRule{"rope.scaling.yarn_log_multiplier", ConfigType::number, ""},
};
inline constexpr auto kDeepseek2Keys = join(kExpertKeys, kRoutingKeys, kLatentKeys);

inline constexpr auto kDeepseek2Tensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kLatentAttention, kNormBeforeFeedForward,
         kDenseThenExperts);

inline constexpr ModelDescription kDeepseek2 = {
    .name = "deepseek2",
    .hf_classes = kDeepseek2Classes,
    .rope = RopeStyle::interleaved,
    .tensors = kDeepseek2Tensors,
    .config = kDeepseek2Keys,
    .experts_normed = false,
};

}  // namespace hrun::architecture
