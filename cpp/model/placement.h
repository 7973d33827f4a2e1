// How many layers go to a device when nobody says: as many as fit.
#pragma once

#include "backend/backends.h"
#include "gguf/file.h"
#include "model/plan.h"

namespace hrun {

// For -ngl: at most n_layers + 1.  Counts the weights as the device keeps them, the keys and values
// of the context that is taken when nobody says (the model's own, at most 16384 positions, F16) and
// the working memory, and leaves a sixteenth.
int64_t layers_that_fit(const gguf::File& file, const ModelPlan& plan, const DeviceRoom& room);

}  // namespace hrun
