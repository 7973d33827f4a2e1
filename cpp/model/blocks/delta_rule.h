// The gated delta rule (Qwen3-Next, Qwen3.5): a matrix per head in place of a cache.
//
//   S <- e S + k d^T,  d = beta (v - e S^T k),  out = S^T q
// with q, k and v out of a short convolution, e and beta of each head out of the input.
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds delta_rule_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void delta_rule(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

}  // namespace hrun
