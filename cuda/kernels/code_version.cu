// A file of its own among the kernels, since it must be compiled for the same architectures.
#include "cuda/kernels/code_version.h"

#include "cuda/device/warpgroup.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

#if defined(__CUDACC__)

namespace {
// The threads that it may have say for what it was compiled: the runtime tells 9.0a from 9.0 by
// nothing else.
struct Probe {
#if defined(__CUDA_ARCH__)
  static constexpr int kThreads = kHasWarpgroups ? kWarpgroup : kWarp;
#else
  static constexpr int kThreads = kWarp;
#endif
  static constexpr int kBlocks = 1;
  HRUN_HD void operator()() const {}
};
}  // namespace

int code_version(CodeVersion& version) {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, run_kernel<Probe>);
  version = {attributes.ptxVersion, attributes.maxThreadsPerBlock == kWarpgroup};
  return status;
}

#else

int code_version(CodeVersion& version) {
  version = {};
  return 0;
}

#endif

}  // namespace hrun::gpu
