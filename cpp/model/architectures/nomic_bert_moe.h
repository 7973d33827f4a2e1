// Nomic's BERT with experts in every second layer: GELU without gates, biases in the matrices, and
// one bias for what a layer's experts give together, which llama.cpp leaves out.
#pragma once

#include "model/architectures/bert.h"

namespace hrun::architecture {

inline constexpr std::string_view kNomicBertMoeClasses[] = {"NomicBertModel"};

inline constexpr std::array kNomicBertMoeLayers = {
    TensorRule{Role::embd_norm, "token_embd_norm.weight", "emb_ln.weight", Dim::one, Dim::embd,
               true},
    TensorRule{Role::embd_norm_bias, "token_embd_norm.bias", "emb_ln.bias", Dim::one, Dim::embd,
               true},
    TensorRule{Role::attn_qkv, "blk.{}.attn_qkv.weight", "encoder.layers.{}.attn.Wqkv.weight",
               Dim::qkv, Dim::embd, true},
    TensorRule{Role::attn_qkv_bias, "blk.{}.attn_qkv.bias", "encoder.layers.{}.attn.Wqkv.bias",
               Dim::one, Dim::qkv, false, Transform::none, Dim::one, Where::every, "qkv_proj_bias"},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "encoder.layers.{}.attn.out_proj.weight", Dim::embd, Dim::q_out, true},
    TensorRule{Role::attn_output_bias, "blk.{}.attn_output.bias",
               "encoder.layers.{}.attn.out_proj.bias", Dim::one, Dim::embd, false, Transform::none,
               Dim::one, Where::every, "qkv_proj_bias"},
    TensorRule{Role::attn_post_norm, "blk.{}.attn_output_norm.weight",
               "encoder.layers.{}.norm1.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::attn_post_norm_bias, "blk.{}.attn_output_norm.bias",
               "encoder.layers.{}.norm1.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm, "blk.{}.layer_output_norm.weight",
               "encoder.layers.{}.norm2.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_post_norm_bias, "blk.{}.layer_output_norm.bias",
               "encoder.layers.{}.norm2.bias", Dim::one, Dim::embd, true},
    TensorRule{Role::ffn_down_bias, "blk.{}.ffn_down.bias",
               "encoder.layers.{}.mlp.fc2.bias|encoder.layers.{}.mlp.experts.bias", Dim::one,
               Dim::embd, false},
};
inline constexpr std::array kNomicBertMoeDense = {
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "encoder.layers.{}.mlp.fc1.weight", Dim::ff,
               Dim::embd, true},
    TensorRule{Role::ffn_up_bias, "blk.{}.ffn_up.bias", "encoder.layers.{}.mlp.fc1.bias", Dim::one,
               Dim::ff, false},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "encoder.layers.{}.mlp.fc2.weight",
               Dim::embd, Dim::ff, true},
};
inline constexpr std::array kNomicBertMoeExperts = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight",
               "encoder.layers.{}.mlp.router.layer.weight", Dim::experts, Dim::embd, true},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "encoder.layers.{}.mlp.experts.mlp.w1", Dim::ff_expert, Dim::embd, true,
               Transform::joined, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "encoder.layers.{}.mlp.experts.mlp.w2", Dim::embd, Dim::ff_expert, true,
               Transform::joined_transpose, Dim::experts},
};
inline constexpr std::array kNomicBertMoeKeys = {
    ConfigRule{"expert_count", ConfigType::integer, "num_experts"},
    ConfigRule{"expert_used_count", ConfigType::integer, "moe_top_k"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "moe_normalize_expert_weights", "false"},
    ConfigRule{"moe_every_n_layers", ConfigType::integer, "moe_every_n_layers"},
};
inline constexpr auto kNomicBertMoeTensors =
    join(kBertEmbeddings, kNomicBertMoeLayers, only_in(kNomicBertMoeDense, Where::dense),
         only_in(kNomicBertMoeExperts, Where::experts));

inline constexpr ModelDescription kNomicBertMoe = {
    .name = "nomic-bert-moe",
    .hf_classes = kNomicBertMoeClasses,
    .rope = RopeStyle::halves,
    .tensors = kNomicBertMoeTensors,
    .config = kNomicBertMoeKeys,
    .norm = Norm::layer,
    .nonlinearity = Nonlinearity::gelu_erf,
    .causal = false,
    .norm_after_add = true,
    .experts_normed = false,
    .experts_by_router = true,
};

}  // namespace hrun::architecture
