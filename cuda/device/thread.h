// The functions that a kernel may call on its thread: the same source runs on a CUDA device and,
// under emulation/, on the CPU.
//
// A kernel is a plain struct of arguments with a call operator, launched by Gpu::launch (gpu.h)
// over one-dimensional blocks of whole warps.  Everything that is not ordinary C++ goes through the
// functions below.  On the device they are one or two instructions; on the host they are their
// definition, so that tests without a GPU run the kernels themselves: indexing, fragment layouts,
// barriers and all.
//
// Warp functions need all 32 lanes of the warp, as full-mask __shfl_sync and mma.sync do.
#pragma once

#include <cstdint>
#include <cstring>

#include "base/half.h"
#include "base/host_device.h"
#if !defined(__CUDACC__)
#include "cuda/emulation/block.h"
#endif

namespace hrun::gpu {

inline constexpr int kWarp = 32;

// Sixteen bytes, moved by one instruction.
struct alignas(16) Words4 {
  uint32_t v[4];
};
struct alignas(8) Words2 {
  uint32_t v[2];
};

#if defined(__CUDACC__)

HRUN_HD void device_only() {
#if !defined(__CUDA_ARCH__)
  __builtin_trap();  // the host half of a kernel, which nobody calls
#endif
}

#if defined(__CUDA_ARCH__)
#define HRUN_CUDA(device, otherwise) device
#else
#define HRUN_CUDA(device, otherwise) (device_only(), otherwise)
#endif

HRUN_HD int thread() { return HRUN_CUDA(static_cast<int>(threadIdx.x), 0); }
HRUN_HD int n_threads() { return HRUN_CUDA(static_cast<int>(blockDim.x), 0); }
HRUN_HD int block_x() { return HRUN_CUDA(static_cast<int>(blockIdx.x), 0); }
HRUN_HD int block_y() { return HRUN_CUDA(static_cast<int>(blockIdx.y), 0); }
HRUN_HD int block_z() { return HRUN_CUDA(static_cast<int>(blockIdx.z), 0); }
HRUN_HD int grid_x() { return HRUN_CUDA(static_cast<int>(gridDim.x), 0); }
HRUN_HD int grid_y() { return HRUN_CUDA(static_cast<int>(gridDim.y), 0); }

#if defined(__CUDA_ARCH__)
extern __shared__ __align__(1024) uint8_t hrun_shared[];
#endif
HRUN_HD uint8_t* shared() { return HRUN_CUDA(hrun_shared, nullptr); }

// Waits until the kernels before this one in the stream are done and what they wrote is there.
// Until then a kernel may read what no kernel writes, such as weights, and write nothing.
HRUN_HD void wait_for_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
// Lets the next kernel begin, once all blocks of this one have come here.
HRUN_HD void let_next_begin() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

HRUN_HD void sync_block() { HRUN_CUDA(__syncthreads(), (void)0); }
HRUN_HD void sync_warp() { HRUN_CUDA(__syncwarp(), (void)0); }

HRUN_HD uint32_t shuffle_bits(uint32_t v, int from) {
  return HRUN_CUDA(__shfl_sync(0xffffffffu, v, from), v);
}
HRUN_HD uint32_t shuffle_xor_bits(uint32_t v, int mask) {
  return HRUN_CUDA(__shfl_xor_sync(0xffffffffu, v, mask), v);
}
HRUN_HD uint32_t ballot(bool vote) { return HRUN_CUDA(__ballot_sync(0xffffffffu, vote), vote); }
HRUN_HD int count_ones(uint32_t v) { return HRUN_CUDA(__popc(v), static_cast<int>(v)); }

// The same number, which the compiler cannot see through: a value computed from it is computed
// where it stands, and holds no register across a loop.
HRUN_HD int opaque(int v) {
#if defined(__CUDA_ARCH__)
  asm volatile("" : "+r"(v));
#endif
  return v;
}

// It is not __byte_perm, which drops bit 3 of the selectors.
HRUN_HD uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  uint32_t r = 0;
#if defined(__CUDA_ARCH__)
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(r) : "r"(low), "r"(high), "r"(selector));
#endif
  return r;
}
// The upper 32 of 64 bits.
HRUN_HD uint32_t multiply_high(uint32_t a, uint32_t b) { return HRUN_CUDA(__umulhi(a, b), a + b); }

