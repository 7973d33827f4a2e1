// The scan of state space models on the device.
#pragma once

#include "cuda/kernels/recurrent.h"

namespace hrun::gpu {

// skip: fp32 per head, on the device; the rest as in ScanInput.
void ssm_scan(Gpu& gpu, const ScanInput& in, const float* skip, const StateLayer& layer,
              StateOnDevice state, FloatView out);

}  // namespace hrun::gpu
