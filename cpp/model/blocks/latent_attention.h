// Attention over latent vectors (DeepSeek V2).
#pragma once

#include "model/forward.h"

namespace hrun {

// out [n, n_embd]: the attention block of layer l on `input`, output projection included.
void latent_attention(const Pass& pass, int64_t l, const MatmulInput& input, const CacheSlot& cache,
                      FloatView out);

}  // namespace hrun
