// The exports of a backend in a shared library of its own, which is opened at run time.
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
  std::string kind;  // "CUDA", "cpu"
  int index = 0;     // among those of its kind
};

// The measured speeds, per second.
struct DevicePeaks {
  double read = 0;  // bytes
  double copy = 0;  // bytes read and bytes written
  double int8 = 0;  // operations of the matrix units: a product and a sum are two
  double fp16 = 0;
};

// Tables with more bytes stay on the host where they are only looked up: a device gets the rows of
// a pass.
inline constexpr size_t kLargestTable = size_t{1} << 20;

// The bytes that a matrix takes on a device.
using WeightBytes = size_t (*)(FormatId format, int64_t rows, int64_t cols);

// The library's one exported function returns this.  Both sides are built from the same sources;
// kInterface changes with Backend, so that a library left over from another version is refused
// instead of called.
struct BackendPlugin {
  static constexpr uint32_t kInterface = 9;
  static constexpr const char* kEntry = "hrun_backend_plugin";
  uint32_t interface;
  // The usable devices, without their free memory: asking for that may start a device, which takes
  // time and memory on it.  `reason`: why there are none.
  std::vector<DeviceDescription> (*devices)(std::string& reason);
  size_t (*free_bytes)(int device);  // throws DeviceError
  std::unique_ptr<Backend> (*make)(int device, const BackendOptions& options);
  DevicePeaks (*measure)(int device);
  WeightBytes weight_bytes;
};

}  // namespace hrun
