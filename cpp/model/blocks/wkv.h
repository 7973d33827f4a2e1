// RWKV 7 (Peng et al., "RWKV-7 Goose with Expressive Dynamic State Evolution", 2025).
//
// Six mixtures of a token's input and the one before give queries r, decays w, keys k, values v,
// rates a and gates g.  Each head has a matrix S, from which a token removes what it keeps under
// the key kk, the normed k_k k, puts back a part a of it, and adds its value under its key:
//   S <- diag(w) S - (a kk) (S^T kk)^T + k v^T,   y = S^T r
// with w = e^(-e^(-1/2) sigmoid(..)) and k <- k (1 + (a - 1) k_a).  Values are mixed with those of
// the first layer.  y is normed head by head, v (r . r_k k) is added, and the gates multiply.
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds wkv_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void wkv(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

}  // namespace hrun
