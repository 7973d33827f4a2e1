// Muse Glimmer: normed embeddings, gates of the mixed values, norms before and after both blocks,
// windows in three of four layers and rotation in these layers alone.  The norms after the blocks
// have an epsilon of their own.  Heads of queries are normed and scaled: files have the scale as
// the weights of their norm.
#pragma once

#include "model/architectures/llama.h"

namespace hrun::architecture {

inline constexpr std::string_view kMuseGlimmerClasses[] = {"MuseGlimmerForConditionalGeneration"};

inline constexpr std::array kMuseGlimmerOwn = {
    TensorRule{Role::attn_q_norm, "blk.{}.attn_q_norm.weight", "", Dim::one, Dim::head, true},
    TensorRule{Role::attn_k_norm, "blk.{}.attn_k_norm.weight", "", Dim::one, Dim::head, true},
    TensorRule{Role::attn_gate, "blk.{}.attn_gate.weight",
               "model.layers.{}.self_attn.gate_proj.weight", Dim::q_out, Dim::embd, true},
};
inline constexpr std::array kMuseGlimmerLogits = {
    ConfigRule{"logit_scale", ConfigType::number, "output_multiplier", "0.19611613513818404"},
    ConfigRule{"final_logit_softcapping", ConfigType::number, "final_logit_softcapping", "20"},
};
inline constexpr auto kMuseGlimmerKeys = join(kWindowedLayerKeys, kMuseGlimmerLogits);
inline constexpr auto kMuseGlimmerTensors =
    join(kEmbeddingAndHead, kGemmaNorms, kLlamaAttention, kMuseGlimmerOwn, kFeedForward);

inline constexpr ModelDescription kMuseGlimmer = {
    .name = "muse-glimmer",
    .hf_classes = kMuseGlimmerClasses,
    .rope = RopeStyle::interleaved,
    .tensors = kMuseGlimmerTensors,
    .config = kMuseGlimmerKeys,
    .normed_embd = true,
    .window_period = 4,
    .rope_in_windows = true,
    .post_norm_eps = 1e-8,
};

}  // namespace hrun::architecture
