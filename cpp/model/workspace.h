// Memory of one device for one pass of at most `max_tokens` tokens, and the rotary tables for
// `n_ctx` positions.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "model/model.h"

namespace hrun {

// Views have max_tokens rows; those that the model does not need are empty.
class Workspace {
 public:
  // Throws ArgumentError where the model has learned positions and n_ctx is beyond them.
  Workspace(const Model& model, size_t device, int64_t max_tokens, int64_t n_ctx);

  Backend& backend() const { return *backend_; }
  uint64_t id() const { return id_; }  // never the same twice
  int64_t max_tokens() const { return max_tokens_; }
  int64_t max_logit_rows() const { return logits.rows; }
  size_t bytes() const { return bytes_; }
  const Rope& rope(bool has_window) const {
    return has_window && window_rope_.n_rot > 0 ? window_rope_ : rope_;
  }

  FloatView x, normed;
  FloatView q, k, v, qkv;  // q, k and v are parts of qkv where the model has one matrix for them
  FloatView attention, projected, fed;
  FloatView gate, up,
      gate_up;  // gate and up are halves of gate_up where the model has one matrix for them
  FloatView logits;
  // Experts: tokens by the experts that they chose, [max_tokens * n_experts_used].
  FloatView routed, gathered, expert_gate, expert_up, expert_out, shared_gate, shared_up,
      shared_out;
  // Latent attention.
  FloatView latent_q, latent_q_normed, latent_heads, latent_kv, latent_out;

 private:
  FloatView floats(int64_t rows, int64_t cols, const char* what);
  Rope make_rope(const Model& model, const HyperParams& params, const std::vector<float>& factors,
                 int64_t n_ctx);

  Backend* backend_;
  uint64_t id_;
  int64_t max_tokens_;
  size_t bytes_ = 0;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  Rope rope_{}, window_rope_{};
};

inline FloatView first_rows(const FloatView& view, int64_t rows) {
  return {view.data, rows, view.cols, view.stride};
}

inline FloatView columns(const FloatView& view, int64_t first, int64_t cols) {
  return {view.data + first, view.rows, cols, view.stride};
}

}  // namespace hrun
