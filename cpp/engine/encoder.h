// Texts to vectors through an encoder, a model whose tokens see the whole of their text.
//
// A text is computed in one pass, several short ones together; by the numeric contract its vectors
// do not depend on the others.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "model/cache.h"
#include "model/model.h"
#include "model/workspace.h"

namespace hrun {

// The second of two texts that are compared begins with this token; kOneText: there is none.
inline constexpr int64_t kOneText = -1;
struct EncoderText {
  std::vector<int32_t> tokens;
  int64_t second = kOneText;
};

class Encoder {
 public:
  // n_ctx: tokens of a text at most; 0: the model's positions, which are the most in any case.
  // n_batch: tokens per pass, but for texts that are longer.  Throws ArgumentError, and
  // UnsupportedModelError where the model is no encoder.
  Encoder(std::shared_ptr<const Model> model, int64_t n_ctx, int64_t n_batch);

  // Returns for each text the states after the last norm, pooled: [n_embd], or with Pooling::none
  // [n_tokens, n_embd].  Pooling::rank pools for the head of classes.  `poll` is called before each
  // layer and may throw.  Throws ContextOverflowError for a text of more tokens than n_ctx(),
  // ArgumentError for an empty one, OutOfMemoryError.
  std::vector<std::vector<float>> encode(std::span<const EncoderText> texts, Pooling pooling,
                                         const std::function<void()>& poll);

  const Model& model() const { return *model_; }
  int64_t n_ctx() const { return n_ctx_; }
  size_t memory_bytes() const;

 private:
  void make_room(int64_t n_rows, int64_t n_pages);
  void run(std::span<const EncoderText> texts, Pooling pooling, const std::function<void()>& poll,
           std::vector<float>* out);

  std::shared_ptr<const Model> model_;
  int64_t n_ctx_;
  int64_t n_batch_;
  std::vector<Workspace> workspaces_;
  std::optional<ModelCache> cache_;  // of the texts of one pass
};

}  // namespace hrun
