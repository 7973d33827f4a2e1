#include "model/placement.h"

#include <algorithm>

#include "model/blocks/block.h"

namespace hrun {
namespace {

constexpr int64_t kPositions = 16384, kBatch = 512;

// The bytes of a Workspace and of a backend's scratch beside it.  The scratch takes as much again
// as activations and logits.
size_t working_bytes(const ModelSpec& spec, int64_t positions) {
  const HyperParams& p = spec.params;
  const int64_t batch = std::min(kBatch, positions);
  const int64_t activations =
      batch * ((p.n_states > 1 ? 4 + 2 * p.n_states : 4) * p.n_embd + p.n_per_layer * p.n_layers) +
      static_cast<int64_t>(scratch_floats(spec, batch));
  const int64_t logits = std::clamp<int64_t>((16 << 20) / p.n_vocab, 1, batch) * p.n_vocab;
  int64_t rotary = 0;
  for (const RopeParams& rope : p.ropes) rotary += positions * rope.n_rot;
  return static_cast<size_t>(2 * (activations + logits) + rotary) * sizeof(float);
}

// Keys and values of a layer, as F16, or the states of a few sequences.
size_t cache_bytes(const ModelSpec& spec, int64_t layer, int64_t positions) {
  constexpr size_t kStates = 4;
  const BlockNeeds needs = mixer_needs(spec, layer, 1), feed = feed_needs(spec, layer, 1);
  const CacheLayer& cache = needs.cache;
  return static_cast<size_t>(positions) *
             static_cast<size_t>(cache.n_kv_heads * (cache.k_dim + cache.v_dim)) * 2 +
         kStates * (needs.state.floats() + feed.state.floats()) * sizeof(float);
}

}  // namespace

LayerSizes layer_sizes(const gguf::File& file, const ModelSpec& spec, WeightBytes weight_bytes) {
  const HyperParams& p = spec.params;
  const auto bytes = [&](const gguf::TensorInfo* info) {
    if (!info) return size_t{0};
    const TensorView view = file.view(*info);
    return weight_bytes(view.format, view.rows, view.cols);
  };
  const int64_t positions = std::min(p.n_ctx_train, kPositions);
  LayerSizes sizes;
  sizes.working = working_bytes(spec, positions);
  for (int64_t l = 0; l < p.n_layers; ++l) {
    size_t layer = cache_bytes(spec, l, positions);
    for (const gguf::TensorInfo* info : spec.layers[static_cast<size_t>(l)]) layer += bytes(info);
    sizes.layers.push_back(layer);
  }
  // The head, the embedding beside it, and the norms.
  for (size_t r = 0; r < spec.globals.size(); ++r) {
    const auto role = static_cast<Role>(r);
    const size_t own = bytes(spec.globals[r]);
    const bool on_host =
        is_lookup(role) && !(spec.tied_head && role == Role::token_embd) && own > kLargestTable;
    if (!on_host) sizes.head += own;
  }
  if (spec.tied_head) sizes.head += bytes(spec.global(Role::token_embd));
  return sizes;
}

}  // namespace hrun
