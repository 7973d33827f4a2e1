// Arcee's AFM: Llama whose feed-forward block is the up matrix, the squared positive part, and the
// down matrix.
#pragma once

#include "model/architectures/llama.h"

namespace hrun::architecture {

inline constexpr std::string_view kArceeClasses[] = {"ArceeForCausalLM"};

inline constexpr std::array kUpDown = {
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.mlp.up_proj.weight", Dim::ff,
               Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight", "model.layers.{}.mlp.down_proj.weight",
               Dim::embd, Dim::ff, true},
    TensorRule{Role::ffn_up_bias, "blk.{}.ffn_up.bias", "model.layers.{}.mlp.up_proj.bias",
               Dim::one, Dim::ff, false, Transform::none, Dim::one, Where::every, "mlp_bias"},
    TensorRule{Role::ffn_down_bias, "blk.{}.ffn_down.bias", "model.layers.{}.mlp.down_proj.bias",
               Dim::one, Dim::embd, false, Transform::none, Dim::one, Where::every, "mlp_bias"},
};
inline constexpr auto kArceeTensors = join(kEmbeddingAndHead, kRopeFactors, kNormBeforeAttention,
                                           kLlamaAttention, kNormBeforeFeedForward, kUpDown);

inline constexpr ModelDescription kArcee = {
    .name = "arcee",
    .hf_classes = kArceeClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kArceeTensors,
    .nonlinearity = Nonlinearity::relu_squared,
};

}  // namespace hrun::architecture
