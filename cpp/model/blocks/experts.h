// A feed-forward block of experts, of which each token uses a few.
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds experts_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
// The experts of a layer that each token chooses, weighted, and the shared ones.
void mix_experts(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

// The routed ones alone, of x; the router reads `routed_by`.
void routed_experts(const Pass& pass, int64_t layer, Arena arena, FloatView routed_by, FloatView x,
                    FloatView out);

// The experts of one token and their weights, by the router's logits [n_experts]; correction
// [n_experts] moves the choice, not the weights, and may be null.  Equal scores: the lower number
// first.
void choose_experts(const HyperParams& params, const float* logits, const float* correction,
                    int32_t* experts, float* weights);

}  // namespace hrun