// c + two int16 times two uint8, which are the lower or the upper ones of a word.
template <bool kUpper>
HRUN_HD int dot2(uint32_t two, uint32_t bytes, int c) {
#if defined(__CUDA_ARCH__)
  if constexpr (kUpper)
    asm("dp2a.hi.s32.u32 %0, %1, %2, %0;" : "+r"(c) : "r"(two), "r"(bytes));
  else
    asm("dp2a.lo.s32.u32 %0, %1, %2, %0;" : "+r"(c) : "r"(two), "r"(bytes));
#endif
  return c;
}

// c[16 x 8] += a[16 x 32] b[32 x 8], int8, rows of a and columns of b packed four to a word.
HRUN_HD void mma_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
// The same of 16 instead of 32 columns.
HRUN_HD void mma_s8(int (&c)[4], const uint32_t (&a)[2], uint32_t b) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, {%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
#endif
}
// The same of 32 columns with a of uint8.
HRUN_HD void mma_u8_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
// c[16 x 8] += a[16 x 16] b[16 x 8], fp16 in, fp32 sums.
HRUN_HD void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
// The same with fp16 sums: c[0] holds row lane / 4, c[1] row lane / 4 + 8, two columns each.
HRUN_HD void mma_f16_half(uint32_t (&c)[2], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16 {%0,%1}, {%2,%3,%4,%5}, {%6,%7}, {%0,%1};"
      : "+r"(c[0]), "+r"(c[1])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

// c[16 x 8] += a[16 x 8] b[8 x 8] of fp32 values whose low 13 bits are zero, fp32 sums.
HRUN_HD void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#if defined(__CUDA_ARCH__)
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

HRUN_HD uint32_t shared_address(const void* p) {
  return HRUN_CUDA(static_cast<uint32_t>(__cvta_generic_to_shared(p)),
                   static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p)));
}
// Four 8 x 8 matrices of 16-bit values: lane l gives the address of row l % 8 of matrix l / 8 (16
// bytes in shared memory) and gets of each matrix i, in r[i], the values 2 (l % 4) and the next of
// row l / 4.
HRUN_HD void load_matrices(uint32_t (&r)[4], const void* row) {
#if defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}
// The same of the transposed matrices.
HRUN_HD void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
#if defined(__CUDA_ARCH__)
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// Copies sixteen bytes from global to shared memory, or zeros if not `inside`; it is done only
// after the wait for their group.
HRUN_HD void copy_async(void* to_shared, const void* from, bool inside = true) {
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to_shared)),
               "l"(from), "r"(inside ? 16 : 0)
               : "memory");
#endif
}
HRUN_HD void commit_copies() {  // the copies since the last commit are a group
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}
template <int n>
HRUN_HD void wait_copies() {  // until at most the n newest groups of this thread are under way
#if defined(__CUDA_ARCH__)
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
#endif
}

// Is this the lane that does what one lane of the warp shall do?
HRUN_HD bool is_elected() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  uint32_t elected;
  asm volatile(
      "{ .reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p; }"
      : "=r"(elected));
  return elected != 0;
#else
  return HRUN_CUDA(threadIdx.x % 32 == 0, false);
