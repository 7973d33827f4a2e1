// Nemotron-H: a layer is one block after one norm.  The block is a state space model, attention or
// a feed-forward block, as its sizes say.  There is no rotation.  The feed-forward block is the up
// matrix, the squared positive part, and the down matrix.
#pragma once

#include "model/architectures/mamba2.h"

namespace hrun::architecture {

inline constexpr std::string_view kNemotronHClasses[] = {"NemotronHForCausalLM"};

inline constexpr std::array kNemotronHFeedNorm = {
    TensorRule{Role::ffn_norm, "blk.{}.attn_norm.weight",
               "backbone.layers.{}.norm.weight|model.layers.{}.norm.weight", Dim::one, Dim::embd,
               true},
};
inline constexpr std::array kNemotronHAttention = {
    TensorRule{Role::attn_q, "blk.{}.attn_q.weight",
               "backbone.layers.{}.mixer.q_proj.weight|model.layers.{}.mixer.q_proj.weight", Dim::q,
               Dim::embd, true},
    TensorRule{Role::attn_k, "blk.{}.attn_k.weight",
               "backbone.layers.{}.mixer.k_proj.weight|model.layers.{}.mixer.k_proj.weight", Dim::k,
               Dim::embd, true},
    TensorRule{Role::attn_v, "blk.{}.attn_v.weight",
               "backbone.layers.{}.mixer.v_proj.weight|model.layers.{}.mixer.v_proj.weight", Dim::v,
               Dim::embd, true},
    TensorRule{Role::attn_output, "blk.{}.attn_output.weight",
               "backbone.layers.{}.mixer.o_proj.weight|model.layers.{}.mixer.o_proj.weight",
               Dim::embd, Dim::q_out, true},
};
inline constexpr std::array kNemotronHFeedForward = {
    TensorRule{Role::ffn_up, "blk.{}.ffn_up.weight",
               "backbone.layers.{}.mixer.up_proj.weight|model.layers.{}.mixer.up_proj.weight",
               Dim::ff, Dim::embd, true},
    TensorRule{Role::ffn_down, "blk.{}.ffn_down.weight",
               "backbone.layers.{}.mixer.down_proj.weight|model.layers.{}.mixer.down_proj.weight",
               Dim::embd, Dim::ff, true},
};
inline constexpr auto kNemotronHMixers =
    join(kBackboneGlobals, only_in(kBackboneNorm, Where::mixer),
         only_in(kNemotronHFeedNorm, Where::feed), only_in(kStateSpaceInMixer, Where::recurrent),
         only_in(kNemotronHAttention, Where::attention));

inline constexpr auto kNemotronHTensors =
    join(kNemotronHMixers, only_in(kNemotronHFeedForward, Where::dense));
inline constexpr std::array kNextLayers = {
    // Older files have the norms' epsilon under the name of another kind of norm.
    ConfigRule{"attention.layer_norm_epsilon", ConfigType::number, "layer_norm_epsilon", "1e-5"},
    ConfigRule{"nextn_predict_layers", ConfigType::integer, ""},
};
inline constexpr auto kNemotronHKeys = join(kStateSpaceKeys, kNextLayers);

inline constexpr ModelDescription kNemotronH = {
    .name = "nemotron_h",
    .hf_classes = kNemotronHClasses,
    .rope = RopeStyle::halves,
    .tensors = kNemotronHTensors,
    .config = kNemotronHKeys,
    .nonlinearity = Nonlinearity::relu_squared,
    .rotary = false,
    .recurrent = Mixer::state_space,
    .recurrent_without_keys = true,
    .one_block = true,
};

}  // namespace hrun::architecture
