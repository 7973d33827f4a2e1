// The bytes that the layers of a model take on a device.
#pragma once

#include "backend/plugin.h"
#include "devices/placement.h"
#include "gguf/file.h"
#include "model/spec/spec.h"

namespace hrun {

// The bytes of the weights as the device keeps them, of the keys and values of the context that is
// taken when nobody says (the model's own, at most 16384 positions, F16), and of the working
// memory.
LayerSizes layer_sizes(const gguf::File& file, const ModelSpec& spec, WeightBytes weight_bytes);

}  // namespace hrun
