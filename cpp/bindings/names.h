// The ways to multiply with rotated formats, by name.
#pragma once

#include <string>

#include "backend/backend.h"

namespace hrun::bindings {

// "activation", "activation-float" or "weight".  Throws ArgumentError.
RotatedMatmul rotated_matmul(const std::string& name);

}  // namespace hrun::bindings
