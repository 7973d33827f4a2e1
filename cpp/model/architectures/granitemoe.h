// Granite 3 with experts, and with one that all tokens share: Granite's scales and attention.
#pragma once

#include "model/architectures/granite.h"

namespace hrun::architecture {

inline constexpr std::string_view kGranitemoeClasses[] = {"GraniteMoeForCausalLM",
                                                          "GraniteMoeSharedForCausalLM"};

// Checkpoints hold the gate's and the up matrix's rows in one tensor.
inline constexpr std::array kGranitemoeApart = {
    TensorRule{Role::router, "blk.{}.ffn_gate_inp.weight",
               "model.layers.{}.block_sparse_moe.router.layer.weight", Dim::experts, Dim::embd,
               true},
    TensorRule{Role::experts_gate, "blk.{}.ffn_gate_exps.weight",
               "model.layers.{}.block_sparse_moe.input_linear.weight", Dim::ff_expert, Dim::embd,
               true, Transform::first_half, Dim::experts},
    TensorRule{Role::experts_up, "blk.{}.ffn_up_exps.weight",
               "model.layers.{}.block_sparse_moe.input_linear.weight", Dim::ff_expert, Dim::embd,
               true, Transform::second_half, Dim::experts},
    TensorRule{Role::experts_down, "blk.{}.ffn_down_exps.weight",
               "model.layers.{}.block_sparse_moe.output_linear.weight", Dim::embd, Dim::ff_expert,
               true, Transform::none, Dim::experts},
    TensorRule{Role::shared_gate, "blk.{}.ffn_gate_shexp.weight",
               "model.layers.{}.shared_mlp.input_linear.weight", Dim::ff_shared, Dim::embd, false,
               Transform::first_half},
    TensorRule{Role::shared_up, "blk.{}.ffn_up_shexp.weight",
               "model.layers.{}.shared_mlp.input_linear.weight", Dim::ff_shared, Dim::embd, false,
               Transform::second_half},
    TensorRule{Role::shared_down, "blk.{}.ffn_down_shexp.weight",
               "model.layers.{}.shared_mlp.output_linear.weight", Dim::embd, Dim::ff_shared, false},
};
inline constexpr auto kGranitemoeExperts = join(kGranitemoeApart, kExpertsTogether);
inline constexpr std::array kGranitemoeWidths = {
    ConfigRule{"expert_shared_feed_forward_length", ConfigType::integer, "shared_intermediate_size",
               "0"},
};
inline constexpr auto kGranitemoeKeys = join(kGraniteKeys, kExpertKeys, kGranitemoeWidths);
inline constexpr auto kGranitemoeTensors =
    join(kEmbeddingAndHead, kRopeFactors, kNormBeforeAttention, kLlamaAttention,
         kNormBeforeFeedForward, kGranitemoeExperts);

inline constexpr ModelDescription kGranitemoe = {
    .name = "granitemoe",
    .hf_classes = kGranitemoeClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kGranitemoeTensors,
    .config = kGranitemoeKeys,
    .divides_logits = true,
};

}  // namespace hrun::architecture
