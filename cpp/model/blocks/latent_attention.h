// Attention over latent vectors (DeepSeek V2).
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds latent_attention_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
void latent_attention(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

}  // namespace hrun
