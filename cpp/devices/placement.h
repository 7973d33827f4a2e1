// Decides which layers go to which device, from sizes alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hrun {

// Consecutive layers on one backend.  The first run embeds the tokens, the last one has the head.
struct LayerRun {
  size_t device;  // number of the backend
  int64_t first_layer, end_layer;
};

// The bytes that a model takes on a device.
struct LayerSizes {
  std::vector<size_t> layers;  // weights, keys and values, states
  size_t head = 0;             // and what goes with it: the embedding, norms
  size_t working = 0;          // activations and scratch, whatever the number of layers
};

struct DeviceRoom {
  size_t free_bytes = 0;
  LayerSizes sizes;
  // The free bytes without a sixteenth of them and without the working memory.
  size_t budget() const;
};

// The number of last layers that fit on all devices together.  If the head fits as well, it is one
// more than there are layers.
int64_t layers_that_fit(std::span<const DeviceRoom> rooms);

// Shares the last `n` layers among the devices, and the head if n is more than there are layers.
// Returns one run after the other; each device gets as many bytes as make all equally full.  A
// device may get none.  `device` in a run is the number of its room.
std::vector<LayerRun> share_layers(std::span<const DeviceRoom> rooms, int64_t n);

}  // namespace hrun
