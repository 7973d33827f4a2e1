// What a model makes of the vector of a text: projections, or scores of classes.
#pragma once

#include <span>
#include <vector>

#include "model/model.h"

namespace hrun {

// x: [n, n_embd], row after row; the bits of a row do not depend on the others.  Throw
// ArgumentError where x is no such rows.

// [n, n_embd]: through the two projections that some models have, else as it is.
std::vector<float> project_texts(const Model& model, std::vector<float> x);
// [n, n_classes].  Throws UnsupportedModelError where the model has no head of classes.
std::vector<float> score_texts(const Model& model, std::span<const float> x);

}  // namespace hrun
