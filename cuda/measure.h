// What the device can do, measured by hrun-bench beside what it does.
#pragma once

#include "backend/plugin.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

DevicePeaks measure(Gpu& gpu);

}  // namespace hrun::gpu
