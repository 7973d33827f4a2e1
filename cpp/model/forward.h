// The generic decoder: one pass of a batch of tokens through the layers.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "model/model.h"
#include "model/rope_table.h"

namespace hrun {

// Memory for one pass of at most `max_tokens` tokens, and the rotary table for `n_ctx` positions.
class Workspace {
 public:
  Workspace(const Model& model, int64_t max_tokens, int64_t n_ctx);

  int64_t max_tokens() const { return max_tokens_; }
  int64_t max_logit_rows() const { return logit_rows_; }
  size_t bytes() const { return bytes_; }

 private:
  friend class Decoder;
  FloatView floats(const Model& model, int64_t rows, int64_t cols, const char* what);

  int64_t max_tokens_, logit_rows_;
  size_t bytes_ = 0;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
  FloatView x_, q_, k_, v_, attention_, projected_, gate_, up_, logits_;
  Rope rope_{};
};

// Sees what every matmul reads, before it runs: its input [n_tokens, cols] on the device, and the matrices that share it.
class MatmulObserver {
 public:
  virtual ~MatmulObserver() = default;
  virtual void matmul_input(std::span<const MatmulTarget> targets, const MatmulInput& x) = 0;
};

// Runs `tokens` (at most workspace.max_tokens()) at positions first_position, ...; keys and values go to `cache`, one
// KVLayer per layer.  Logits of the last `n_logits` tokens are written to logits [n_logits, n_vocab], which may be null
// when n_logits is 0.  `poll` is called before each layer and may throw; the cache then holds garbage beyond
// first_position, which the next pass overwrites.
void forward(const Model& model, Workspace& workspace, std::span<const KVLayer> cache, std::span<const int32_t> tokens,
             int64_t first_position, int64_t n_logits, float* logits, const std::function<void()>& poll,
             MatmulObserver* observer = nullptr);

}  // namespace hrun
