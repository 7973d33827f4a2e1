// Hunyuan A13B: Hunyuan with experts in all layers and one that all tokens share.
#pragma once

#include "model/architectures/hunyuan_dense.h"

namespace hrun::architecture {

inline constexpr std::string_view kHunyuanMoeClasses[] = {"HunYuanMoEV1ForCausalLM"};

inline constexpr std::array kHunyuanRouter = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.gate.wg.weight",
               Dim::experts, Dim::embd, true},
};
inline constexpr std::array kHunyuanShared = {
    TensorRule{Role::shared_gate, "blk.{}.ffn_gate_shexp.weight",
               "model.layers.{}.mlp.shared_mlp.gate_proj.weight", Dim::ff_shared, Dim::embd, true},
    TensorRule{Role::shared_up, "blk.{}.ffn_up_shexp.weight",
               "model.layers.{}.mlp.shared_mlp.up_proj.weight", Dim::ff_shared, Dim::embd, true},
    TensorRule{Role::shared_down, "blk.{}.ffn_down_shexp.weight",
               "model.layers.{}.mlp.shared_mlp.down_proj.weight", Dim::embd, Dim::ff_shared, true},
};
inline constexpr std::array kHunyuanMoeKeys = {
    ConfigRule{"expert_count", ConfigType::integer, "num_experts"},
    ConfigRule{"expert_used_count", ConfigType::integer, "moe_topk|num_experts_per_tok"},
    ConfigRule{"expert_feed_forward_length", ConfigType::integer,
               "moe_intermediate_size|intermediate_size"},
    ConfigRule{"expert_shared_count", ConfigType::integer, "num_shared_expert", "1"},
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer, ""},
};
inline constexpr auto kHunyuanMoeTensors = join(
    kEmbeddingAndHead, kNormBeforeAttention, kAttention, asked_by(kHunyuanHeadNorms, "use_qk_norm"),
    kNormBeforeFeedForward, kHunyuanRouter, kExpertMatrices, kExpertsTogether, kHunyuanShared);

inline constexpr ModelDescription kHunyuanMoe = {
    .name = "hunyuan-moe",
    .hf_classes = kHunyuanMoeClasses,
    .rope = RopeStyle::halves,
    .tensors = kHunyuanMoeTensors,
    .config = kHunyuanMoeKeys,
    .turned_before_normed = true,
};

}  // namespace hrun::architecture
