// RWKV 7's recurrence on the device.
#pragma once

#include "cuda/kernels/recurrent.h"

namespace hrun::gpu {

// As Backend::wkv().
void wkv(Gpu& gpu, const WkvInput& in, const StateLayer& layer, StateOnDevice state, FloatView out);

}  // namespace hrun::gpu
