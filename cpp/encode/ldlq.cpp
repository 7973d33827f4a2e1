// Encoding of a row: scales to try, the search (ldlq_search.h), and the scales that fit its codes
// best.
#include "encode/ldlq.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "base/cpu_features.h"
#include "encode/ldlq_search.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace hrun {
namespace {

using ldlq::kLane;
using ldlq::load;
using ldlq::RowSearch;
using ldlq::store;

void pack(const uint8_t* codes, int64_t n, int code_bits, uint8_t* out) {
  uint32_t pending = 0;
  int n_pending = 0;
  for (int64_t t = 0; t < n; ++t) {
    pending |= static_cast<uint32_t>(codes[t]) << n_pending;
    for (n_pending += code_bits; n_pending >= 8; n_pending -= 8, pending >>= 8)
      *out++ = static_cast<uint8_t>(pending);
  }
}

float round_to_half(double value) {
  return fp16_to_fp32(fp32_to_fp16(static_cast<float>(std::min(value, 65504.0))));
}

// A row coded once: its levels in place of its codes, to fit scales to them.
class ScaleFit {
 public:
  ScaleFit(const TrellisCode& code, const InputFactor& factor) : code_(code), factor_(factor) {}

  // residual[t] += sum_(s <= t) values[s] M[s, t] for s in [first, last)
  [[gnu::always_inline]] inline void spread(const float* values, int64_t first, int64_t last,
                                            float* residual) const {
    for (int64_t s = first; s < last; ++s) {
      const float v = values[s - first];
      residual[s] += v;
      const float* feedback = factor_.row(s);
      const int64_t end = factor_.group_end(s);
      for (int64_t c = s + 1; c < end; c += kLane)
        store(residual + c, load(residual + c) + load(feedback + c) * v);
    }
  }

  // Least squares over the scales of all blocks; rounds them to fp16.  Returns the row's cost.
  [[gnu::always_inline]] inline RowCost run(const float* x, const uint8_t* codes, float* scales) {
    const int64_t cols = factor_.cols(), n_blocks = (cols + kMaxBlock - 1) / kMaxBlock;
    const auto stride = static_cast<size_t>(cols + InputFactor::kPadding);
    aim_.assign(stride, 0.0f);
    spread(x, 0, cols, aim_.data());
    image_.assign(static_cast<size_t>(n_blocks) * stride, 0.0f);
    for (int64_t b = 0; b < n_blocks; ++b) {
      const int64_t first = b * kMaxBlock, last = std::min(first + kMaxBlock, cols);
      float z[kMaxBlock];
      code_.reconstruct(codes + first, static_cast<int>(last - first), z);
      spread(z, first, last, image_.data() + static_cast<size_t>(b) * stride);
    }
    solve(n_blocks, stride, scales);
    RowCost cost;
    for (int64_t t = 0; t < cols; ++t) {
      double r = aim_[static_cast<size_t>(t)];
      for (int64_t b = 0; b <= t / kMaxBlock; ++b)
        r -= static_cast<double>(scales[b]) *
             image_[static_cast<size_t>(b) * stride + static_cast<size_t>(t)];
      cost.error += static_cast<double>(factor_.weight(t)) * r * r;
      const double whole = aim_[static_cast<size_t>(t)];
      cost.energy += static_cast<double>(factor_.weight(t)) * whole * whole;
    }
    return cost;
  }

