// The scan of state space models on the device.
#pragma once

#include "cuda/kernels/recurrent.h"

namespace hrun::gpu {

// skip, rates: fp32, on the device; the rest as in ScanInput.
void ssm_scan(Gpu& gpu, const ScanInput& in, const float* skip, const float* rates,
              const StateLayer& layer, StateOnDevice state, FloatView out);

}  // namespace hrun::gpu
