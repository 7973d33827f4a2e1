// The order of candidates as one number, and the work that a block of threads does with them
// together.
#pragma once

#include "base/half.h"
#include "cuda/device/thread.h"

namespace hrun::gpu {

// A candidate is a number: the larger the better.  The logit's bits, made monotonic, and below them
// the id, reversed.
using Candidate = uint64_t;

// -0 counts as 0; NaN comes above all.
HRUN_HD uint32_t key_of(float logit) {
  if (logit != logit) return 0xffffffffu;
  const uint32_t bits = float_to_bits(logit + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}
HRUN_HD Candidate candidate(float logit, int id) {
  return static_cast<uint64_t>(key_of(logit)) << 32 | (0xffffffffu - static_cast<uint32_t>(id));
}
HRUN_HD int id_of(Candidate c) { return static_cast<int>(0xffffffffu - static_cast<uint32_t>(c)); }
HRUN_HD float logit_of(Candidate c) {
  const auto key = static_cast<uint32_t>(c >> 32);
  return bits_to_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

HRUN_HD Candidate warp_best(Candidate c) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const Candidate other = shuffle_xor(c, mask);
    c = c > other ? c : other;
  }
  return c;
}

// Sorts n values in shared memory into falling order, n a power of two: a bitonic network.
template <int kThreads>
HRUN_HD void block_sort(Candidate* values, int n) {
  sync_block();
  for (int run = 2; run <= n; run *= 2)
    for (int step = run / 2; step > 0; step /= 2) {
      for (int i = thread(); i < n / 2; i += kThreads) {
        const int low = i / step * 2 * step + i % step, high = low + step;
        const Candidate a = values[low], b = values[high];
        if ((a < b) == ((low & run) == 0)) {
          values[low] = b;
          values[high] = a;
        }
      }
      sync_block();
    }
}

}  // namespace hrun::gpu
