// Keys or values of 64 positions become codes.
//
// The lanes of a vector are positions, so everything is elementwise and gives the same bits on
// every tier.  The steps are: less the centre, times the balance, the rotation (cache_rotation.h),
// and the best path through the trellis (formats/cache_codes.h) by fp32 costs, where ties go to the
// smaller predecessor.  Keys then get the scale that keeps their length.  Values get the scale of
// least squares, and are coded once more with the first one.
#pragma once

#include "cpu/attention_kernels.h"
#include "cpu/kernels/cache_codes.h"
#include "cpu/kernels/cache_rotation.h"

namespace hrun {
namespace {

// Sums over a coded path of kLanes vectors: the squares of its levels, and the products with the
// values that they stand for.
struct PathSums {
  Lanes squares, products;
};

HRUN_HD IntLanes blend(IntLanes no, IntLanes yes, IntLanes mask) {
  return add(bit_and(yes, mask), bit_and(no, sub(splat_int(-1), mask)));
}

// z: [dim][kLanes].  codes: [dim][kAttentionBlock], of which kLanes positions are written.
// steps: [dim][4 states][kLanes].
template <int kBits>
[[gnu::noinline]] PathSums best_path(const float* z, Lanes factor, int dim, int32_t* steps,
                                     uint8_t* codes) {
  constexpr int kCount = 1 << (kBits - 1);  // levels of one of the four subsets
  constexpr auto& kLevels = CacheLevels<kBits>::kTable.values;
  constexpr int kIndex = 512, kOlder = 256, kOffset = 128;  // a step: m, u_(t-2), level
  // State u_t + 2 u_(t-1).
  Lanes cost[4] = {splat(0.0f), splat(1e30f), splat(1e30f), splat(1e30f)};
  for (int t = 0; t < dim; ++t) {
    const Lanes x = mul(load(z + t * kLanes), factor);
    Lanes error[4];
    IntLanes choice[4];
#pragma GCC unroll 4
    for (int a = 0; a < 4; ++a) {
      IntLanes found = splat_int(kLevels[a] + kOffset);
#pragma GCC unroll 16
      for (int i = 1; i < kCount; ++i) {
        const int low = kLevels[4 * i - 4 + a], high = kLevels[4 * i + a];
        const Lanes border = splat(static_cast<float>(low + high) / 2);
        const IntLanes above = shift_right<31>(as_int(sub(border, x)));
        found = add(found, bit_and(above, splat_int(high - low + kIndex)));
      }
      const Lanes level = to_float(sub(bit_and(found, splat_int(255)), splat_int(kOffset)));
      const Lanes e = sub(x, level);
      error[a] = mul(e, e);
      choice[a] = found;
    }
    Lanes next[4];
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) {
      const int u = s & 1, p = s >> 1;
      const Lanes straight = add(cost[p], error[2 * u + p]);
      const Lanes crossed = add(cost[p + 2], error[2 * (u ^ 1) + p]);
      const IntLanes better = shift_right<31>(as_int(sub(crossed, straight)));
      next[s] = min(crossed, straight);
      const IntLanes step =
          blend(choice[2 * u + p], add(choice[2 * (u ^ 1) + p], splat_int(kOlder)), better);
      memcpy(steps + (t * 4 + s) * kLanes, &step, sizeof step);
    }
#pragma GCC unroll 4
    for (int s = 0; s < 4; ++s) cost[s] = next[s];
  }
  // Walks back from the best end.
  const IntLanes one = splat_int(1);
  Lanes best = cost[0];
  IntLanes state = splat_int(0);
#pragma GCC unroll 4
  for (int s = 1; s < 4; ++s) {
    state = blend(state, splat_int(s), shift_right<31>(as_int(sub(cost[s], best))));
    best = min(cost[s], best);
  }
  PathSums sums{splat(0.0f), splat(0.0f)};
  for (int t = dim - 1; t >= 0; --t) {
    IntLanes of[4];
    memcpy(of, steps + t * 4 * kLanes, sizeof of);
    const IntLanes u = bit_and(state, one), p = shift_right<1>(state);
    const IntLanes odd = sub(splat_int(0), u), upper = sub(splat_int(0), p);
    const IntLanes step = blend(blend(of[0], of[1], odd), blend(of[2], of[3], odd), upper);
    const Lanes level = to_float(sub(bit_and(step, splat_int(255)), splat_int(kOffset)));
    sums.squares = fma(level, level, sums.squares);
    sums.products = fma(level, load(z + t * kLanes), sums.products);
    const IntLanes m = shift_right<9>(step);
    store_int8(reinterpret_cast<int8_t*>(codes) + t * kAttentionBlock, add(add(m, m), u));
    const IntLanes older = bit_and(shift_right<8>(step), one);
    state = add(p, add(older, older));
  }
  return sums;
}

using BestPath = PathSums (*)(const float* z, Lanes factor, int dim, int32_t* steps,
                              uint8_t* codes);
struct TrellisOf {
  BestPath best_path;
  float per_sigma;
};
HRUN_HD TrellisOf trellis_of(CacheType type) {
  switch (type) {
    case CacheType::rtq5:
      return {best_path<5>, CacheLevels<5>::kPerSigma};
    case CacheType::rtq4:
      return {best_path<4>, CacheLevels<4>::kPerSigma};
    case CacheType::rtq3:
      return {best_path<3>, CacheLevels<3>::kPerSigma};
    default:
      return {best_path<2>, CacheLevels<2>::kPerSigma};
  }
}

// a / b where both are positive, else 0.
HRUN_HD float ratio(float a, float b) { return a > 0 && b > 0 ? a / b : 0.0f; }

HRUN_HD void store_scale(float scale, uint8_t* to) {
  const uint16_t half = fp32_to_fp16(scale * kCacheScaleUnit);
  memcpy(to, &half, sizeof half);
}

// Codes values as int8, relative to the largest.
HRUN_HD void code_bytes(const float* z, int dim, uint8_t* codes, uint8_t* scales) {
  const IntLanes magnitude = splat_int(0x7fffffff);
  Lanes largest = splat(0.0f);
  for (int t = 0; t < dim; ++t)
    largest = max(as_float(bit_and(as_int(load(z + t * kLanes)), magnitude)), largest);
  float top[kLanes], inverse[kLanes];
  store(top, largest);
  for (int l = 0; l < kLanes; ++l) {
    store_scale(top[l] / 127.0f, scales + 2 * l);
    uint16_t half;
    memcpy(&half, scales + 2 * l, sizeof half);
    inverse[l] = ratio(kCacheScaleUnit, fp16_to_fp32(half));
  }
  const Lanes factor = load(inverse);
  for (int t = 0; t < dim; ++t) {
    const Lanes x = mul(load(z + t * kLanes), factor);
    store_int8(reinterpret_cast<int8_t*>(codes) + t * kAttentionBlock,
               round_to_int(min(max(x, splat(-127.0f)), splat(127.0f))));
  }
}

template <bool kKeys>
HRUN_HD void code_trellis(CacheType type, const float* z, int dim, int32_t* steps, uint8_t* codes,
                          uint8_t* scales) {
  const TrellisOf trellis = trellis_of(type);
  Lanes squares = splat(0.0f);
  for (int t = 0; t < dim; ++t) {
    const Lanes x = load(z + t * kLanes);
    squares = fma(x, x, squares);
  }
  float length[kLanes], factor[kLanes], level_squares[kLanes], products[kLanes];
  store(length, squares);
  for (int l = 0; l < kLanes; ++l) {
    length[l] = __builtin_sqrtf(length[l]);
    factor[l] = ratio(trellis.per_sigma * __builtin_sqrtf(static_cast<float>(dim)), length[l]);
  }
  PathSums sums = trellis.best_path(z, load(factor), dim, steps, codes);
  store(level_squares, sums.squares), store(products, sums.products);
  if constexpr (!kKeys) {
    for (int l = 0; l < kLanes; ++l) factor[l] = ratio(level_squares[l], products[l]);
    sums = trellis.best_path(z, load(factor), dim, steps, codes);
    store(level_squares, sums.squares), store(products, sums.products);
  }
  for (int l = 0; l < kLanes; ++l)
    store_scale(kKeys ? ratio(length[l], __builtin_sqrtf(level_squares[l]))
                      : ratio(products[l], level_squares[l]),
                scales + 2 * l);
}

template <FloatFormat F, bool kKeys>
void code_block_of(const BlockToCode& block, float* scratch) {
  const int dim = block.dim, row_dim = block.row_dim;
  const auto n_codes = static_cast<size_t>(dim) * kAttentionBlock;
  float* const z = scratch;
  auto* const steps = reinterpret_cast<int32_t*>(z + dim * kLanes);
  auto* const codes = reinterpret_cast<uint8_t*>(steps + 4 * dim * kLanes);
  uint8_t* const vectors = codes + n_codes;
  uint8_t* const scales = block.to + codes_bytes(block.type, dim);
  for (int first = 0; first < kAttentionBlock; first += kLanes) {
    if constexpr (kKeys) {
      const uint8_t* const rows =
          block.rows + static_cast<size_t>(first) * static_cast<size_t>(row_dim) * F::kBlockBytes;
      for (int i = 0; i < dim; ++i) {
        const Lanes x =
            load_weights<F>(rows + static_cast<size_t>(i) * kLanes * F::kBlockBytes, kLanes);
        store(z + i * kLanes, mul(sub(x, splat(block.centre[i])), splat(block.balance[i])));
      }
    } else {
      for (int p = 0; p < kLanes; ++p) {
        const uint8_t* const row = block.rows + static_cast<size_t>(first + p) *
                                                    static_cast<size_t>(row_dim) * F::kBlockBytes;
        for (int i = 0; i < dim; i += kLanes) {
          float values[kLanes];
          store(values, load_weights<F>(row + static_cast<size_t>(i) * F::kBlockBytes, kLanes));
          for (int l = 0; l < kLanes; ++l) z[(i + l) * kLanes + p] = values[l];
        }
      }
    }
    rotate_columns(z, dim);
    if (block.type == CacheType::rtq8)
      code_bytes(z, dim, codes + first, scales + 2 * first);
    else
      code_trellis<kKeys>(block.type, z, dim, steps, codes + first, scales + 2 * first);
  }
  arrange_codes<kKeys>(codes, dim, vectors);
  pack_codes(block.type, vectors, dim, block.to);
}

void code_block_kernel(const BlockToCode& block, float* scratch) {
  if (block.keys)
    code_block_of<F16, true>(block, scratch);
  else
    code_block_of<F16, false>(block, scratch);
}

}  // namespace
}  // namespace hrun
