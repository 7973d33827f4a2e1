// The instruction sets for which this build has kernels, and which of them this CPU can run.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cpu/kernel_table.h"

namespace hrun {

// One line of tiers.cmake.
struct TierEntry {
  std::string_view name;
  std::string_view features;  // separated by spaces
  const MatrixKernels& (*matrices)();
  const AttentionKernels& (*attention)();
  const VectorKernels& (*vectors)();
};

struct CpuTier {
  std::string_view name;
  const KernelTable* kernels;
  std::string missing;  // features that this CPU lacks; empty: it can run the tier

  bool available() const { return missing.empty(); }
};

// All tiers of this build, worst first.
std::span<const CpuTier> cpu_tiers();

// The tier of that name.  If the name is empty: the one named by the environment variable
// HRUN_CPU_TIER, else the best this CPU can run.  Throws DeviceError if there is no such tier or
// this CPU cannot run it, naming what it lacks and what exists.
const CpuTier& select_cpu_tier(std::string_view name = {});

}  // namespace hrun
