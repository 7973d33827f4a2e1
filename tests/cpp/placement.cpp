// Shares of layers among devices: every layer in its place, nothing beyond what a device has, and
// no fuller than the best of all cuts.
#include "devices/placement.h"

#include <algorithm>
#include <cstdio>
#include <random>

namespace {

int failures = 0;

void expect(bool ok, const char* what, int round) {
  if (ok) return;
  std::printf("round %d: %s\n", round, what);
  ++failures;
}

// Returns how full the fullest device is.
double fullest(const std::vector<hrun::DeviceRoom>& rooms, const std::vector<hrun::LayerRun>& runs,
               bool with_head) {
  double most = 0;
  for (size_t d = 0; d < rooms.size(); ++d) {
    double used =
        with_head && d + 1 == rooms.size() ? static_cast<double>(rooms[d].sizes.head) : 0.0;
    for (const hrun::LayerRun& run : runs)
      for (int64_t l = run.first_layer; run.device == d && l < run.end_layer; ++l)
        used += static_cast<double>(rooms[d].sizes.layers[static_cast<size_t>(l)]);
    most = std::max(most, used / static_cast<double>(rooms[d].budget()));
  }
  return most;
}

// The same for the best cut of layers first ... n - 1 from device d on.
double best(const std::vector<hrun::DeviceRoom>& rooms, std::vector<hrun::LayerRun>& runs,
            int64_t first, size_t d, bool with_head) {
  const auto n = static_cast<int64_t>(rooms[0].sizes.layers.size());
  if (d + 1 == rooms.size()) {
    runs.push_back({d, first, n});
    const double value = fullest(rooms, runs, with_head);
    runs.pop_back();
    return value;
  }
  double least = 1e300;
  for (int64_t end = first; end <= n; ++end) {
    runs.push_back({d, first, end});
    least = std::min(least, best(rooms, runs, end, d + 1, with_head));
    runs.pop_back();
  }
  return least;
}

}  // namespace

int main() {
  std::mt19937 random(7);
  const auto draw = [&](size_t least, size_t most) {
    return std::uniform_int_distribution<size_t>(least, most)(random);
  };
  for (int round = 0; round < 2000; ++round) {
    const size_t n_devices = draw(1, 4), n_layers = draw(1, 7);
    std::vector<hrun::DeviceRoom> rooms(n_devices);
    const bool alike = draw(0, 1) == 0;
    hrun::LayerSizes sizes;
    for (size_t l = 0; l < n_layers; ++l) sizes.layers.push_back(draw(1, 1000));
    sizes.head = draw(0, 2000);
    sizes.working = draw(0, 100);
    for (hrun::DeviceRoom& room : rooms) {
      room.sizes = sizes;
      if (!alike)
        for (size_t& bytes : room.sizes.layers) bytes = bytes * 9 / 8;
      room.free_bytes = draw(300, 6000);
    }
    const auto layers = static_cast<int64_t>(n_layers);
    const int64_t fitting = hrun::layers_that_fit(rooms);
    expect(fitting >= 0 && fitting <= layers + 1, "a number of layers", round);
    for (int64_t n = 1; n <= layers + 1; ++n) {
      const std::vector<hrun::LayerRun> runs = hrun::share_layers(rooms, n);
      const bool with_head = n > layers;
      int64_t next = std::max<int64_t>(layers - n, 0);
      const int64_t first = next;
      size_t least_device = 0;
      for (const hrun::LayerRun& run : runs) {
        expect(run.first_layer == next && run.end_layer >= next && run.device >= least_device &&
                   run.device < n_devices,
               "runs in order, without a gap", round);
        next = run.end_layer;
        least_device = run.device + 1;
      }
      expect(next == layers, "all layers have a place", round);
      expect(!with_head || (!runs.empty() && runs.back().device + 1 == n_devices),
             "the head is on the last device", round);
      const double full = fullest(rooms, runs, with_head);
      if (n <= fitting) expect(full <= 1, "what fits is placed so that it fits", round);
      std::vector<hrun::LayerRun> tried;
      const double least = best(rooms, tried, first, 0, with_head);
      expect(full <= least * (1 + 1e-9), "no cut is better", round);
      if (n == layers + 1 || n == fitting + 1)
        expect((least <= 1) == (n <= fitting), "as many as fit by any cut", round);
    }
  }
  return failures == 0 ? 0 : 1;
}
