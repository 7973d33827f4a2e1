// The library exports one function.
#include "backend/plugin.h"

#include "base/error.h"
#include "cuda/cuda_backend.h"
#include "cuda/kernels/matmul.h"
#include "cuda/measure.h"
#include "formats/list.h"

namespace hrun::gpu {
namespace {

std::vector<DeviceDescription> devices(std::string& reason) {
  std::vector<DeviceDescription> all;
  for (const GpuInfo& info : Gpu::list(reason))
    all.push_back({message("CUDA{}", info.index), info.name, info.total_bytes, info.total_bytes,
                   "CUDA", info.index});
  return all;
}

size_t free_bytes(int device) { return Gpu::free_bytes(device); }

std::unique_ptr<Backend> make(int device, const BackendOptions& options) {
  return std::make_unique<CudaBackend>(device, options);
}

DevicePeaks measure_device(int device) {
  Gpu gpu(device);
  return measure(gpu);
}

size_t weight_bytes(FormatId format, int64_t rows, int64_t cols) {
  const size_t packed = packed_bytes(format, rows, cols);
  return packed > 0 ? packed : find_format(format)->row_bytes(cols) * static_cast<size_t>(rows);
}

constexpr BackendPlugin kPlugin{
    BackendPlugin::kInterface, devices, free_bytes, make, measure_device, weight_bytes};

}  // namespace
}  // namespace hrun::gpu

extern "C" __attribute__((visibility("default"))) const hrun::BackendPlugin* hrun_backend_plugin() {
  return &hrun::gpu::kPlugin;
}
