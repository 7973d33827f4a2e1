// A backend in a shared library of its own, opened at run time: what it exports, and how it is
// found.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"

namespace hrun {

struct DeviceDescription {
  std::string name;         // "CUDA0", as --device takes it
  std::string description;  // "NVIDIA H100 80GB HBM3"
  size_t total_bytes = 0;
  size_t free_bytes = 0;
};

// Measured, per second.
struct DevicePeaks {
  double read = 0;  // bytes
  double copy = 0;  // bytes read and bytes written
  double int8 = 0;  // operations of the matrix units: a product and a sum are two
  double fp16 = 0;
};

// What the library's one exported function returns.  Both sides are built from the same sources;
// kInterface changes with Backend, so that a library left over from another version is refused
// instead of called.
struct BackendPlugin {
  static constexpr uint32_t kInterface = 6;
  static constexpr const char* kEntry = "hrun_backend_plugin";
  uint32_t interface;
  std::vector<DeviceDescription> (*devices)(std::string& reason);  // `reason`: why there are none
  std::unique_ptr<Backend> (*make)(int device, const BackendOptions& options);
  DevicePeaks (*measure)(int device);
  size_t (*weight_bytes)(FormatId format, int64_t rows,
                         int64_t cols);  // that a matrix takes on a device
};

// The CUDA backend: libhrun_cuda.so beside the library that this code is in, or the file that
// HRUN_CUDA_LIBRARY names.  Null, with the reason, when it cannot be opened.  Stays open.
const BackendPlugin* cuda_plugin(std::string& reason);

}  // namespace hrun
