// The packed kernels of this tier, where it has them.
#pragma once

#include "cpu/packed.h"

#if defined(__AVX512VBMI__) && defined(__AVX512VNNI__)
#include "cpu/fast_avx512.h"
#else
namespace hrun {
namespace {
inline constexpr bool kHasPackedKernels = false;
template <PackableFormat F>
void matmul_packed_kernel(const PackedWeights&, int64_t, int, const PackedActivations&, float*, int64_t, float*);
}  // namespace
}  // namespace hrun
#endif
