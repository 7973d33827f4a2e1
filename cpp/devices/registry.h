// Which devices there are, of any number and kind, and who runs what.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/plugin.h"
#include "devices/placement.h"

namespace hrun {

// All devices, the CPU last.  With the free memory of GPUs, which starts each of them, or with all
// that they have in its place.  `reason` says why there is no GPU among them.
std::vector<DeviceDescription> list_devices(std::string& reason, bool free_memory);

// The backends of one model, in the order in which a token meets them, and their layers.
struct Backends {
  std::vector<std::unique_ptr<Backend>> all;
  std::vector<LayerRun> runs;
  std::string warning;  // a wish that was not met
};

// What a model takes on devices where a matrix takes so much.
using SizesOf = std::function<LayerSizes(WeightBytes)>;

// Layers from the last ones on go to GPUs, as many as n_gpu_layers says; then the head, then the
// embedding (llama.cpp's -ngl: n_layers + 1 is everything); when it does not say, as many as fit.
// "auto" takes the first GPU that holds them all, or else all GPUs; a list of names takes these,
// each filled alike.  Throws DeviceError, naming what exists, if a device was asked for by name and
// cannot be had.
Backends make_backends(const BackendOptions& options, int64_t n_layers, const SizesOf& sizes);

// One device: the first of those that `options` name.
std::unique_ptr<Backend> make_backend(const BackendOptions& options);

// Of a device by its name, "CUDA0".  Throws DeviceError.
DevicePeaks measure_device(const std::string& name);

}  // namespace hrun
