// A gated short convolution (LFM2): of the input's three parts b, c and x, out of one matrix,
// c * conv(b * x), a convolution of each channel by itself.
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds short_conv_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void short_conv(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

}  // namespace hrun
