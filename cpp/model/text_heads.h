// A model makes one of these from the vector of a text: projections, or scores of classes.
#pragma once

#include <span>
#include <vector>

#include "model/model.h"

namespace hrun {

// x: [n, n_embd], row after row; the bits of a row do not depend on the others.  Throw
// ArgumentError where x is no such rows.

// Puts x through the two projections that some models have, else leaves it as it is; [n, n_embd].
std::vector<float> project_texts(const Model& model, std::vector<float> x);
// Makes scores [n, n_classes].  Throws UnsupportedModelError where the model has no head of
// classes.
std::vector<float> score_texts(const Model& model, std::span<const float> x);

}  // namespace hrun
