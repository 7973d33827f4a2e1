// From a checked container to a checked model: hyper-parameters, tensors by role, tokenizer.
//
// plan_model() is the one place that validates them, and the fuzz target: whatever bytes a File was parsed from, it
// returns a plan that the runtime can execute without further checks, or throws ModelFileError (the file is wrong) or
// UnsupportedModelError (hrun cannot do it).  It allocates no more than a few pointers per layer and token.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/file.h"
#include "model/description.h"

namespace hrun {

enum class RopeScaling : uint8_t { none, linear, llama3, yarn };

struct HyperParams {
  int64_t n_layers = 0;
  int64_t n_embd = 0;
  int64_t n_vocab = 0;
  int64_t n_ff = 0;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t k_dim = 0;        // per head
  int64_t v_dim = 0;
  int64_t n_ctx_train = 0;
  float rms_eps = 0;

  int64_t n_rot = 0;
  double rope_base = 10000;
  RopeScaling rope_scaling = RopeScaling::none;
  double rope_factor = 1;
  double rope_attn_factor = 1;      // multiplies cos and sin, beside YaRN's own 1 + 0.1 ln(factor)
  double rope_original_ctx = 0;     // yarn
  double yarn_beta_fast = 32, yarn_beta_slow = 1;
  // llama3 scaling reaches a GGUF as the tensor rope_freqs.weight: factors by which each frequency is divided.
};

struct ModelPlan {
  const ModelDescription* description = nullptr;
  HyperParams params;
  // Tensors by role; null where optional and absent.  `layers[l][role]` for per-layer roles.
  std::vector<const gguf::TensorInfo*> globals;                 // indexed by Role
  std::vector<std::vector<const gguf::TensorInfo*>> layers;     // [layer][Role]
  bool tied_head = false;                                       // no output.weight: the embedding is the head
  std::vector<std::string> warnings;                            // unused tensors, odd metadata

  const gguf::TensorInfo* global(Role role) const { return globals[static_cast<size_t>(role)]; }
  const gguf::TensorInfo* layer(int64_t l, Role role) const {
    return layers[static_cast<size_t>(l)][static_cast<size_t>(role)];
  }
};

ModelPlan plan_model(const gguf::File& file);

}  // namespace hrun
