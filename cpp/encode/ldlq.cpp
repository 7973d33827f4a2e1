// Encoding of rows: a scale for each block, the search (ldlq_search.h), and the scales that fit its
// codes best.
//
// The factor of a wide input is larger than any cache, and each row passes through it twice.  So
// kRows rows go side by side, and share what is read.
#include "encode/ldlq.h"

#include <algorithm>
#include <bit>
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

constexpr int kRows = 4;        // side by side
constexpr int64_t kTile = 256;  // columns of theirs that stay in the first-level cache
constexpr int kTerms = 4;       // added at once
static_assert(kTile % kLane == 0 && kMaxBlock % kTile == 0 &&
              InputFactor::kWidthStep % kTerms == 0 && InputFactor::kWidthStep % kLane == 0);

// sums[c] += A[s, c] values[0] + A[s + 1, c] values[1] + ... for c in [first, last), kTerms of
// them, in that order.  A is the factor's feedback; s and first are multiples of kTerms and kLane.
template <int kWide>
[[gnu::always_inline]] inline void add_feedback(const InputFactor& factor, int64_t s,
                                                const float* values, int64_t first, int64_t last,
                                                float* sums) {
  const float *const a = factor.row(s), *const b = factor.row(s + 1), *const c = factor.row(s + 2),
                     *const d = factor.row(s + 3);
  for (int64_t i = first; i < last; i += kWide) {
    typename ldlq::Vectors<kWide>::Floats sum = load<kWide>(sums + i);
    sum += load<kWide>(a + i) * values[0];
    sum += load<kWide>(b + i) * values[1];
    sum += load<kWide>(c + i) * values[2];
    sum += load<kWide>(d + i) * values[3];
    store(sums + i, sum);
  }
}

// Rows coded once: their levels in place of their codes, to fit scales to them.
template <int kWide>
class ScaleFit {
 public:
  ScaleFit(const TrellisCode& code, const InputFactor& factor)
      : code_(code),
        factor_(factor),
        n_blocks_((factor.cols() + kMaxBlock - 1) / kMaxBlock),
        stride_(static_cast<size_t>(factor.cols() + InputFactor::kPadding)) {}

  // Least squares over the scales of all blocks of each row; rounds them to fp16.
  [[gnu::always_inline]] inline void run(const float* const* x, const uint8_t* const* codes,
                                         int n_rows, float* const* scales, RowCost* costs) {
    const int64_t cols = factor_.cols();
    rows_.resize(static_cast<size_t>(n_rows));
    for (int r = 0; r < n_rows; ++r) {
      Row& row = rows_[static_cast<size_t>(r)];
      row.aim.assign(stride_, 0.0f);
      row.image.assign(static_cast<size_t>(n_blocks_) * stride_, 0.0f);
      row.levels.resize(static_cast<size_t>(cols));
      for (int64_t b = 0; b < n_blocks_; ++b) {
        const int64_t first = b * kMaxBlock, last = std::min(first + kMaxBlock, cols);
        code_.reconstruct(codes[r] + first, static_cast<int>(last - first),
                          row.levels.data() + first);
      }
    }
    for (int64_t begin = 0; begin < cols; begin += kTile)
      spread(x, begin, std::min(begin + kTile, cols));
    for (int r = 0; r < n_rows; ++r) {
      const Row& row = rows_[static_cast<size_t>(r)];
      solve(row, scales[r]);
      RowCost cost;
      for (int64_t t = 0; t < cols; ++t) {
        double rest = row.aim[static_cast<size_t>(t)];
        for (int64_t b = 0; b <= t / kMaxBlock; ++b)
          rest -= static_cast<double>(scales[r][b]) *
                  row.image[static_cast<size_t>(b) * stride_ + static_cast<size_t>(t)];
        cost.error += static_cast<double>(factor_.weight(t)) * rest * rest;
        const double whole = row.aim[static_cast<size_t>(t)];
        cost.energy += static_cast<double>(factor_.weight(t)) * whole * whole;
      }
      costs[r] = cost;
    }
  }

