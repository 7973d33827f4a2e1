// An architecture as data: what a new one adds is one file under architectures/ and its name in list.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "backend/backend.h"

namespace hrun {

// What a weight is for.  Per-layer roles come after `first_layer_role`.
enum class Role : uint8_t {
  token_embd, output_norm, output, rope_freqs,
  attn_norm, attn_q, attn_k, attn_v, attn_q_bias, attn_k_bias, attn_v_bias, attn_output,
  attn_output_bias, ffn_norm, ffn_gate, ffn_up, ffn_down, ffn_gate_bias, ffn_up_bias, ffn_down_bias,
  count,
};
inline constexpr Role kFirstLayerRole = Role::attn_norm;

constexpr bool is_layer_role(Role role) { return role >= kFirstLayerRole; }

// A tensor's sizes in terms of the hyper-parameters.
enum class Dim : uint8_t { one, embd, vocab, ff, q /* heads * head_dim */, k /* kv heads * head_dim */, v, q_out /* heads * value dim */, half_rot };

// What the converter does to a Hugging Face tensor on its way into the GGUF.
enum class Transform : uint8_t {
  none,
  interleave_q_heads,  // rows of each head reordered from (i, i + d/2) pairs to (2i, 2i + 1), as llama.cpp's files have them
  interleave_k_heads,
};

struct TensorRule {
  Role role;
  std::string_view gguf_name;  // "{}" is the layer
  std::string_view hf_name;    // without ".weight"/".bias" stripped: the full parameter name; "" if Hugging Face has none
  Dim rows, cols;
  bool required;
  Transform transform = Transform::none;
};

struct ModelDescription {
  std::string_view name;                            // general.architecture
  std::span<const std::string_view> hf_classes;     // "LlamaForCausalLM", ...
  RopeStyle rope;
  std::span<const TensorRule> tensors;
};

std::span<const ModelDescription* const> architectures();
const ModelDescription* find_architecture(std::string_view name);  // null if unknown
std::string_view role_name(Role role);                             // "attn_q"
std::string layer_name(std::string_view pattern, int64_t layer);   // "blk.{}.attn_q.weight" with the layer's number

}  // namespace hrun
