// A dense feed-forward block and experts side by side (Gemma 4), each with norms of its own.
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds dense_and_experts_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void dense_and_experts(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

}  // namespace hrun
