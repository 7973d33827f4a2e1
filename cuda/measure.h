// The limits of the device, which hrun-bench measures beside what it does.
#pragma once

#include "backend/plugin.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

DevicePeaks measure(Gpu& gpu);

}  // namespace hrun::gpu
