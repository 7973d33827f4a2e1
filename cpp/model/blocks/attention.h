// Attention of query heads over the keys and values of earlier positions.
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds attention_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void attention(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

}  // namespace hrun
