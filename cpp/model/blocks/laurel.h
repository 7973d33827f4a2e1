// LAuReL (Gemma 3n; Menghani et al., "LAuReL: Learned Augmented Residual Layer", 2024), with a
// product of low rank: beside what attention adds to x comes u + norm(R L u), u being what
// attention reads, and the sum is divided by the square root of 2.
#pragma once

#include "model/forward.h"

namespace hrun {

size_t laurel_scratch_floats(const ModelSpec& spec, int64_t n_rows);
// Makes the residual of a layer from its input x, in `out`; `other` is overwritten.  Returns false
// where the layer has none.
bool learned_residual(const Pass& pass, int64_t layer, FloatView x, FloatView out, FloatView other);
void add_learned_residual(const Pass& pass, FloatView residual, FloatView x);

}  // namespace hrun
