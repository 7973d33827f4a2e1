// The packed kernels of this tier, where it has them.
#pragma once

#include "cpu/matrix_kernels.h"
#include "cpu/lanes/lanes.h"
#include "cpu/panels/layout.h"

#if defined(HRUN_PANELS)
#include "cpu/kernels/matmul_packed.h"
namespace hrun {
namespace {
inline constexpr bool kHasPackedKernels = true;
}
}  // namespace hrun
#else
namespace hrun {
namespace {

inline constexpr bool kHasPackedKernels = false;
template <PackableFormat F>
void matmul_packed_kernel(const PackedWeights&, int64_t, int, const PackedActivations&, float*,
                          int64_t, float*);

int64_t multiply_registers_kernel(int64_t iterations) {
  constexpr int kChains = 8;
  IntLanes sums[kChains];
  const IntLanes w = splat_int(0x00010003);
  for (int i = 0; i < kChains; ++i) sums[i] = splat_int(i);
  for (int64_t n = 0; n < iterations; ++n)
#pragma GCC unroll 8
    for (int i = 0; i < kChains; ++i) sums[i] = dot_pairs(sums[i], w, static_cast<int32_t>(n));
  int32_t total = 0;
  for (int i = 0; i < kChains; ++i) total += reduce_add(sums[i]);
  const volatile int32_t used = total;
  (void)used;
  return iterations * kChains * kLanes * 2 * 2;
}

}  // namespace
}  // namespace hrun
#endif
