// The generic decoder: one pass of a batch of tokens through the layers.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "model/model.h"
#include "model/workspace.h"

namespace hrun {

// Sees what every matmul reads, before it runs: its input [n_tokens, cols] on the backend's device,
// and the matrices that share it.
class MatmulObserver {
 public:
  virtual ~MatmulObserver() = default;
  virtual void matmul_input(Backend& backend, std::span<const MatmulTarget> targets,
                            const MatmulInput& x) = 0;
  // The same of one slice of a tensor (an expert, a head), with an input of its own.
  virtual void slice_input(Backend& backend, const DeviceTensor& slice, const MatmulInput& x) = 0;
};

// What the blocks of a layer work with: `n` tokens at positions first, first + 1, ...
struct Pass {
  const Model& model;
  Workspace& work;
  int64_t n;
  int64_t first;
  MatmulObserver* observer = nullptr;

  Backend& backend() const { return work.backend(); }
  const HyperParams& params() const { return model.params(); }
  FloatView rows(const FloatView& view) const { return first_rows(view, n); }
  void observe(std::span<const MatmulTarget> targets, const MatmulInput& x) const {
    if (observer) observer->matmul_input(backend(), targets, x);
  }
  void multiply(std::span<const MatmulTarget> targets, const MatmulInput& x) const {
    observe(targets, x);
    backend().matmul(targets, x);
  }
  void multiply(const DeviceTensor& weights, const MatmulInput& x, FloatView y) const {
    const MatmulTarget target{&weights, y};
    multiply({&target, 1}, x);
  }
  // Slices of tensors.
  void multiply_parts(std::span<const MatmulPart> parts, const MatmulInput& x) const {
    if (observer)
      for (const MatmulPart& part : parts)
        observer->slice_input(backend(), *part.weights, rows_of(x, part.first, part.y.rows));
    backend().matmul_parts(parts, x);
  }
  void multiply_slice(const DeviceTensor& weights, FloatView x, FloatView y) const {
    if (observer) observer->slice_input(backend(), weights, x);
    const MatmulTarget target{&weights, y};
    backend().matmul({&target, 1}, x);
  }
  void add_bias(int64_t layer, Role role, FloatView y) const {
    if (const DeviceTensor* bias = model.weight(layer, role)) backend().add_bias(y, *bias);
  }
};

// Runs `tokens` (at most max_tokens() of the workspaces, one per backend of the model) at positions
// first_position, ...; keys and values go to `cache`, one KVLayer per layer.  Logits of the last
// `n_logits` tokens are written to logits [n_logits, n_vocab], which may be null when n_logits is
// 0, or 1: they then stay in the workspace of the head.  `poll` is called before each layer and may
// throw; the cache then holds garbage beyond first_position, which the next pass overwrites.
void forward(const Model& model, std::span<Workspace> workspaces, std::span<const KVLayer> cache,
             std::span<const int32_t> tokens, int64_t first_position, int64_t n_logits,
             float* logits, const std::function<void()>& poll, MatmulObserver* observer = nullptr);

}  // namespace hrun
