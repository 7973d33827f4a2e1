// The language model of Qwen 3 VL with experts: Qwen 3's (see qwen2vl.h).
#pragma once

#include "model/architectures/qwen3moe.h"
#include "model/architectures/qwen3vl.h"

namespace hrun::architecture {

inline constexpr std::string_view kQwen3vlmoeClasses[] = {"Qwen3VLMoeForConditionalGeneration"};

inline constexpr std::array kQwen3vlmoeWidths = {
    ConfigRule{"expert_feed_forward_length", ConfigType::integer, "moe_intermediate_size"},
    ConfigRule{"expert_weights_norm", ConfigType::boolean, "", "true"},
};
inline constexpr auto kQwen3vlmoeKeys = join(kExpertKeys, kQwen3vlmoeWidths, kQwen3vlKeys);
// Published checkpoints hold the experts as [inputs, outputs], the gate's before the up matrix's;
// those that transformers 5 writes, as [outputs, inputs].
inline constexpr std::array kQwen3vlmoeExperts = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight", "model.layers.{}.mlp.gate.weight",
               Dim::experts, Dim::embd, true},
    TensorRule{Role::experts_gate, "blk.{}.ffn_gate_exps.weight",
               "model.layers.{}.mlp.experts.gate_up_proj@first_half|"
               "model.layers.{}.mlp.experts.gate_up_proj|"
               "model.layers.{}.mlp.experts.{}.gate_proj.weight@none",
               Dim::ff_expert, Dim::embd, true, Transform::first_half_transposed, Dim::experts},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "model.layers.{}.mlp.experts.gate_up_proj@second_half|"
               "model.layers.{}.mlp.experts.gate_up_proj|"
               "model.layers.{}.mlp.experts.{}.up_proj.weight@none",
               Dim::ff_expert, Dim::embd, true, Transform::second_half_transposed, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "model.layers.{}.mlp.experts.down_proj@none|"
               "model.layers.{}.mlp.experts.down_proj|"
               "model.layers.{}.mlp.experts.{}.down_proj.weight@none",
               Dim::embd, Dim::ff_expert, true, Transform::transpose, Dim::experts},
};
inline constexpr auto kQwen3vlmoeTensors =
    join(kEmbeddingAndHead, kNormBeforeAttention, kAttention, kHeadNorms, kNormBeforeFeedForward,
         kQwen3vlmoeExperts);

inline constexpr ModelDescription kQwen3vlmoe = {
    .name = "qwen3vlmoe",
    .hf_classes = kQwen3vlmoeClasses,
    .rope = RopeStyle::halves,
    .tensors = kQwen3vlmoeTensors,
    .config = kQwen3vlmoeKeys,
};

}  // namespace hrun::architecture