 private:
  struct Row {
    std::vector<float> aim, image;  // x M, and the images of the blocks' levels, [block][stride]
    std::vector<float> levels;
  };

  // Columns begin .. end of all rows: aim[c] += x[s] M[s, c] for s up to c, and likewise images.
  [[gnu::always_inline]] inline void spread(const float* const* x, int64_t begin, int64_t end) {
    for (int64_t s = 0; s < end; s += kTerms) {
      const int64_t first = std::max(begin, s / kLane * kLane),
                    last = std::min(end, factor_.group_end(s));
      const size_t image = static_cast<size_t>(s / kMaxBlock) * stride_;
      for (size_t r = 0; r < rows_.size(); ++r) {
        Row& row = rows_[r];
        const float *const values = x[r] + s, *const levels = row.levels.data() + s;
        float *const aim = row.aim.data(), *const of_levels = row.image.data() + image;
        add_feedback<kWide>(factor_, s, values, first, last, aim);  // zeros up to s
        add_feedback<kWide>(factor_, s, levels, first, last, of_levels);
        if (s < begin) continue;
        for (int64_t i = 0; i < kTerms; ++i) {  // nothing else is added to these columns later
          aim[s + i] += values[i];
          of_levels[s + i] += levels[i];
        }
      }
    }
  }

