// A state space model whose channels decay by themselves (Mamba 1): a vector of state per channel.
//
//   s_n <- e^(step rate_n) s_n + b_n step x,  y = sum over n of c_n s_n + skip x
// with x out of a short convolution, and of all channels' x one product gives b, c and a narrow
// vector, of which another makes the step of each channel.  Then y * silu(z).
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds channel_state_space_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void channel_state_space(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

}  // namespace hrun
