// The devices there are, of any number and kind, and the layers that each of them runs.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/plugin.h"
#include "devices/placement.h"

namespace hrun {

// Lists all devices, the CPU last.  It gives the free memory of GPUs, which starts each of them, or
// all the memory that they have in its place.  `reason` says why there is no GPU among them.
std::vector<DeviceDescription> list_devices(std::string& reason, bool free_memory);

// The backends of one model, in the order in which a token meets them, and their layers.
struct Backends {
  std::vector<std::unique_ptr<Backend>> all;
  std::vector<LayerRun> runs;
  std::string warning;  // a wish that was not met
};

// Gives the bytes that a model takes on a device, from the bytes that a matrix takes there.
using SizesOf = std::function<LayerSizes(WeightBytes)>;

// Gives layers to GPUs, from the last one on, as many as n_gpu_layers says; then the head, then the
// embedding (llama.cpp's -ngl: n_layers + 1 is everything).  When n_gpu_layers does not say, as
// many go as fit.  "auto" takes the first GPU that holds them all, or else all GPUs; a list of
// names takes these, each filled alike.  Throws DeviceError, naming what exists, if a device was
// asked for by name and cannot be had.
Backends make_backends(const BackendOptions& options, int64_t n_layers, const SizesOf& sizes);

// Makes one device: the first of those that `options` name.
std::unique_ptr<Backend> make_backend(const BackendOptions& options);

// Measures the device of this name, such as "CUDA0".  Throws DeviceError.
DevicePeaks measure_device(const std::string& name);

}  // namespace hrun