 private:
  // Gauss-Seidel on the normal equations: they are close to diagonal, and a scale that is no help
  // stays as it was.
  [[gnu::always_inline]] inline void solve(int64_t n_blocks, size_t stride, float* scales) {
    const auto n = static_cast<size_t>(n_blocks);
    normal_.assign(n * n, 0.0);
    right_.assign(n, 0.0);
    for (size_t t = 0; t < static_cast<size_t>(factor_.cols()); ++t) {
      const double w = factor_.weight(static_cast<int64_t>(t));
      const size_t reach = t / kMaxBlock;
      for (size_t a = 0; a <= reach; ++a) {
        const double wa = w * static_cast<double>(image_[a * stride + t]);
        right_[a] += wa * static_cast<double>(aim_[t]);
        for (size_t b = a; b <= reach; ++b)
          normal_[a * n + b] += wa * static_cast<double>(image_[b * stride + t]);
      }
    }
    for (int sweep = 0; sweep < 16; ++sweep)
      for (size_t a = 0; a < n; ++a) {
        double sum = right_[a];
        for (size_t b = 0; b < n; ++b)
          if (b != a)
            sum -= normal_[std::min(a, b) * n + std::max(a, b)] * static_cast<double>(scales[b]);
        const double own = normal_[a * n + a];
        if (own > 0 && sum > 0)
          scales[a] = sweep < 15 ? static_cast<float>(sum / own) : round_to_half(sum / own);
      }
    for (size_t a = 0; a < n; ++a) scales[a] = round_to_half(static_cast<double>(scales[a]));
  }

