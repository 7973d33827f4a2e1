// From a checked container to a checked model: hyper-parameters, tensors by role, tokenizer.
//
// read_spec() is the one place that validates them, and the fuzz target: whatever bytes a File was
// parsed from, it returns a spec that the runtime can execute without further checks, or throws
// ModelFileError (the file is wrong) or UnsupportedModelError (hrun cannot do it).  It allocates no
// more than a few pointers per layer and token.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gguf/file.h"
#include "model/description.h"

namespace hrun {

enum class RopeScaling : uint8_t { none, linear, llama3, yarn, longrope };

// A rotary embedding.
struct RopeParams {
  int64_t n_rot = 0;
  double base = 10000;
  RopeScaling scaling = RopeScaling::none;
  double factor = 1;
  double attn_factor = 1;   // multiplies cos and sin, beside YaRN's own 1 + 0.1 ln(factor)
  double original_ctx = 0;  // yarn, longrope
  double yarn_beta_fast = 32, yarn_beta_slow = 1;
  bool yarn_truncates = true;
  // Frequencies are divided by the factors of a tensor (llama3 scaling, longrope) if there is one.
  bool has_factors = true;
  // Vectors at position p are multiplied by 1 + temperature ln(1 + floor(p / original_ctx)).
  double temperature = 0;
};
inline constexpr int kNoRope = -1;

// The parameters of one layer.  A kind of layer that differs from the others differs here.
struct LayerParams {
  Mixer mixer = Mixer::attention;
  Feed feed = Feed::dense;
  int64_t n_heads = 0;
  int64_t n_kv_heads = 0;
  int64_t k_dim = 0;    // per head
  int64_t v_dim = 0;    // with latent attention k_dim and v_dim are those of the cache: latent_kv +
                        // n_rot, latent_kv
  int64_t k_plain = 0;  // of a key's values the last ones, which a cache never codes
  int64_t window = 0;   // positions that it sees; 0: all
  bool windowed = false;  // of the kind that has a window, even if that is as long as the context
  int64_t keys_of = -1;   // the layer whose keys and values it reads; -1: its own
  int rope = kNoRope;     // number of its rotary embedding in HyperParams::ropes
  int query_rope = kNoRope;  // of queries, where it is another one
  int64_t n_ff = 0;
  Xielu xielu{};  // of the feed-forward block, where that is its function
  // Of the gates of a dense block those count that lie so many standard deviations above their
  // mean, less what they would have there; -infinity: all.
  double gate_cutoff = -std::numeric_limits<double>::infinity();
};

// The gated delta rule, alike in all layers that have it.
struct DeltaParams {
  int64_t n_k_heads = 0;
  int64_t n_v_heads = 0;
  int64_t k_dim = 0;  // per head
  int64_t v_dim = 0;
};

// A state space model, alike in all layers that have it.  Mamba 1's channels are one head.
struct StateSpaceParams {
  int64_t n_heads = 0;
  int64_t n_groups = 0;  // of heads, which share b and c
  int64_t head_dim = 0;
  int64_t state_dim = 0;
  int64_t step_rank = 0;  // Mamba 1: of what the steps of channels are made of
  bool normed = false;    // that, b and c, without weights
  double norm_eps = 0;

  int64_t inner() const { return n_heads * head_dim; }
  int64_t shared() const { return n_groups * state_dim; }  // values of b, and of c
};

// RWKV 7's layers: the values of a head, and the ranks of the matrices in two steps.
struct WkvParams {
  int64_t head_dim = 0;  // 0: there are none
  int64_t decay_rank = 0, rate_rank = 0, first_rank = 0, gate_rank = 0;
};

struct HyperParams {
  int64_t n_layers = 0;
  int64_t n_embd = 0;
  int64_t n_vocab = 0;
  int64_t n_ctx_train = 0;
  float norm_eps = 0;
  Norm norm = Norm::rms;

  bool causal = true;     // false: an encoder
  bool parallel = false;  // attention and feed-forward side by side
  Nonlinearity nonlinearity = Nonlinearity::silu;
  bool gate_per_head = false;            // of the mixed values; false: one for each value
  std::optional<Pooling> pooling;        // what the file says
  Pooling class_pooling = Pooling::cls;  // of what the head of classes reads
  int64_t n_classes = 0, n_dense = 0;    // 0: none
  int64_t n_token_types = 0;

  double embd_scale = 1, residual_scale = 1;
  double logit_scale = 1;                        // times
  double attn_scale = 0;                         // of q . k
  double value_scale = 1;                        // of values
  double attn_soft_cap = 0, logit_soft_cap = 0;  // 0: none

  int64_t n_experts = 0;  // 0: dense
  int64_t n_experts_used = 0;
  int64_t n_ff_expert = 0, n_ff_shared = 0;
  int64_t n_expert_groups = 1, n_expert_groups_used = 1;
  Gating gating = Gating::softmax;
  bool experts_normed = true;
  double experts_scale = 1;
  double mixer_margin = 0;  // of a sparse mixer

  int64_t latent_q = 0;      // 0: queries are not compressed
  int64_t latent_kv = 0;     // 0: no latent attention
  int64_t latent_k_dim = 0;  // per head: nope + n_rot
  int64_t latent_v_dim = 0;

  DeltaParams delta;
  StateSpaceParams ssm;
  WkvParams wkv;
  int64_t n_taps = 0;        // of the convolutions of recurrent layers
  int64_t n_per_layer = 0;   // values that a layer has for every token; 0: none
  int64_t n_states = 1;      // hidden states of a token
  int64_t active_state = 0;  // the one that layers compute, where there are several
  int64_t laurel_rank = 0;   // of the learned residuals

  std::vector<LayerParams> layers;  // n_layers
  std::vector<RopeParams> ropes;

  const LayerParams& layer(int64_t l) const { return layers[static_cast<size_t>(l)]; }
  int64_t n_rot() const { return ropes.empty() ? 0 : ropes.front().n_rot; }
  int64_t nope() const { return latent_k_dim - n_rot(); }
};

struct ModelSpec {
  const ModelDescription* description = nullptr;
  HyperParams params;
  // The tensors by role; null where optional and absent.  `layers[l][role]` is for per-layer roles.
  std::vector<const gguf::TensorInfo*> globals;              // indexed by Role
  std::vector<std::vector<const gguf::TensorInfo*>> layers;  // [layer][Role]
  bool tied_head = false;                             // no output.weight: the embedding is the head
  bool is_encoder() const { return !params.causal; }  // it gives vectors, and has no head
  // Of the keys of each layer, [n_kv_heads * k_dim]; empty: the file does not say.
  std::vector<std::vector<float>> key_means, key_balances;
  std::vector<std::string> warnings;  // unused tensors, odd metadata

  const gguf::TensorInfo* global(Role role) const { return globals[static_cast<size_t>(role)]; }
  const gguf::TensorInfo* layer(int64_t l, Role role) const {
    return layers[static_cast<size_t>(l)][static_cast<size_t>(role)];
  }
};

// Does a layer of this model have the tensor?
bool is_in_layer(const TensorRule& rule, const HyperParams& params, int64_t layer);

// The length of a dimension in a layer; a dimension that belongs to no layer has the same length in
// any.
int64_t size_of(Dim dim, const HyperParams& params, int64_t layer = 0);

ModelSpec read_spec(const gguf::File& file);

}  // namespace hrun