#endif
}
// Has the code that is being compiled bulk copies?  Kernels that need them are empty elsewhere.
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 900
inline constexpr bool kHasBulkCopies = true;
#else
inline constexpr bool kHasBulkCopies = false;
#endif
// A bulk copy goes past the threads: one lane begins it, and lanes that need the bytes wait for its
// barrier, 8 bytes of shared memory that has a phase for every copy.  From 9.0 on.
HRUN_HD void make_bulk_barrier(uint64_t* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}
// Both addresses and the number of bytes are multiples of sixteen.
HRUN_HD void copy_bulk(void* to_shared, const void* from, int bytes, uint64_t* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::
          "r"(shared_address(to_shared)),
      "l"(from), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
#endif
}
// Waits for the copy of a phase: 0 for the first of a barrier, 1 for the second, 0 for the third.
HRUN_HD void wait_bulk(uint64_t* barrier, int phase) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile(
      "{ .reg .pred done;\n"
      "again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again; }" ::"r"(shared_address(barrier)),
      "r"(phase)
      : "memory");
#endif
}

// Loads weights, which are read once per pass: it leaves the caches to data that is read again.
HRUN_HD Words4 load_once(const Words4* p) {
  Words4 r{};
#if defined(__CUDA_ARCH__)
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(r.v[0]), "=r"(r.v[1]), "=r"(r.v[2]), "=r"(r.v[3])
               : "l"(p));
#endif
  return r;
}

// The fp16 value in the low half of a word.
HRUN_HD float half_to_float(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  float r;
  asm("cvt.f32.f16 %0, %1;" : "=f"(r) : "h"(static_cast<uint16_t>(bits)));
  return r;
#else
  return fp16_to_fp32(static_cast<uint16_t>(bits));
#endif
}
// Two fp16 values per word.
HRUN_HD uint32_t add_halves(uint32_t a, uint32_t b) {
  uint32_t r = 0;
#if defined(__CUDA_ARCH__)
  asm("add.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
#endif
  return r;
}
HRUN_HD uint32_t sub_halves(uint32_t a, uint32_t b) {
  uint32_t r = 0;
#if defined(__CUDA_ARCH__)
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
#endif
  return r;
}
HRUN_HD uint32_t mul_halves(uint32_t a, uint32_t b) {
  uint32_t r = 0;
#if defined(__CUDA_ARCH__)
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(r) : "r"(a), "r"(b));
#endif
  return r;
}
HRUN_HD uint32_t fma_halves(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t r = 0;
#if defined(__CUDA_ARCH__)
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(r) : "r"(a), "r"(b), "r"(c));
#endif
  return r;
}

// Adds to a counter in shared memory and returns its old value.  Chance decides which thread gets
// which number.
HRUN_HD int add_shared(int* counter, int n) {
  return HRUN_CUDA(atomicAdd(counter, n), *counter + n);
}

// Orders the writes of blocks of threads: a thread that sees what is written after this sees what
// was written before it.
HRUN_HD void fence() {
#if defined(__CUDA_ARCH__)
  __threadfence();
#endif
}
// Adds to a counter in device memory and returns its old value.
HRUN_HD int count_up(int* counter) { return HRUN_CUDA(atomicAdd(counter, 1), *counter); }

HRUN_HD float fused_multiply_add(float a, float b, float c) {
  return HRUN_CUDA(__fmaf_rn(a, b, c), a * b + c);
}

// 2^x to 2 in 2^23 relative; 2^-infinity is 0, results below the smallest normal number may be 0.
HRUN_HD float exp2_fast(float x) {
  float r = x;
#if defined(__CUDA_ARCH__)
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(r) : "f"(x));
#endif
  return r;
}

// The larger of two numbers; of a number and a NaN, the number.
HRUN_HD float largest_of(float a, float b) { return HRUN_CUDA(fmaxf(a, b), a); }

// Two fp16 values in a word, the first in the low half: narrowed to nearest even, and widened.
HRUN_HD uint32_t two_halves(float low, float high) {
  uint32_t r = 0;
#if defined(__CUDA_ARCH__)
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
#endif
  return r;
}
HRUN_HD float low_half(uint32_t word) {
  float r = 0;
#if defined(__CUDA_ARCH__)
  asm("{ .reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, l; }" : "=f"(r) : "r"(word));
#endif
  return r;
}
HRUN_HD float high_half(uint32_t word) {
  float r = 0;
#if defined(__CUDA_ARCH__)
  asm("{ .reg .f16 l, h; mov.b32 {l, h}, %1; cvt.f32.f16 %0, h; }" : "=f"(r) : "r"(word));
#endif
  return r;
}

