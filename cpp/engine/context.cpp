#include "engine/context.h"

#include <limits>

#include "base/error.h"
#include "base/kv_page.h"

namespace hrun {

int64_t context_size(const Model& model, int64_t n_ctx, int64_t n_batch) {
  if (n_ctx < 0)
    throw ArgumentError("n_ctx is {}, must be at least 1 (or 0 for the model's own)", n_ctx);
  if (n_batch < 1) throw ArgumentError("n_batch is {}, must be at least 1", n_batch);
  return n_ctx > 0 ? n_ctx : model.params().n_ctx_train;
}

const Model& text_model(const Model& model) {
  if (model.spec().is_encoder())
    throw UnsupportedModelError(
        "'{}' is an encoder: it gives embeddings and no text (Runtime.embed, hrun-embed)",
        model.description().name);
  return model;
}

int64_t cache_pages(int64_t n_positions) {
  // Positions are 32-bit numbers, and a page number as well.
  if (n_positions > std::numeric_limits<int32_t>::max() - 2 * kPagePositions)
    throw OutOfMemoryError("a KV cache of {} positions is larger than the address space",
                           n_positions);
  return pages_of(n_positions);
}

void check_tokens(const Model& model, std::span<const int32_t> tokens) {
  const int64_t n_vocab = model.params().n_vocab;
  for (size_t i = 0; i < tokens.size(); ++i)
    if (tokens[i] < 0 || tokens[i] >= n_vocab)
      throw ArgumentError("token {} is {}, the vocabulary has {} tokens", i, tokens[i], n_vocab);
}

}  // namespace hrun
