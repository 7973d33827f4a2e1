// Choices by name.
#pragma once

#include <string>

#include "backend/backend.h"
#include "model/description.h"

namespace hrun::bindings {

// The way to multiply with rotated formats: "activation", "activation-float" or "weight".  Throws
// ArgumentError.
RotatedMatmul rotated_matmul(const std::string& name);

// "none", "mean", "cls", "last" or "rank".
Pooling pooling_named(const std::string& name);  // Throws ArgumentError.
const char* pooling_name(Pooling pooling);

}  // namespace hrun::bindings