#else  // the host: what each of them means

HRUN_HD int thread() { return emulation::fiber().thread; }
HRUN_HD int n_threads() { return emulation::block().n_threads; }
HRUN_HD int block_x() { return emulation::block().at.x; }
HRUN_HD int block_y() { return emulation::block().at.y; }
HRUN_HD int block_z() { return emulation::block().at.z; }
HRUN_HD int grid_x() { return emulation::block().grid.x; }
HRUN_HD int grid_y() { return emulation::block().grid.y; }
HRUN_HD uint8_t* shared() { return emulation::block().shared; }

HRUN_HD void wait_for_kernels() { emulation::wait_for_kernels(); }
HRUN_HD void let_next_begin() {}

HRUN_HD void sync_block() { emulation::wait_for_block(); }
HRUN_HD void sync_warp() { emulation::exchange(emulation::Meeting::sync, nullptr, 0); }

template <class V>
HRUN_HD V from_lane(const emulation::Slot* slots, int lane) {
  V v;
  memcpy(&v, slots[lane].bytes, sizeof v);
  return v;
}

HRUN_HD uint32_t shuffle_bits(uint32_t v, int from) {
  return from_lane<uint32_t>(emulation::exchange(emulation::Meeting::shuffle, &v, sizeof v),
                             from & 31);
}
HRUN_HD uint32_t shuffle_xor_bits(uint32_t v, int mask) {
  return shuffle_bits(v, (thread() & 31) ^ mask);
}
HRUN_HD uint32_t ballot(bool vote) {
  const uint32_t mine = vote;
  const emulation::Slot* slots =
      emulation::exchange(emulation::Meeting::ballot, &mine, sizeof mine);
  uint32_t all = 0;
  for (int l = 0; l < kWarp; ++l) all |= from_lane<uint32_t>(slots, l) << l;
  return all;
}

HRUN_HD int count_ones(uint32_t v) { return __builtin_popcount(v); }

HRUN_HD uint32_t permute_bytes(uint32_t low, uint32_t high, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(high) << 32 | low;
  uint32_t r = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t s = selector >> (4 * i) & 15;
    uint32_t byte = static_cast<uint32_t>(both >> (8 * (s & 7))) & 255;
    if (s & 8) byte = byte & 128 ? 255 : 0;  // bit 3: the sign of the byte, eight times
    r |= byte << (8 * i);
  }
  return r;
}
HRUN_HD uint32_t multiply_high(uint32_t a, uint32_t b) {
  return static_cast<uint32_t>(static_cast<uint64_t>(a) * b >> 32);
}

template <bool kUpper>
HRUN_HD int dot2(uint32_t two, uint32_t bytes, int c) {
  for (int i = 0; i < 2; ++i)
    c += static_cast<int16_t>(two >> (16 * i)) *
         static_cast<int>(bytes >> (8 * i + (kUpper ? 16 : 0)) & 255);
  return c;
}

struct Fragments {
  uint32_t a[4], b[2];
};

// The rows of a that this lane's c needs and the columns of b, from the lanes that hold them.
// `values` per word: 4 or 2.
template <int values, class Element>
HRUN_HD void gather(const emulation::Slot* slots, Element (&rows)[2][8 * values],
                    Element (&cols)[2][8 * values]) {
  const int lane = thread() & 31;
  for (int h = 0; h < 2; ++h)
    for (int k = 0; k < 8 * values; ++k) {
      const int quad = k % (4 * values) / values, half = k / (4 * values), at = k % values;
      const auto element = [&](uint32_t word) {
        Element e;
        memcpy(&e, reinterpret_cast<const uint8_t*>(&word) + at * static_cast<int>(sizeof e),
               sizeof e);
        return e;
      };
      // a: register half * 2 + h holds row lane / 4 + 8 h; b: register `half` holds column lane
      // / 4.
      rows[h][k] = element(from_lane<Fragments>(slots, lane / 4 * 4 + quad).a[half * 2 + h]);
      cols[h][k] = element(from_lane<Fragments>(slots, (lane % 4 * 2 + h) * 4 + quad).b[half]);
    }
}

