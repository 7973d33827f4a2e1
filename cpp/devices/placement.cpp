#include "devices/placement.h"

#include <algorithm>

namespace hrun {
namespace {

// The last layers, as the devices take them: the last device first, each up to `level` of its
// budget.
struct Filled {
  std::vector<int64_t> first;  // layer of each device
  int64_t reached;             // layers from this one on have a place
  bool head;                   // has one
};

Filled fill(std::span<const DeviceRoom> rooms, int64_t first_layer, bool with_head, double level) {
  const auto n_layers = static_cast<int64_t>(rooms.front().sizes.layers.size());
  Filled filled{std::vector<int64_t>(rooms.size(), n_layers), n_layers, false};
  int64_t layer = n_layers;
  for (size_t d = rooms.size(); d-- > 0;) {
    const double budget = level * static_cast<double>(rooms[d].budget());
    double used = 0;
    if (with_head && d + 1 == rooms.size()) {
      used = static_cast<double>(rooms[d].sizes.head);
      filled.head = used <= budget;
    }
    while (layer > first_layer) {
      used += static_cast<double>(rooms[d].sizes.layers[static_cast<size_t>(layer - 1)]);
      if (used > budget) break;
      --layer;
    }
    filled.first[d] = layer;
  }
  filled.reached = layer;
  return filled;
}

bool is_complete(const Filled& filled, int64_t first_layer, bool with_head) {
  return filled.reached == first_layer && (!with_head || filled.head);
}

}  // namespace

size_t DeviceRoom::budget() const {
  const size_t held_back = free_bytes / 16 + sizes.working;
  return free_bytes - std::min(free_bytes, held_back);
}

int64_t layers_that_fit(std::span<const DeviceRoom> rooms) {
  const auto n_layers = static_cast<int64_t>(rooms.front().sizes.layers.size());
  if (is_complete(fill(rooms, 0, true, 1), 0, true)) return n_layers + 1;
  return n_layers - fill(rooms, 0, false, 1).reached;
}

std::vector<LayerRun> share_layers(std::span<const DeviceRoom> rooms, int64_t n) {
  const auto n_layers = static_cast<int64_t>(rooms.front().sizes.layers.size());
  const int64_t first_layer = std::max<int64_t>(n_layers - n, 0);
  const bool with_head = n > n_layers;
  // Find the lowest level that holds all; it is above 1 where more was asked for than fits.
  double low = 0, high = 1;
  constexpr double kHighest = 1e18;
  while (high < kHighest &&
         !is_complete(fill(rooms, first_layer, with_head, high), first_layer, with_head))
    low = high, high *= 2;
  for (int i = 0; i < 50; ++i) {
    const double middle = (low + high) / 2;
    (is_complete(fill(rooms, first_layer, with_head, middle), first_layer, with_head) ? high
                                                                                      : low) =
        middle;
  }
  Filled filled = fill(rooms, first_layer, with_head, high);
  // If devices have no room at all, the last one takes what has no place, and says so when it
  // cannot.
  if (filled.reached > first_layer)
    std::fill(filled.first.begin(), filled.first.end(), first_layer);
  std::vector<LayerRun> runs;
  int64_t end = first_layer;
  for (size_t d = 0; d < rooms.size(); ++d) {
    const int64_t next = d + 1 < rooms.size() ? filled.first[d + 1] : n_layers;
    if (next > end) runs.push_back({d, end, next});
    end = std::max(end, next);
  }
  const size_t last = rooms.size() - 1;
  if (with_head && (runs.empty() || runs.back().device != last))
    runs.push_back({last, n_layers, n_layers});
  return runs;
}

}  // namespace hrun
