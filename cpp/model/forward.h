// The generic decoder: one pass of a batch of tokens through the layers.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "model/blocks/arena.h"
#include "model/cache.h"
#include "model/model.h"
#include "model/workspace.h"

namespace hrun {

// The keys and queries of a pass over a layer, turned, on the backend's device.
struct KeysOfPass {
  FloatView k, q;
  int n_kv_heads, n_heads;
  const Rope* rope;                    // null: not turned
  std::span<const int32_t> positions;  // of the rows
};

// Sees what every matmul reads, before it runs: its input [n_tokens, cols] on the backend's device,
// and the matrices that share it.
class MatmulObserver {
 public:
  virtual ~MatmulObserver() = default;
  virtual void matmul_input(Backend& backend, std::span<const MatmulTarget> targets,
                            const MatmulInput& x) = 0;
  // Sees the input of one slice of a tensor (an expert, a head), which is an input of its own.
  virtual void slice_input(Backend& backend, const DeviceTensor& slice, const MatmulInput& x) = 0;
  // Sees the keys that a layer is about to store.
  virtual void keys(Backend& /*backend*/, int64_t /*layer*/, const KeysOfPass& /*seen*/) {}
};

// The blocks of a layer work with this: the rows of a batch, the model and its memory.
struct Pass {
  const Model& model;
  Workspace& work;
  const ModelCache& kept;
  const Batch& batch;
  MatmulObserver* observer = nullptr;
  int64_t n = batch.n_rows();

  Backend& backend() const { return work.backend(); }
  const HyperParams& params() const { return model.params(); }
  FloatView rows(const FloatView& view) const { return first_rows(view, n); }
  // A block gets all the scratch, whatever the block before used.
  Arena arena() const { return Arena(work.scratch()); }
  const CacheSlot& cache(int64_t layer) const { return kept.slot(layer); }
  const StateSlot& state(int64_t layer) const { return kept.state(layer); }
  const StateSlot& feed_state(int64_t layer) const { return kept.feed_state(layer); }
  void norm(FloatView x, const DeviceTensor& weight, const DeviceTensor* bias,
            FloatView out) const {
    if (params().norm == Norm::rms)
      backend().rms_norm(x, weight, params().norm_eps, out);
    else
      backend().layer_norm(x, weight, bias, params().norm_eps, out);
  }
  // The input as rows in memory: `out` where something is made of it on the way.
  FloatView stored(const MatmulInput& input, FloatView out) const {
    if (!input.norm) return input.x;
    backend().rms_norm(input.x, *input.norm, input.eps, out);
    return out;
  }
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
  // Multiplies with slices of tensors.
  void multiply_parts(std::span<const MatmulPart> parts, const MatmulInput& x) const {
    if (observer)
      for (const MatmulPart& part : parts)
        observer->slice_input(backend(), *part.weights, rows_of(x, part.first, part.y.rows));
    backend().matmul_parts(parts, x);
  }
  // Applies a slice to each head, as Backend::matmul_heads().
  void multiply_heads(const Weight& slices, FloatView x, int64_t x_step, FloatView y,
                      int64_t y_step) const {
    if (observer)
      for (size_t h = 0; h < slices.size(); ++h)
        observer->slice_input(backend(), *slices[h],
                              columns(x, static_cast<int64_t>(h) * x_step, slices[h]->cols));
    backend().matmul_heads(slices, x, x_step, y, y_step);
  }
  void add_bias(int64_t layer, Role role, FloatView y) const {
    if (const DeviceTensor* bias = model.weight(layer, role)) backend().add_bias(y, *bias);
  }
};

// A pass computes these of its rows, beside their keys and values.
struct PassOutputs {
  // The rows whose logits are wanted, rising.
  std::span<const int32_t> logit_rows;
  // [logit_rows, n_vocab], if it is not null.
  float* logits = nullptr;
  // If it is set, it is called with some rows at a time: the first one's place in logit_rows, and
  // their logits [n, n_vocab].  With neither `logits` nor this, the logits stay in the head's
  // workspace, whose max_logit_rows() they must not exceed.
  std::function<void(size_t first, std::span<const float> logits)> on_logits;
  // The rows whose hidden state after the last norm is wanted, rising, and the place where it goes:
  // [hidden_rows, n_embd].
  std::span<const int32_t> hidden_rows;
  float* hidden = nullptr;
};

// The states that come into a part of a model and leave it, [rows, Model::state_width()] each.
struct LayerStates {
  const float* in = nullptr;  // null: the part embeds the tokens
  float* out = nullptr;       // null: not wanted
  LayerStates from(int64_t row, int64_t width) const {
    return {in ? in + row * width : nullptr, out ? out + row * width : nullptr};
  }
};

// Runs a batch (at most max_tokens() rows of the workspaces, of which there is one per backend of
// the model).  Keys and values go to the pages of the spans in `cache`; recurrent states go on from
// the slots of the spans.  `poll` is called before each layer and may throw; the pages then hold
// garbage at the positions of the batch, which the next pass over them overwrites.  Throws
// ArgumentError for states or logits that a part of a model cannot take or give.
void forward(const Model& model, std::span<Workspace> workspaces, const ModelCache& cache,
             const Batch& batch, const PassOutputs& outputs, const std::function<void()>& poll,
             MatmulObserver* observer = nullptr, LayerStates states = {});

}  // namespace hrun