HRUN_HD void mma_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const emulation::Slot* slots = emulation::exchange(emulation::Meeting::mma, &mine, sizeof mine);
  int8_t rows[2][32], cols[2][32];
  gather<4>(slots, rows, cols);
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 32; ++k) c[i] += rows[i / 2][k] * cols[i % 2][k];
}

HRUN_HD void mma_u8_s8(int (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const emulation::Slot* slots = emulation::exchange(emulation::Meeting::mma, &mine, sizeof mine);
  int8_t rows[2][32], cols[2][32];
  gather<4>(slots, rows, cols);
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 32; ++k) c[i] += static_cast<uint8_t>(rows[i / 2][k]) * cols[i % 2][k];
}

// The same for the lower half of the columns of the same fragments.
HRUN_HD void mma_s8(int (&c)[4], const uint32_t (&a)[2], uint32_t b) {
  mma_s8(c, {a[0], a[1], 0, 0}, {b, 0});
}

// The products are exact and the sum is rounded once, which is what the hardware does up to its
// own, unspecified, rounding.
HRUN_HD void halves_product(double (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const emulation::Slot* slots = emulation::exchange(emulation::Meeting::mma, &mine, sizeof mine);
  uint16_t rows[2][16], cols[2][16];
  gather<2>(slots, rows, cols);
  for (int i = 0; i < 4; ++i)
    for (int k = 0; k < 16; ++k)
      sum[i] += static_cast<double>(fp16_to_fp32(rows[i / 2][k])) * fp16_to_fp32(cols[i % 2][k]);
}
HRUN_HD void mma_f16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  double sum[4] = {c[0], c[1], c[2], c[3]};
  halves_product(sum, a, b);
  for (int i = 0; i < 4; ++i) c[i] = static_cast<float>(sum[i]);
}
HRUN_HD void mma_f16_half(uint32_t (&c)[2], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  double sum[4];
  for (int i = 0; i < 4; ++i)
    sum[i] = fp16_to_fp32(static_cast<uint16_t>(c[i / 2] >> (16 * (i % 2))));
  halves_product(sum, a, b);
  for (int i = 0; i < 2; ++i)
    c[i] = fp32_to_fp16(static_cast<float>(sum[2 * i])) |
           static_cast<uint32_t>(fp32_to_fp16(static_cast<float>(sum[2 * i + 1]))) << 16;
}

HRUN_HD void mma_tf32(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  const Fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}};
  const emulation::Slot* slots = emulation::exchange(emulation::Meeting::mma, &mine, sizeof mine);
  const int lane = thread() & 31;
  const auto value = [](uint32_t bits) {
    return static_cast<double>(bits_to_float(bits & 0xffffe000u));
  };
  for (int i = 0; i < 4; ++i) {
    double sum = c[i];
    for (int k = 0; k < 8; ++k)
      sum += value(from_lane<Fragments>(slots, lane / 4 * 4 + k % 4).a[k / 4 * 2 + i / 2]) *
             value(from_lane<Fragments>(slots, (lane % 4 * 2 + i % 2) * 4 + k % 4).b[k / 4]);
    c[i] = static_cast<float>(sum);
  }
}

