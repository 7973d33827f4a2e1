// Which devices there are, and who runs what.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/plugin.h"

namespace hrun {

// All devices, the CPU last.  `reason` says why there is no GPU among them.
std::vector<DeviceDescription> list_devices(std::string& reason);

// The backends of one model.  Layers from the last ones on go to the accelerator, as many as
// n_gpu_layers says; then the head, then the embedding (llama.cpp's -ngl: n_layers + 1 is
// everything).  Both may be the same.
struct Backends {
  std::unique_ptr<Backend> cpu;          // null if nothing stays there
  std::unique_ptr<Backend> accelerator;  // null if there is none, or nothing goes there
  int64_t first_layer = 0;               // of the accelerator
  bool head = false;                     // on the accelerator?
  std::string warning;                   // a wish that was not met
};

// What a device has left, and what it needs for a matrix.
struct DeviceRoom {
  size_t free_bytes;
  size_t (*weight_bytes)(FormatId format, int64_t rows, int64_t cols);
};

// `fit`: the layers for a device when n_gpu_layers does not say; without it, everything.  Throws
// DeviceError, naming what exists, if a device was asked for by name and cannot be had.
Backends make_backends(const BackendOptions& options, int64_t n_layers,
                       const std::function<int64_t(const DeviceRoom&)>& fit = {});

// Of a device by its name, "CUDA0".  Throws DeviceError.
DevicePeaks measure_device(const std::string& name);

}  // namespace hrun
