// A state space model (Mamba 2): a matrix S [state, values] per head in place of a cache.
//
//   S <- e^(step rate) S + b (step x)^T,  y = S^T c + skip x
// with x, b and c out of a short convolution, the step of each head out of the input; b and c are
// those of a group of heads.  Then y * silu(z), normed by group.
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds state_space_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void state_space(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

// Attention and a state space model side by side (Falcon H1): the result is the sum of both.
BlockNeeds attention_and_state_space_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void attention_and_state_space(const Pass& pass, int64_t layer, const MatmulInput& input,
                               FloatView out);

// The needs of a state space model, of Mamba 1 too, with so many channels in its convolution.
BlockNeeds scan_needs(const HyperParams& params, int64_t n_channels, size_t scratch_floats);
// x = silu(the layer's short convolution of x, with its bias where it has one).
void convolve(const Pass& pass, int64_t l, FloatView x);

}  // namespace hrun
