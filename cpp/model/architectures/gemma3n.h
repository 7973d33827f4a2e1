// Gemma 3n: a token has several hidden states, of which each layer computes one (AltUp), a learned
// residual beside attention (LAuReL), gates of which the first layers keep the largest, vectors of
// each layer for every token, and last layers that read earlier layers' keys and values.  Norms
// multiply by their weight, not by 1 + it.
#pragma once

#include "model/architectures/gemma4.h"

namespace hrun::architecture {

inline constexpr std::string_view kGemma3nClasses[] = {"Gemma3nForConditionalGeneration",
                                                       "Gemma3nForCausalLM"};

inline constexpr std::array kAltupGlobals = {
    TensorRule{Role::altup_proj, "altup_proj.weight", "model.altup_projections.{}.weight",
               Dim::embd, Dim::embd, true, Transform::none, Dim::states_beside},
    TensorRule{Role::altup_unembd, "altup_unembd_proj.weight",
               "model.altup_unembed_projections.{}.weight", Dim::embd, Dim::embd, true,
               Transform::none, Dim::states_beside},
};
inline constexpr std::array kAltup = {
    TensorRule{Role::altup_router, "blk.{}.altup_router.weight",
               "model.layers.{}.altup.modality_router.weight", Dim::states, Dim::embd, true},
    TensorRule{Role::altup_router_norm, "blk.{}.altup_router_norm.weight",
               "model.layers.{}.altup.router_norm.weight", Dim::one, Dim::embd, true},
    TensorRule{Role::altup_predict, "blk.{}.altup_predict_coef.weight",
               "model.layers.{}.altup.prediction_coefs.weight", Dim::states_squared, Dim::states,
               true},
    TensorRule{Role::altup_correct, "blk.{}.altup_correct_coef.weight",
               "model.layers.{}.altup.correction_coefs.weight", Dim::states, Dim::states, true},
    TensorRule{Role::altup_correct_scale, "blk.{}.altup_correct_scale.weight",
               "model.layers.{}.altup.correct_output_scale", Dim::one, Dim::embd, true},
};
inline constexpr std::array kLaurel = {
    TensorRule{Role::laurel_left, "blk.{}.laurel_l.weight",
               "model.layers.{}.laurel.linear_left.weight", Dim::laurel, Dim::embd, true},
    TensorRule{Role::laurel_right, "blk.{}.laurel_r.weight",
               "model.layers.{}.laurel.linear_right.weight", Dim::embd, Dim::laurel, true},
    TensorRule{Role::laurel_post_norm, "blk.{}.laurel_post_norm.weight",
               "model.layers.{}.laurel.post_laurel_norm.weight", Dim::one, Dim::embd, true},
};

inline constexpr std::array kGemma3nKeys = {
    ConfigRule{"attention.sliding_window", ConfigType::integer, "sliding_window"},
    ConfigRule{"attention.sliding_window_pattern", ConfigType::boolean, "layer_types"},
    ConfigRule{"attention.shared_kv_layers", ConfigType::integer, "num_kv_shared_layers", "0"},
    ConfigRule{"rope.freq_base_swa", ConfigType::number, "rope_local_base_freq"},
    ConfigRule{"final_logit_softcapping", ConfigType::number, "final_logit_softcapping"},
    ConfigRule{"embedding_length_per_layer_input", ConfigType::integer,
               "hidden_size_per_layer_input"},
    ConfigRule{"altup.num_inputs", ConfigType::integer, "altup_num_inputs", "4"},
    ConfigRule{"altup.active_idx", ConfigType::integer, "altup_active_idx", "0"},
    ConfigRule{"activation_sparsity_scale", ConfigType::number, "activation_sparsity_pattern"},
};
// Its table of vectors has no rows for the tokens of images and sound.
inline constexpr auto kGemma3nTensors =
    join(kEmbeddingAndHead,
         with_transform(made_required(kGemma4Globals), Role::per_layer_embd, Role::per_layer_embd,
                        Transform::first_row_beyond),
         kAltupGlobals, kNormBeforeAttention, kGemma4Attention, kAttentionOutput, kFeedForward,
         kGemma4FeedForwardNorms, made_required(kPerLayerVectors), kAltup, kLaurel);

inline constexpr ModelDescription kGemma3n = {
    .name = "gemma3n",
    .hf_classes = kGemma3nClasses,
    .rope = RopeStyle::halves,
    .tensors = kGemma3nTensors,
    .config = kGemma3nKeys,
    .nonlinearity = Nonlinearity::gelu,
    .embd_times_root = true,
    .window_period = 5,
    .window_rope_base = 10000,
    .attn_scale = 1,
    .normed_values = true,
};

}  // namespace hrun::architecture
