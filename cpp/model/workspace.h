// Memory of one device for one pass of at most `max_tokens` tokens, and the rotary tables for
// `n_ctx` positions.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "model/model.h"

namespace hrun {

// Views have max_tokens rows.
class Workspace {
 public:
  // Throws ArgumentError where the model has learned positions and n_ctx is beyond them.
  Workspace(const Model& model, size_t device, int64_t max_tokens, int64_t n_ctx);

  Backend& backend() const { return *backend_; }
  uint64_t id() const { return id_; }  // never the same twice
  int64_t max_tokens() const { return max_tokens_; }
  int64_t max_logit_rows() const { return logits.rows; }
  size_t bytes() const { return bytes_; }
  const Rope& rope(int number) const { return ropes_[static_cast<size_t>(number)]; }
  bool repeatable() const { return repeatable_; }  // see BlockNeeds
  float* scratch() const { return scratch_.data; }
  // The values that go from layer to layer.
  std::array<FloatView, 3> between_layers() const {
    return {states.data ? states : x, per_layer, first_values};
  }

  FloatView x, normed;       // the hidden states, and a layer's input where a layer norm makes it
  FloatView projected, fed;  // what a mixer gives, and a feed-forward block
  FloatView first_values;    // those of the first layer, where others read them, or nothing
  FloatView per_layer;  // what layers have for each token, [n_per_layer * n_layers], or nothing
  // Where a token has several hidden states, [n_states * n_embd] each: the states between layers,
  // and those that a layer predicts; x is then the one that the layer computes.
  FloatView states, predicted;
  FloatView logits;

 private:
  FloatView floats(int64_t rows, int64_t cols, const char* what);
  Rope make_rope(const Model& model, const RopeParams& params, int64_t n_ctx);

  Backend* backend_;
  uint64_t id_;
  int64_t max_tokens_;
  size_t bytes_ = 0;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  std::vector<Rope> ropes_;  // in the order of HyperParams::ropes
  FloatView scratch_;        // of the blocks, one after the other
  bool repeatable_;
};

inline FloatView first_rows(const FloatView& view, int64_t rows) {
  return {view.data, rows, view.cols, view.stride};
}

inline FloatView columns(const FloatView& view, int64_t first, int64_t cols) {
  return {view.data + first, view.rows, cols, view.stride};
}

}  // namespace hrun
