// A dense feed-forward block.
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds feed_forward_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void feed_forward(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

}  // namespace hrun
