// Vectors that each layer has for every token (Gemma 3n, Gemma 4 E2B, E4B): out of a table of their
// own and the token's embedding, added after the layer's blocks.
#pragma once

#include "model/forward.h"

namespace hrun {

size_t per_layer_scratch_floats(const ModelSpec& spec, int64_t n_rows);
// Makes all layers' vectors from the embedded tokens x, into Workspace::per_layer.
void embed_per_layer(const Pass& pass, std::span<const int32_t> tokens, FloatView x);
// x += the vectors of the layer, gated by x.  Where a token has several hidden states: those beside
// the first += the vectors, gated by the active one.
void add_per_layer(const Pass& pass, int64_t layer, FloatView x);

}  // namespace hrun
