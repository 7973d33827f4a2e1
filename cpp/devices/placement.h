// Which layers go to which device, from sizes alone.
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

// What a model takes on a device, in bytes.
struct LayerSizes {
  std::vector<size_t> layers;  // weights, keys and values, states
  size_t head = 0;             // and what goes with it: the embedding, norms
  size_t working = 0;          // activations and scratch, whatever the number of layers
};

struct DeviceRoom {
  size_t free_bytes = 0;
  LayerSizes sizes;
  // Free bytes but a sixteenth of them and the working memory.
  size_t budget() const;
};

// How many of the last layers fit on all devices together; one more than there are with the head.
int64_t layers_that_fit(std::span<const DeviceRoom> rooms);

// The runs of the last `n` layers, and of the head if n is more than there are, device after
// device: as many bytes on each as make all equally full.  A device may get none.  `device` counts
// the rooms.
std::vector<LayerRun> share_layers(std::span<const DeviceRoom> rooms, int64_t n);

}  // namespace hrun
