// Falcon H1: attention and a state space model side by side on the same normed input.  The
// multipliers of the configuration are in the weights.
#pragma once

#include "model/architectures/granitehybrid.h"

namespace hrun::architecture {

inline constexpr std::string_view kFalconH1Classes[] = {"FalconH1ForCausalLM"};

inline constexpr std::array kFalconH1Globals = {
    TensorRule{Role::token_embd, "token_embd.weight", "model.embed_tokens.weight", Dim::vocab,
               Dim::embd, true},
    TensorRule{Role::output_norm, "output_norm.weight", "model.final_layernorm.weight", Dim::one,
               Dim::embd, true},
    TensorRule{Role::output, "output.weight", "lm_head.weight", Dim::vocab, Dim::embd, false},
};
inline constexpr std::array kFalconH1FeedForwardNorm = {
    // Falcon H1's files leave out the end of the name.
    TensorRule{Role::ffn_norm, "blk.{}.ffn_norm", "model.layers.{}.pre_ff_layernorm.weight",
               Dim::one, Dim::embd, true},
};
inline constexpr std::array kFalconH1FeedForward = {
    TensorRule{Role::ffn_gate, "blk.{}.ffn_gate.weight",
               "model.layers.{}.feed_forward.gate_proj.weight", Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight", "model.layers.{}.feed_forward.up_proj.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight",
               "model.layers.{}.feed_forward.down_proj.weight", Dim::embd, Dim::ff, true},
};
inline constexpr auto kFalconH1Tensors =
    join(kFalconH1Globals, kNormBeforeAttention, kAttention,
         without_required(kStateSpaceBesideNorm, Role::ssm_norm), kFalconH1FeedForwardNorm,
         kFalconH1FeedForward);

inline constexpr ModelDescription kFalconH1 = {
    .name = "falcon-h1",
    .hf_classes = kFalconH1Classes,
    .rope = RopeStyle::halves,
    .tensors = kFalconH1Tensors,
    .config = kStateSpaceKeys,
    .recurrent = Mixer::attention_and_state_space,
};

}  // namespace hrun::architecture