  // Gauss-Seidel on the normal equations: they are close to diagonal, and a scale that is no help
  // stays as it was.
  [[gnu::always_inline]] inline void solve(const Row& row, float* scales) {
    const auto n = static_cast<size_t>(n_blocks_);
    normal_.assign(n * n, 0.0);
    right_.assign(n, 0.0);
    column_.resize(n);
    for (size_t t = 0; t < static_cast<size_t>(factor_.cols()); ++t) {
      const double w = factor_.weight(static_cast<int64_t>(t)), aim = row.aim[t];
      const size_t reach = t / kMaxBlock;
      double* const column = column_.data();
      for (size_t b = 0; b <= reach; ++b) column[b] = row.image[b * stride_ + t];
      for (size_t a = 0; a <= reach; ++a) {
        const double wa = w * column[a];
        right_[a] += wa * aim;
        double* const normal = normal_.data() + a * n;
        for (size_t b = a; b <= reach; ++b) normal[b] += wa * column[b];
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
  const int64_t n_blocks_;
  const size_t stride_;
  std::vector<Row> rows_;
  std::vector<double> normal_, right_, column_;
};

int select_baseline(const ldlq::Candidates& from, int slots, float& spread, float& least,
                    const ldlq::Kept& kept) {
  return ldlq::select_body(ldlq::PlainCosts<4>{from}, slots, spread, least, kept);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) int select_avx2(const ldlq::Candidates& from, int slots,
                                                float& spread, float& least,
                                                const ldlq::Kept& kept) {
  return ldlq::select_body(ldlq::PlainCosts<8>{from}, slots, spread, least, kept);
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"  // GCC 12's own header
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC push_options
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,popcnt,prefer-vector-width=512")
struct Avx512Costs {
  const ldlq::Candidates& from;
  int32_t least() const {
    __m512i low = _mm512_loadu_si512(from.cost);
    for (int i = kLane; i < from.n; i += kLane)
      low = _mm512_min_epi32(low, _mm512_loadu_si512(from.cost + i));
    return _mm512_reduce_min_epi32(low);
  }
  int within(int32_t limit) const {
    const __m512i most = _mm512_set1_epi32(limit);
    int count = 0;
    for (int i = 0; i < from.n; i += kLane)
      count += __builtin_popcount(_mm512_cmple_epi32_mask(_mm512_loadu_si512(from.cost + i), most));
    return count;
  }
  int keep(int32_t limit, int slots, const ldlq::Kept& kept) const {
    const __m512i most = _mm512_set1_epi32(limit);
    __m512i place = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    int out = 0;
    for (int i = 0; i < from.n;
         i += kLane, place = _mm512_add_epi32(place, _mm512_set1_epi32(kLane))) {
      const __m512i cost = _mm512_loadu_si512(from.cost + i),
                    origin = _mm512_loadu_si512(from.origin + i);
      const __mmask16 taken = _mm512_cmple_epi32_mask(cost, most);
      _mm512_storeu_si512(kept.place + out, _mm512_maskz_compress_epi32(taken, place));
      _mm512_storeu_si512(kept.cost + out, _mm512_maskz_compress_epi32(taken, cost));
      _mm512_storeu_si512(kept.origin + out, _mm512_maskz_compress_epi32(taken, origin));
      out += __builtin_popcount(taken);
    }
    return std::min(out, slots);
  }
};
int select_avx512(const ldlq::Candidates& from, int slots, float& spread, float& least,
                  const ldlq::Kept& kept) {
  const Avx512Costs costs{from};
  least = std::bit_cast<float>(costs.least());
  return costs.keep(ldlq::find_limit(costs, slots, least, spread), slots, kept);
}
#pragma GCC pop_options
#pragma GCC diagnostic pop
#endif

// The scale that each block of a row is searched with.
[[gnu::always_inline]] inline void first_scales(const TrellisCode& code, const float* x,
                                                int64_t cols, float scale, float* scales) {
  for (int64_t first = 0; first < cols; first += kMaxBlock) {
    const int64_t n = std::min<int64_t>(kMaxBlock, cols - first);
    double energy = 0;
    for (int64_t t = 0; t < n; ++t)
      energy += static_cast<double>(x[first + t]) * static_cast<double>(x[first + t]);
    const double typical =
        std::sqrt(energy / static_cast<double>(n)) / static_cast<double>(code.rms);
    scales[first / kMaxBlock] = round_to_half(typical * static_cast<double>(scale));
  }
}

// Searches all rows, a chunk of each after the other.
template <int kWide, class Search>
[[gnu::always_inline]] inline void search_rows(std::vector<Search>& searches,
                                               const InputFactor& factor, const float* const* x,
                                               int n_rows, float* const* scales) {
  const int64_t cols = factor.cols();
  for (int r = 0; r < n_rows; ++r) searches[static_cast<size_t>(r)].begin(x[r]);
  for (int64_t begin = 0; begin < cols; begin += ldlq::kChunk) {
    for (int r = 0; r < n_rows; ++r)
      searches[static_cast<size_t>(r)].chunk(begin, scales[r][begin / kMaxBlock]);
    if (searches[0].released(begin) == nullptr) continue;
    const int64_t first = begin - ldlq::kReach, next = begin + ldlq::kChunk;
    for (int64_t tile = next; tile < cols; tile = (tile / kTile + 1) * kTile)
      for (int64_t s = first; s < first + ldlq::kChunk; s += kTerms) {
        const int64_t end = std::min({(tile / kTile + 1) * kTile, cols, factor.group_end(s)});
        for (int r = 0; r < n_rows; ++r) {
          Search& search = searches[static_cast<size_t>(r)];
          add_feedback<kWide>(factor, s, search.released(begin) + (s - first), tile, end,
                              search.common());
        }
      }
  }
  for (int r = 0; r < n_rows; ++r) searches[static_cast<size_t>(r)].finish();
}

template <int k, int kFreeBits, int kWide>
[[gnu::always_inline]] inline void encode_body(const TrellisCode& code, const float* rows,
                                               int64_t n_rows, const InputFactor& factor,
                                               const LdlqOptions& options, ldlq::Select* select,
                                               uint8_t* out, RowCost* costs) {
  const int64_t cols = factor.cols();
  const auto n_blocks = static_cast<size_t>((cols + kMaxBlock - 1) / kMaxBlock);
  std::vector<RowSearch<k, kFreeBits, kWide>> searches;
  searches.reserve(kRows);
  for (int64_t r = 0; r < std::min<int64_t>(kRows, n_rows); ++r)
    searches.emplace_back(code, factor, options.survivors, select);
  ScaleFit<kWide> fit(code, factor);
  std::vector<float> scales[kRows], best_scales[kRows];
  std::vector<uint8_t> best_codes[kRows];
  for (int64_t done = 0; done < n_rows; done += kRows) {
    const int n = static_cast<int>(std::min<int64_t>(kRows, n_rows - done));
    const float* x[kRows];
    const uint8_t* codes[kRows];
    float* chosen[kRows];
    RowCost found[kRows];
    for (int r = 0; r < n; ++r) {
      x[r] = rows + (done + r) * cols;
      codes[r] = searches[static_cast<size_t>(r)].codes();
      scales[r].assign(n_blocks, 0.0f);
      chosen[r] = scales[r].data();
      first_scales(code, x[r], cols, options.scale, chosen[r]);
      best_scales[r].assign(n_blocks, 0.0f);
      best_codes[r].assign(static_cast<size_t>(cols), 0);  // stays so if x is not finite
      costs[done + r] = {std::numeric_limits<double>::infinity(), 0};
    }
    for (int pass = 0; pass < options.passes; ++pass) {
      search_rows<kWide>(searches, factor, x, n, chosen);
      fit.run(x, codes, n, chosen, found);
      for (int r = 0; r < n; ++r) {
        if (!(found[r].error < costs[done + r].error)) continue;
        costs[done + r] = found[r];
        best_scales[r] = scales[r];
        best_codes[r].assign(codes[r], codes[r] + cols);
      }
    }
    for (int r = 0; r < n; ++r)
      for (size_t b = 0; b < n_blocks; ++b) {
        const int64_t first = static_cast<int64_t>(b) * kMaxBlock,
                      length = std::min<int64_t>(kMaxBlock, cols - first);
        store_fp16(out, best_scales[r][b]);
        pack(best_codes[r].data() + first, length, k + kFreeBits, out + 2);
        out += 2 + length * (k + kFreeBits) / 8;
      }
  }
}

using Encode = void (*)(const TrellisCode&, const float*, int64_t, const InputFactor&,
                        const LdlqOptions&, uint8_t*, RowCost*);

template <int k, int kFreeBits>
void encode_baseline(const TrellisCode& code, const float* rows, int64_t n_rows,
                     const InputFactor& factor, const LdlqOptions& options, uint8_t* out,
                     RowCost* costs) {
  encode_body<k, kFreeBits, 4>(code, rows, n_rows, factor, options, select_baseline, out, costs);
}

#if defined(__x86_64__)
template <int k, int kFreeBits>
__attribute__((target("avx2"))) void encode_avx2(const TrellisCode& code, const float* rows,
                                                 int64_t n_rows, const InputFactor& factor,
                                                 const LdlqOptions& options, uint8_t* out,
                                                 RowCost* costs) {
  encode_body<k, kFreeBits, 8>(code, rows, n_rows, factor, options, select_avx2, out, costs);
}
template <int k, int kFreeBits>
__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,popcnt,prefer-vector-width=512"))) void
encode_avx512(const TrellisCode& code, const float* rows, int64_t n_rows, const InputFactor& factor,
              const LdlqOptions& options, uint8_t* out, RowCost* costs) {
  encode_body<k, kFreeBits, 16>(code, rows, n_rows, factor, options, select_avx512, out, costs);
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

void encode_trellis_rows_ldlq(const TrellisCode& code, const float* rotated, int64_t n_rows,
                              const InputFactor& factor, const LdlqOptions& options, uint8_t* out,
                              RowCost* costs) {
  static const Tiers kTiers[] = {tiers<2>(), tiers<3>(), tiers<4>(), tiers<5>(),
                                 tiers<4, 2>()};  // asking the CPU takes microseconds
  const Encode encode = kTiers[code.code_bits() - 2].at(options.vector_bits);
  encode(code, rotated, n_rows, factor, options, out, costs);
}

}  // namespace hrun
