// A file of its own among the kernels, since it must be compiled for the same architectures.
#include "cuda/kernels/code_version.h"

#include "cuda/gpu.h"

namespace hrun::gpu {

#if defined(__CUDACC__)

namespace {
struct Probe {
  static constexpr int kThreads = kWarp, kBlocks = 1;
  HRUN_HD void operator()() const {}
};
}  // namespace

int code_version(int& version) {
  cudaFuncAttributes attributes{};
  const cudaError_t status = cudaFuncGetAttributes(&attributes, run_kernel<Probe>);
  version = attributes.ptxVersion;
  return status;
}

#else

int code_version(int& version) {
  version = 0;
  return 0;
}

#endif

}  // namespace hrun::gpu