  const TrellisCode& code_;
  const InputFactor& factor_;
  std::vector<float> aim_, image_;  // x M and the M-images of the blocks' levels
  std::vector<double> normal_, right_;
};

int select_baseline(const float* cost, int n, int slots, float& spread, float& least,
                    int32_t* kept) {
  return ldlq::select_body(ldlq::PlainCosts{cost, n}, n, slots, spread, least, kept);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) int select_avx2(const float* cost, int n, int slots, float& spread,
                                                float& least, int32_t* kept) {
  return ldlq::select_body(ldlq::PlainCosts{cost, n}, n, slots, spread, least, kept);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own header
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512")
struct Avx512Costs {
  const float* cost;
  int n;
  float least() const {
    __m512 low = _mm512_loadu_ps(cost);
    for (int i = kLane; i < n; i += kLane) low = _mm512_min_ps(low, _mm512_loadu_ps(cost + i));
    return _mm512_reduce_min_ps(low);
  }
  int within(float limit) const {
    const __m512 most = _mm512_set1_ps(limit);
    __m512i count = _mm512_setzero_si512();
    for (int i = 0; i < n; i += kLane)
      count = _mm512_sub_epi32(count, _mm512_movm_epi32(_mm512_cmp_ps_mask(
                                          _mm512_loadu_ps(cost + i), most, _CMP_LE_OS)));
    return _mm512_reduce_add_epi32(count);
  }
  int keep(float limit, int slots, int32_t* kept) const {
    const __m512 most = _mm512_set1_ps(limit);
    __m512i number = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int out = 0;
    for (int i = 0; i < n;
         i += kLane, number = _mm512_add_epi32(number, _mm512_set1_epi32(kLane))) {
      const __mmask16 taken = _mm512_cmp_ps_mask(_mm512_loadu_ps(cost + i), most, _CMP_LE_OS);
      _mm512_storeu_si512(kept + out, _mm512_maskz_compress_epi32(taken, number));
      out += __builtin_popcount(taken);
    }
    return std::min(out, slots);
  }
};
int select_avx512(const float* cost, int n, int slots, float& spread, float& least, int32_t* kept) {
  const Avx512Costs costs{cost, n};
  least = costs.least();
  return costs.keep(ldlq::find_limit(costs, n, slots, least, spread), slots, kept);
}
#pragma GCC pop_options
#pragma GCC diagnostic pop
#endif

template <int k, int kFreeBits>
[[gnu::always_inline]] inline RowCost encode_body(const TrellisCode& code, const float* x,
                                                  const InputFactor& factor,
                                                  const LdlqOptions& options, ldlq::Select* select,
                                                  uint8_t* out) {
  const int64_t cols = factor.cols();
  const auto n_blocks = static_cast<size_t>((cols + kMaxBlock - 1) / kMaxBlock);
  std::vector<std::vector<float>> scales(n_blocks);
  for (size_t b = 0; b < n_blocks; ++b) {
    const int64_t first = static_cast<int64_t>(b) * kMaxBlock,
                  n = std::min<int64_t>(kMaxBlock, cols - first);
    double energy = 0;
    for (int64_t t = 0; t < n; ++t)
      energy += static_cast<double>(x[first + t]) * static_cast<double>(x[first + t]);
    const double typical =
        std::sqrt(energy / static_cast<double>(n)) / static_cast<double>(code.rms);
    for (const float s : options.scales)
      scales[b].push_back(round_to_half(typical * static_cast<double>(s)));
  }
  RowSearch<k, kFreeBits> search(code, factor, options.survivors, select);
  ScaleFit fit(code, factor);
  std::vector<float> chosen(n_blocks), best_scales(n_blocks);
  std::vector<uint8_t> best_codes;
  RowCost best{std::numeric_limits<double>::infinity(), 0};
  for (int pass = 0; pass < options.passes; ++pass) {
    search.run(x, scales, chosen.data());
    const RowCost cost = fit.run(x, search.codes(), chosen.data());
    for (size_t b = 0; b < n_blocks; ++b) scales[b].assign(1, chosen[b]);
    if (!(cost.error < best.error)) continue;
    best = cost;
    best_scales = chosen;
    best_codes.assign(search.codes(), search.codes() + cols);
  }
  if (best_codes.empty())
    best_codes.assign(static_cast<size_t>(cols), 0);  // not finite: scales of 0
  for (size_t b = 0; b < n_blocks; ++b) {
    const int64_t first = static_cast<int64_t>(b) * kMaxBlock,
                  n = std::min<int64_t>(kMaxBlock, cols - first);
    store_fp16(out, best_scales[b]);
    pack(best_codes.data() + first, n, k + kFreeBits, out + 2);
    out += 2 + n * (k + kFreeBits) / 8;
  }
  return best;
}

using Encode = RowCost (*)(const TrellisCode&, const float*, const InputFactor&, const LdlqOptions&,
                           uint8_t*);

template <int k, int kFreeBits>
RowCost encode_baseline(const TrellisCode& code, const float* x, const InputFactor& factor,
                        const LdlqOptions& options, uint8_t* out) {
  return encode_body<k, kFreeBits>(code, x, factor, options, select_baseline, out);
}

#if defined(__x86_64__)
template <int k, int kFreeBits>
__attribute__((target("avx2"))) RowCost encode_avx2(const TrellisCode& code, const float* x,
                                                    const InputFactor& factor,
                                                    const LdlqOptions& options, uint8_t* out) {
  return encode_body<k, kFreeBits>(code, x, factor, options, select_avx2, out);
}
template <int k, int kFreeBits>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,prefer-vector-width=512"))) RowCost
encode_avx512(const TrellisCode& code, const float* x, const InputFactor& factor,
              const LdlqOptions& options, uint8_t* out) {
  return encode_body<k, kFreeBits>(code, x, factor, options, select_avx512, out);
}
#endif

// One encoder for each width of instructions: at most 512 bits, at most 256, fewer.
struct Tiers {
  Encode by_width[3];
  Encode at(int vector_bits) const {
    return by_width[vector_bits >= 512 ? 0 : vector_bits >= 256 ? 1 : 2];
  }
};

template <int k, int kFreeBits = 0>
Tiers tiers() {
  constexpr Encode kBaseline = encode_baseline<k, kFreeBits>;
  Tiers found{{kBaseline, kBaseline, kBaseline}};
#if defined(__x86_64__)
  if (cpu_may_use("avx2")) found.by_width[0] = found.by_width[1] = encode_avx2<k, kFreeBits>;
  if (cpu_may_use("avx512f avx512bw avx512vl avx512dq"))
    found.by_width[0] = encode_avx512<k, kFreeBits>;
#endif
  return found;
}

}  // namespace

RowCost encode_trellis_row_ldlq(const TrellisCode& code, const float* rotated,
                                const InputFactor& factor, const LdlqOptions& options,
                                uint8_t* out) {
  static const Tiers kTiers[] = {tiers<2>(), tiers<3>(), tiers<4>(), tiers<5>(),
                                 tiers<4, 2>()};  // asking the CPU takes microseconds
  const Encode encode = kTiers[code.code_bits() - 2].at(options.vector_bits);
  return encode(code, rotated, factor, options, out);
}

}  // namespace hrun