HRUN_HD uint32_t shared_address(const void* p) {  // the lower half
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(p));
}
HRUN_HD void load_matrices(uint32_t (&r)[4], const void* row) {
  emulation::require_alignment(row, "a row of a matrix");
  const emulation::Slot* slots =
      emulation::exchange(emulation::Meeting::load_matrices, &row, sizeof row);
  const int lane = thread() & 31;
  for (int i = 0; i < 4; ++i)
    memcpy(&r[i], from_lane<const uint8_t*>(slots, 8 * i + lane / 4) + 4 * (lane % 4), 4);
}
HRUN_HD void load_matrices_transposed(uint32_t (&r)[4], const void* row) {
  emulation::require_alignment(row, "a row of a matrix");
  const emulation::Slot* slots =
      emulation::exchange(emulation::Meeting::load_matrices, &row, sizeof row);
  const int lane = thread() & 31;
  for (int i = 0; i < 4; ++i) {
    uint16_t pair[2];
    for (int j = 0; j < 2; ++j)
      memcpy(&pair[j],
             from_lane<const uint8_t*>(slots, 8 * i + 2 * (lane % 4) + j) + 2 * (lane / 4), 2);
    r[i] = pair[0] | static_cast<uint32_t>(pair[1]) << 16;
  }
}

HRUN_HD void copy_async(void* to_shared, const void* from, bool inside = true) {
  emulation::copy_async(to_shared, inside ? from : nullptr);
}
HRUN_HD void commit_copies() { emulation::commit_copies(); }
template <int n>
HRUN_HD void wait_copies() {
  emulation::wait_copies(n);
}

HRUN_HD bool is_elected() {
  emulation::exchange(emulation::Meeting::elect, nullptr, 0);
  return thread() % kWarp == 0;
}
inline constexpr bool kHasBulkCopies = true;
HRUN_HD void make_bulk_barrier(uint64_t* barrier) { emulation::make_bulk_barrier(barrier); }
HRUN_HD void copy_bulk(void* to_shared, const void* from, int bytes, uint64_t* barrier) {
  emulation::copy_bulk(to_shared, from, static_cast<size_t>(bytes), barrier);
}
HRUN_HD void wait_bulk(uint64_t* barrier, int phase) { emulation::wait_bulk(barrier, phase); }

HRUN_HD Words4 load_once(const Words4* p) {
  emulation::require_alignment(p, "a load");
  return *p;
}

HRUN_HD float half_to_float(uint32_t bits) { return fp16_to_fp32(static_cast<uint16_t>(bits)); }

template <class Function>
HRUN_HD uint32_t each_half(Function&& f) {
  return static_cast<uint32_t>(fp32_to_fp16(static_cast<float>(f(0)))) |
         static_cast<uint32_t>(fp32_to_fp16(static_cast<float>(f(16)))) << 16;
}
HRUN_HD double half_at(uint32_t word, int bit) {
  return fp16_to_fp32(static_cast<uint16_t>(word >> bit));
}
HRUN_HD uint32_t add_halves(uint32_t a, uint32_t b) {
  return each_half([&](int i) { return half_at(a, i) + half_at(b, i); });
}
HRUN_HD uint32_t sub_halves(uint32_t a, uint32_t b) {
  return each_half([&](int i) { return half_at(a, i) - half_at(b, i); });
}
HRUN_HD uint32_t mul_halves(uint32_t a, uint32_t b) {
  return each_half([&](int i) { return half_at(a, i) * half_at(b, i); });
}
HRUN_HD uint32_t fma_halves(uint32_t a, uint32_t b, uint32_t c) {
  return each_half([&](int i) { return half_at(a, i) * half_at(b, i) + half_at(c, i); });
}

HRUN_HD int add_shared(int* counter, int n) { return emulation::add_shared(counter, n); }
HRUN_HD int opaque(int v) { return v; }

