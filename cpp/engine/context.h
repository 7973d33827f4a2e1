// Sessions, engines and encoders check a context and tokens with these before any work.
#pragma once

#include <cstdint>
#include <span>

#include "model/model.h"

namespace hrun {

// The model, which gives text.  Throws UnsupportedModelError for an encoder.
const Model& text_model(const Model& model);

// Positions of one sequence: n_ctx, or what the model was trained with where it is 0.  Throws
// ArgumentError for sizes that cannot be.
int64_t context_size(const Model& model, int64_t n_ctx, int64_t n_batch);

// Pages of a cache that holds so many positions.  Throws OutOfMemoryError where they cannot be
// numbered.
int64_t cache_pages(int64_t n_positions);

// Throws ArgumentError for an id outside the vocabulary.
void check_tokens(const Model& model, std::span<const int32_t> tokens);

}  // namespace hrun
