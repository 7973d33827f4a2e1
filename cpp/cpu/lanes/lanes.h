// Sixteen floats, sixteen int32: the vocabulary of all kernels, in the widest instructions of the
// tier being compiled.
//
// Every function gives the same bits in every tier.  All are always inlined (host_device.h says
// why).
#pragma once

#include HRUN_LANES  // the tier's, named in tiers.cmake

namespace hrun {
namespace {

// The first n (< 16) of 16 values; the others are 0.
HRUN_HD Lanes load_partial(const float* p, int n) {
  float padded[kLanes] = {};
  for (int i = 0; i < n; ++i) padded[i] = p[i];
  return load(padded);
}

HRUN_HD void store_partial(float* p, Lanes x, int n) {
  float all[kLanes];
  store(all, x);
  for (int i = 0; i < n; ++i) p[i] = all[i];
}

// Calls f(i, n) for i = 0, 16, 32, ...: n is 16, less in the last step where n_values is no
// multiple of it.
template <class Function>
HRUN_HD void for_lanes(int64_t n_values, Function&& f) {
  int64_t i = 0;
  for (; i + kLanes <= n_values; i += kLanes) f(i, kLanes);
  if (i < n_values) f(i, static_cast<int>(n_values - i));
}

HRUN_HD Lanes load_n(const float* p, int n) { return n == kLanes ? load(p) : load_partial(p, n); }
HRUN_HD void store_n(float* p, Lanes x, int n) {
  n == kLanes ? store(p, x) : store_partial(p, x, n);
}

// Sixteen weights of a float format at `p`, of which n are there.
template <FloatFormat F>
HRUN_HD Lanes load_weights(const uint8_t* p, int n) {
  if (n < kLanes) {
    float padded[kLanes] = {};
    for (int i = 0; i < n; ++i) padded[i] = F::widen(p + static_cast<size_t>(i) * F::kBlockBytes);
    return load(padded);
  }
  if constexpr (F::kId == F32::kId)
    return load_f32(p);
  else if constexpr (F::kId == F16::kId)
    return load_f16(p);
  else if constexpr (F::kId == BF16::kId)
    return load_bf16(p);
  else {
    float values[kLanes];
    for (int i = 0; i < kLanes; ++i)
      values[i] = F::widen(p + static_cast<size_t>(i) * F::kBlockBytes);
    return load(values);
  }
}

// Vectors of the compiler, which knows how each processor interleaves them.
typedef int8_t EightCodes __attribute__((vector_size(8)));
typedef int16_t EightPairs __attribute__((vector_size(16)));
typedef int8_t SixteenCodes __attribute__((vector_size(16)));

// Transposes each 16 bytes as a square of 4 x 4.
HRUN_HD void interleave_squares(const int8_t* codes, int n, int8_t* out) {
  for (int i = 0; i < n; i += 16) {
    SixteenCodes v;
    memcpy(&v, codes + i, sizeof v);
    v = __builtin_shufflevector(v, v, 0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    memcpy(out + i, &v, sizeof v);
  }
}

// Byte j of step s is byte s of segment j; a segment has a multiple of 8 bytes.
HRUN_HD void interleave_segments(const int8_t* codes, int steps, int8_t* out) {
  for (int s = 0; s < steps; s += 8) {
    EightCodes segment[4];
    for (int j = 0; j < 4; ++j) memcpy(&segment[j], codes + j * steps + s, sizeof segment[j]);
    const auto zip = [](EightCodes a, EightCodes b) {
      return reinterpret_cast<EightPairs>(
          __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5, 13, 6, 14, 7, 15));
    };
    const EightPairs low = zip(segment[0], segment[1]), high = zip(segment[2], segment[3]);
    const EightPairs first = __builtin_shufflevector(low, high, 0, 8, 1, 9, 2, 10, 3, 11);
    const EightPairs second = __builtin_shufflevector(low, high, 4, 12, 5, 13, 6, 14, 7, 15);
    memcpy(out + 4 * s, &first, sizeof first);
    memcpy(out + 4 * s + 16, &second, sizeof second);
  }
}

}  // namespace
}  // namespace hrun
