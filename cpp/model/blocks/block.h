// The blocks of a layer: a mixer, which looks at other positions, and a feed-forward block.
//
// A block is two functions: what it needs, and how it runs.  The layer's parameters name its
// blocks; block.cpp knows which functions those are.
#pragma once

#include <optional>

#include "model/forward.h"

namespace hrun {

// The needs of one layer, for passes of at most n_rows rows.
struct BlockNeeds {
  size_t scratch_floats = 0;
  CacheLayer cache{};            // of the keys and values, types left open; without heads: none
  StateLayer state{};            // of a recurrent layer, the rates left open
  std::optional<Role> rates;     // the tensor that has them
  bool repeatable = true;        // the host takes no part in it, so a pass can be recorded
  bool chooses_experts = false;  // then it takes part where the backend does not choose them

  bool has_cache() const { return cache.n_kv_heads > 0; }
  bool has_state() const { return state.floats() > 0; }
};

BlockNeeds mixer_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
BlockNeeds feed_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);

// The keys and values that a layer keeps of a position.
inline CacheLayer cache_of(const LayerParams& layer) {
  CacheLayer cache{};
  cache.n_kv_heads = static_cast<int>(layer.n_kv_heads);
  cache.k_dim = static_cast<int>(layer.k_dim);
  cache.v_dim = static_cast<int>(layer.v_dim);
  cache.k_plain = static_cast<int>(layer.k_plain);
  return cache;
}

// Run the block of a layer on its normed input; the result goes to out [n, n_embd].
void run_mixer(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);
void run_feed(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

// Does the record stay true that a device made of a pass through its layers?
bool is_repeatable(const Model& model, size_t device);
// Scratch that suffices for every block of every layer, which run one after the other.
size_t scratch_floats(const ModelSpec& spec, int64_t n_rows);
// About the bytes that the state of a sequence takes.
size_t state_bytes(const ModelSpec& spec);

}  // namespace hrun
