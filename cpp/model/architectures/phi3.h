// Phi 3, 3.5 and 4: Llama with one matrix for q, k and v and one for gate and up, rotation of a
// part of each head, longrope.
#pragma once

#include "model/architectures/parts.h"

namespace hrun::architecture {

inline constexpr std::string_view kPhi3Classes[] = {"Phi3ForCausalLM"};

inline constexpr std::array kPhi3Blocks = {
    TensorRule{Role::attn_qkv, "blk.{}.attn_qkv.weight",
               "model.layers.{}.self_attn.qkv_proj.weight", Dim::qkv, Dim::embd, true},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "model.layers.{}.self_attn.o_proj.weight", Dim::embd, Dim::q_out, true},
    TensorRule{Role::ffn_gate_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.gate_up_proj.weight",
               Dim::ff_twice, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight",
               Dim::embd, Dim::ff, true},
};
inline constexpr auto kPhi3Tensors = join(kEmbeddingAndHead, kLongropeFactors, kNormBeforeAttention,
                                          kNormBeforeFeedForward, kPhi3Blocks);

inline constexpr ModelDescription kPhi3 = {
    .name = "phi3",
    .hf_classes = kPhi3Classes,
    .rope = RopeStyle::halves,
    .tensors = kPhi3Tensors,
    .config = kWindowKeys,
};

}  // namespace hrun::architecture
