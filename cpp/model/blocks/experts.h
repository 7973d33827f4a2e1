// A feed-forward block of experts, of which each token uses a few.
#pragma once

#include "model/blocks/block.h"

namespace hrun {

BlockNeeds experts_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows);
// The experts of a layer as a backend sees them.
ExpertBlock expert_block(const Model& model, int64_t layer);
// Does the backend of a layer choose its experts, so that the host takes no part?
bool backend_chooses_experts(const Model& model, int64_t layer);
// Mixes the experts of a layer that each token chooses, by their weights, and the shared ones.
void mix_experts(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out);

// Runs the routed experts alone, on x; the router reads `routed_by`.
void routed_experts(const Pass& pass, int64_t layer, Arena arena, FloatView routed_by, FloatView x,
                    FloatView out);

// Chooses the experts of one token and their weights, by the router's logits [n_experts].
// correction [n_experts] moves the choice, not the weights, and may be null.  Of equal scores, the
// lower number goes first.
void choose_experts(const HyperParams& params, const float* logits, const float* correction,
                    int32_t* experts, float* weights);

}  // namespace hrun
