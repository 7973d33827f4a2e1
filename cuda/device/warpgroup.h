// Products that four warps ask for together and that go on by themselves (wgmma, of 9.0a alone).
//
// A warpgroup is four warps from a multiple of four on.  Each brings 16 rows of a in its registers,
// as mma_s8 has them; b lies in shared memory, and the sums are C fragments of each warp's rows.
// The order of things, which the emulation demands:
//
//   show_to_products()   by each thread that wrote b, before the barrier behind which it is read
//   begin_products(c, a) when c and a are made, before their product
//   multiply_s8(c, a, b) as many as follow one another
//   commit_products()
//   wait_products<n>(c)  until then nobody touches c, a or b
#pragma once

#include "cuda/device/thread.h"

namespace hrun::gpu {

inline constexpr int kWarpgroup = 128;  // threads

// Has the code that is being compiled such products?  Kernels that need them are empty elsewhere.
#if !defined(__CUDA_ARCH__) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
inline constexpr bool kHasWarpgroups = true;
#else
inline constexpr bool kHasWarpgroups = false;
#endif
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HRUN_WARPGROUPS 1
#endif

// Describes b: columns of 128 bytes, eight of them in 1024 bytes and the next eight behind.  The
// sixteen bytes number i of column n are in place i ^ n % 8 (swizzled_piece).  The address is a
// multiple of 1024.
struct ProductColumns {
  uint64_t bits;
  // From byte `first` of each column on, a multiple of 16 below 128.  And `bytes` further on.
  HRUN_HD ProductColumns at(int first) const { return {bits + static_cast<uint64_t>(first >> 4)}; }
};
HRUN_HD int swizzled_piece(int column, int piece) {
  return column * 128 + ((piece ^ (column & 7)) << 4);
}
HRUN_HD ProductColumns product_columns(const void* shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightColumns = uint64_t{1024 >> 4} << 32,
                     kNoLeading = uint64_t{1} << 16;
  return {(shared_address(shared) & 0x3ffffu) >> 4 | kNoLeading | kEightColumns | kSwizzle128};
}

#if defined(__CUDACC__)

HRUN_HD void show_to_products() {
#if defined(HRUN_WARPGROUPS)
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// The compiler leaves the values where they are: before, and after, this place.
template <int n>
HRUN_HD void hold(int (&c)[n][4]) {
#if defined(HRUN_WARPGROUPS)
#pragma unroll
  for (int i = 0; i < 4 * n; ++i) asm volatile("" : "+r"(c[i / 4][i % 4])::"memory");
#endif
}

template <int n>
HRUN_HD void begin_products(int (&c)[n][4], uint32_t (&a)[4]) {
#if defined(HRUN_WARPGROUPS)
  hold(c);
#pragma unroll
  for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(a[i])::"memory");
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

#define HRUN_SUMS(n) "+r"(c[n][0]), "+r"(c[n][1]), "+r"(c[n][2]), "+r"(c[n][3])
#define HRUN_SUMS4(n) HRUN_SUMS(n), HRUN_SUMS(n + 1), HRUN_SUMS(n + 2), HRUN_SUMS(n + 3)

// c[64 x 8 n] = a[64 x 32] b[32 x 8 n], added to c if kAdd, int8.
template <bool kAdd, int n>
HRUN_HD void multiply_s8(int (&c)[n][4], const uint32_t (&a)[4], ProductColumns b) {
  static_assert(n == 8 || n == 16);
#if defined(HRUN_WARPGROUPS)
  if constexpr (n == 8)
    asm volatile(
        "{ .reg .pred add;\n"
        "setp.ne.b32 add, %37, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,"
        "%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "
        "{%32,%33,%34,%35}, %36, add; }"
        : HRUN_SUMS4(0), HRUN_SUMS4(4)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits), "n"(kAdd ? 1 : 0)
        : "memory");
  else
    asm volatile(
        "{ .reg .pred add;\n"
        "setp.ne.b32 add, %69, 0;\n"
        "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,"
        "%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,%32,%33,"
        "%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,"
        "%56,%57,%58,%59,%60,%61,%62,%63}, {%64,%65,%66,%67}, %68, add; }"
        : HRUN_SUMS4(0), HRUN_SUMS4(4), HRUN_SUMS4(8), HRUN_SUMS4(12)
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits), "n"(kAdd ? 1 : 0)
        : "memory");
#endif
}

#undef HRUN_SUMS4
#undef HRUN_SUMS

HRUN_HD void commit_products() {  // the products since the last commit are a group
#if defined(HRUN_WARPGROUPS)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}
// Waits until at most the kNewest newest groups are under way.
template <int kNewest, int n>
HRUN_HD void wait_products(int (&c)[n][4]) {
#if defined(HRUN_WARPGROUPS)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kNewest) : "memory");
  hold(c);
#endif
}

#else  // the host: what each of them means

HRUN_HD void show_to_products() { emulation::show_to_products(); }
template <int n>
HRUN_HD void begin_products(int (&c)[n][4], uint32_t (&a)[4]) {
  emulation::begin_products(c[0], n, a);
}
template <bool kAdd, int n>
HRUN_HD void multiply_s8(int (&c)[n][4], const uint32_t (&a)[4], ProductColumns b) {
  static_assert(n == 8 || n == 16);
  emulation::multiply(c[0], n, a, b.bits, kAdd);
}
HRUN_HD void commit_products() { emulation::commit_products(); }
template <int kNewest, int n>
HRUN_HD void wait_products(int (&)[n][4]) {
  emulation::wait_products(kNewest);
}

#endif

}  // namespace hrun::gpu
