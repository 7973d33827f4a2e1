// The bytes that the layers of a model take on a device.
#pragma once

#include "backend/plugin.h"
#include "devices/placement.h"
#include "gguf/file.h"
#include "model/spec/spec.h"

namespace hrun {

// Are rows of this tensor looked up?  A tied head multiplies with it as well.
constexpr bool is_lookup(Role role) {
  return role == Role::token_embd || role == Role::position_embd || role == Role::token_types ||
         role == Role::per_layer_embd;
}

// The bytes of the weights as the device keeps them, of the keys and values of the context that is
// taken when nobody says (the model's own, at most 16384 positions, F16), and of the working
// memory.
LayerSizes layer_sizes(const gguf::File& file, const ModelSpec& spec, WeightBytes weight_bytes);

}  // namespace hrun
