// AltUp (Gemma 3n; Baykal et al., "Alternating Updates for Efficient Transformers", 2023): a token
// has several hidden states x_i, of which every layer computes one.
//
//   Before the layer: p_i = x_i + sum over j of a_ij x_j, and the layer makes y of p_active.
//   Behind it:        x_i = p_i + (1 + b_i) (y - p_active)
// with a = A m, b = B m, and m = tanh(R norm(x_active) / width) of the state before, and of y.  The
// first state begins as the embedding, the others as products of it, with its rms; at the end
// products of the others, with the rms of the first, are averaged with it.
//
// In models whose tokens have one state, none of this does anything.
#pragma once

#include "model/forward.h"

namespace hrun {

size_t altup_scratch_floats(const ModelSpec& spec, int64_t n_rows);
// Makes Workspace::states from the embedded tokens x.
void begin_states(const Pass& pass, FloatView x);
// Makes Workspace::predicted from the states, and x, which the layer goes on with.
void predict_states(const Pass& pass, int64_t layer, FloatView x);
// Makes the states from those predicted and from x, which the layer made.
void correct_states(const Pass& pass, int64_t layer, FloatView x);
// Makes x from the states.
void end_states(const Pass& pass, FloatView x);
// One of the states, or of those predicted, of every row.
FloatView state_of(const FloatView& states, int64_t number, int64_t width);

}  // namespace hrun