HRUN_HD void fence() {}
HRUN_HD int count_up(int* counter) { return (*counter)++; }
HRUN_HD float fused_multiply_add(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

HRUN_HD float exp2_fast(float x) { return __builtin_exp2f(x); }
HRUN_HD float largest_of(float a, float b) { return a > b || b != b ? a : b; }

HRUN_HD uint32_t two_halves(float low, float high) {
  return static_cast<uint32_t>(fp32_to_fp16(low)) | static_cast<uint32_t>(fp32_to_fp16(high)) << 16;
}
HRUN_HD float low_half(uint32_t word) { return fp16_to_fp32(static_cast<uint16_t>(word)); }
HRUN_HD float high_half(uint32_t word) { return fp16_to_fp32(static_cast<uint16_t>(word >> 16)); }

#endif

// Made of the above.

HRUN_HD int lowest_bit(uint32_t v) {  // of v != 0
#if defined(__CUDA_ARCH__)
  return __ffs(static_cast<int>(v)) - 1;
#else
  return __builtin_ctz(v);
#endif
}

HRUN_HD int lane() { return thread() & (kWarp - 1); }
HRUN_HD int warp() { return thread() / kWarp; }

HRUN_HD float shuffle(float v, int from) {
  return bits_to_float(shuffle_bits(float_to_bits(v), from));
}
HRUN_HD double shuffle(double v, int from) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  const uint64_t low = shuffle_bits(static_cast<uint32_t>(bits), from),
                 high = shuffle_bits(static_cast<uint32_t>(bits >> 32), from);
  bits = high << 32 | low;
  memcpy(&v, &bits, sizeof bits);
  return v;
}
HRUN_HD float shuffle_xor(float v, int mask) {
  return bits_to_float(shuffle_xor_bits(float_to_bits(v), mask));
}
HRUN_HD int shuffle_xor(int v, int mask) {
  return static_cast<int>(shuffle_xor_bits(static_cast<uint32_t>(v), mask));
}
HRUN_HD uint64_t shuffle_xor(uint64_t v, int mask) {
  const uint64_t high = shuffle_xor_bits(static_cast<uint32_t>(v >> 32), mask);
  return high << 32 | shuffle_xor_bits(static_cast<uint32_t>(v), mask);
}
HRUN_HD double shuffle_xor(double v, int mask) {
  uint64_t bits;
  memcpy(&bits, &v, sizeof bits);
  bits = shuffle_xor(bits, mask);
  memcpy(&v, &bits, sizeof bits);
  return v;
}

// The same value, of which the compiler knows nothing: it stays in a register and is not folded
// into the operations that use it.
HRUN_HD uint32_t opaque(uint32_t v) { return shuffle_bits(v, 0); }

// Loads eight values from column c on, with zeros beyond the row.  wide: the address of column c is
// a multiple of 16 bytes.
HRUN_HD void load_eight(const float* row, int64_t c, int64_t cols, bool wide, float (&v)[8]) {
  if (wide && c + 8 <= cols) {
    const auto* const words = reinterpret_cast<const Words4*>(row + c);
    const Words4 a = words[0], b = words[1];
#pragma unroll
    for (int i = 0; i < 4; ++i) v[i] = bits_to_float(a.v[i]), v[4 + i] = bits_to_float(b.v[i]);
  } else {
#pragma unroll
    for (int i = 0; i < 8; ++i) v[i] = c + i < cols ? row[c + i] : 0.0f;
  }
}

// The sum and the maximum over the warp: every lane gets the same bits.
template <class T>
HRUN_HD T warp_sum(T v) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) v += shuffle_xor(v, mask);
  return v;
}
HRUN_HD float warp_max(float v) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const float other = shuffle_xor(v, mask);
    v = v > other ? v : other;
  }
  return v;
}

// The sum over a block, in every thread, always in the same order.  partial: kThreads / 32 values
// in shared memory.
template <int kThreads, class T>
HRUN_HD T block_sum(T v, T* partial) {
  v = warp_sum(v);
  if (lane() == 0) partial[warp()] = v;
  sync_block();
  T sum = 0;
  for (int w = 0; w < kThreads / kWarp; ++w) sum += partial[w];
  sync_block();
  return sum;
}

}  // namespace hrun::gpu
