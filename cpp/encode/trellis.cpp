// Viterbi's algorithm over the states of a sliding-window code, a least-squares block scale around
// it.
//
// Costs are int32 so that every instruction set finds the same path.  The squared error of a step,
// in units of 1/64 of a squared integer level (1/1024 from 5 bits on), has its lowest k bits
// replaced by the number of the predecessor, so that one `min` finds the cheapest predecessor and
// remembers which it was.
#include "encode/trellis.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "base/cpu_features.h"
#include "formats/format.h"
#include "formats/rotation.h"

namespace hrun {
namespace {

// Error units per level, before squaring: at 5 bits an average step costs a fifth of what it does
// at 4, and another bit of its cost is given up.
constexpr float level_units(int code_bits) { return code_bits >= 5 ? 32.0f : 8.0f; }
// Levels that values are cut to: with a level of at most 127 a step costs less than (1023 * 8)^2 <
// 2^26.
constexpr float farthest(int code_bits) { return code_bits >= 5 ? 128.0f : 896.0f; }
constexpr int32_t kUnreachable =
    1 << 28;  // more than `memory` steps can cost; 2^28 + 16 steps of 2^26 stay below 2^31
constexpr int kStepsPerRebase = 16;

// A lane is one newest code: one vector of 4 or 8 lanes, or two or four of 8, for all codes.
template <int k>
struct Lanes {
  static constexpr int kCodes = 1 << k;
  static constexpr int kLanes = kCodes < 8 ? kCodes : 8;
  static constexpr int kParts = kCodes / kLanes;
  typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
  typedef float Floats __attribute__((vector_size(4 * kLanes)));
};

// Working memory of one row's searches.
struct Scratch {
  std::vector<int32_t> cost, next;  // [state]
  std::vector<float> rows;          // of the code, times level_units()
  std::vector<int32_t>
      steps;  // [row << k | x][newest code]: cost of a step; 64-aligned from steps_at on
  int32_t* aligned_steps;
  std::vector<uint32_t>
      choice;  // [step][group / 4][newest code], byte group % 4: the oldest code of the best window
  explicit Scratch(const TrellisCode& code)
      : cost(code.step.size()),
        next(cost.size()),
        rows(code.rows),
        steps((rows.size() >> code.free_bits << code.state_bits) + 16) {
    choice.resize(kMaxBlock * cost.size() / 4);
    for (float& value : rows) value *= level_units(code.code_bits());
    aligned_steps = steps.data() + (64 - reinterpret_cast<uintptr_t>(steps.data()) % 64) % 64 / 4;
  }
};

// The cheapest path for x[0..n) levels from state 0; writes codes[0..n), without free bits.
template <int k, int kFreeBits>
inline __attribute__((always_inline)) void search_body(const TrellisCode& code, const float* x,
                                                       int n, Scratch& scratch, uint8_t* codes) {
  using Ints = typename Lanes<k>::Ints;
  using Floats = typename Lanes<k>::Floats;
  constexpr float kUnits = level_units(k + kFreeBits), kFarthest = farthest(k + kFreeBits);
  constexpr int kVariants = 1 << kFreeBits;
  constexpr int kCodes = Lanes<k>::kCodes, kLanes = Lanes<k>::kLanes, kParts = Lanes<k>::kParts;
  constexpr int32_t kCodeMask = kCodes - 1;
  Ints lanes;
  for (int c = 0; c < kLanes; ++c) lanes[c] = c;
  const size_t n_states = scratch.cost.size(),
               n_groups = n_states / kCodes;  // group: the middle codes of a window
  const size_t n_rows = scratch.rows.size() / (kCodes * kVariants);
  const int oldest_shift =
      k * (code.memory - 2);  // a group's highest code is the oldest of the states it leads to
  Ints* const steps = reinterpret_cast<Ints*>(scratch.aligned_steps);
  const uint16_t* const step_of = code.step.data();
  int32_t* cost = scratch.cost.data();
  int32_t* next = scratch.next.data();
  // Every cost carries in its lowest bits the oldest code of its state.
  for (size_t s = 0; s < n_states; ++s)
    cost[s] = (s == 0 ? 0 : kUnreachable) | static_cast<int32_t>(s / n_groups);

  for (int t = 0; t < n; ++t) {
    const Floats target = Floats{} + std::clamp(x[t], -kFarthest, kFarthest) * kUnits;
    uint32_t* choice = scratch.choice.data() + static_cast<size_t>(t) * (n_states / 4);
    int32_t rebase = 0;
    if (t % kStepsPerRebase == 0 && t != 0)
      rebase = *std::min_element(cost, cost + n_states) & ~kCodeMask;
    for (size_t r = 0; r < n_rows; ++r) {
      Ints step[kParts];
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        const float* const levels = scratch.rows.data() + r * kVariants * kCodes + part * kLanes;
        Floats least = {};
#pragma GCC unroll 4
        for (int variant = 0; variant < kVariants; ++variant) {
          Floats level;
          __builtin_memcpy(&level, levels + variant * kCodes, sizeof level);
          const Floats error = target - level, square = error * error;
          if (variant == 0)
            least = square;
          else
            least = square < least ? square : least;
        }
        step[part] = (__builtin_convertvector(least, Ints) & ~kCodeMask) - rebase;
      }
#pragma GCC unroll 32
      for (int x_or = 0; x_or < kCodes; ++x_or)
#pragma GCC unroll 4
        for (int part = 0; part < kParts; ++part)
          steps[(r * kCodes + x_or) * kParts + part] =
              __builtin_shuffle(step[part ^ (x_or / kLanes)], lanes ^ (x_or % kLanes));
    }
    for (size_t quad = 0; quad < n_groups; quad += 4)
#pragma GCC unroll 4
      for (int part = 0; part < kParts; ++part) {
        Ints chosen = {};
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const size_t g = quad + static_cast<size_t>(i);
          Ints best = steps[step_of[g] * kParts + part] + cost[g];
#pragma GCC unroll 32
          for (int p = 1; p < kCodes; ++p) {
            const size_t state = static_cast<size_t>(p) * n_groups + g;
            const Ints candidate = steps[step_of[state] * kParts + part] + cost[state];
            best = candidate < best ? candidate : best;
          }
          chosen |= (best & kCodeMask) << (8 * i);
          const Ints stored = (best & ~kCodeMask) | static_cast<int32_t>(g >> oldest_shift);
          __builtin_memcpy(next + g * kCodes + part * kLanes, &stored, sizeof stored);
        }
        __builtin_memcpy(choice + quad / 4 * kCodes + part * kLanes, &chosen, sizeof chosen);
      }
    std::swap(cost, next);
  }

  size_t state = static_cast<size_t>(std::min_element(cost, cost + n_states) - cost);
  for (int t = n - 1; t >= 0; --t) {
    const size_t newest = state & kCodeMask, group = state >> k;
    codes[t] = static_cast<uint8_t>(newest);
    const uint32_t four =
        scratch.choice[static_cast<size_t>(t) * (n_states / 4) + group / 4 * kCodes + newest];
    const size_t oldest = (four >> (8 * (group % 4))) & kCodeMask;
    state = oldest * n_groups + group;
  }
}

using Search = void (*)(const TrellisCode& code, const float* x, int n, Scratch& scratch,
                        uint8_t* codes);

template <int k, int kFreeBits>
void search_baseline(const TrellisCode& code, const float* x, int n, Scratch& scratch,
                     uint8_t* codes) {
  search_body<k, kFreeBits>(code, x, n, scratch, codes);
}

#if defined(__x86_64__)
template <int k, int kFreeBits>
__attribute__((target("avx2"))) void search_avx2(const TrellisCode& code, const float* x, int n,
                                                 Scratch& scratch, uint8_t* codes) {
  search_body<k, kFreeBits>(code, x, n, scratch, codes);
}
#endif

template <int k, int kFreeBits = 0>
Search pick_search() {
#if defined(__x86_64__)
  if (cpu_may_use("avx2")) return search_avx2<k, kFreeBits>;
#endif
  return search_baseline<k, kFreeBits>;
}

Search search_for(int code_bits) {
  static const Search kSearches[] = {pick_search<2>(), pick_search<3>(), pick_search<4>(),
                                     pick_search<5>(), pick_search<4, 2>()};
  return kSearches[code_bits - 2];
}

// The nearest fp16 that can be a scale: finite, and a larger magnitude saturates.
float round_to_half(double value) {
  return fp16_to_fp32(fp32_to_fp16(static_cast<float>(std::min(value, 65504.0))));
}

// A scale and codes of one block, and their squared error.
struct Coding {
  float scale = 0;
  double error = 0;
  uint8_t codes[kMaxBlock] = {};
};

class BlockCoder {
 public:
  BlockCoder(const TrellisCode& code, const float* x, int n, Scratch& scratch)
      : code_(code), search_(search_for(code.code_bits())), x_(x), n_(n), scratch_(scratch) {
    for (int t = 0; t < n; ++t) energy_ += static_cast<double>(x[t]) * x[t];
    best_.error = energy_;  // all zero
  }

  // Tries scales around the one that suits a Gaussian block.  Where they leave much more error than
  // a Gaussian block has, the values cluster, and scales farther off may put levels on the
  // clusters.
  const Coding& run(bool clustered) {
    const double typical = std::sqrt(energy_ / n_) / static_cast<double>(code_.rms);
    for (const double factor : {0.95, 1.0, 1.05}) try_scale(typical * factor);
    if (clustered && best_.error > 1.2 * code_.error * energy_)
      for (const double factor : {0.7, 0.8, 0.88, 1.12, 1.25, 1.5, 2.0, 3.0, 4.5})
        try_scale(typical * factor);
    return best_;
  }

 private:
  // Finds the best path at a scale, and then the best scale for that path.
  void try_scale(double wanted) {
    const float d = round_to_half(wanted);
    if (d == 0) return;
    Coding coding;
    float levels[kMaxBlock], z[kMaxBlock];
    for (int t = 0; t < n_; ++t) levels[t] = x_[t] / d;
    search_(code_, levels, n_, scratch_, coding.codes);
    code_.choose_variants(levels, n_, coding.codes);
    code_.reconstruct(coding.codes, n_, z);
    double xz = 0, zz = 0;
    for (int t = 0; t < n_; ++t) {
      xz += static_cast<double>(x_[t]) * z[t];
      zz += static_cast<double>(z[t]) * z[t];
    }
    if (!(xz > 0)) return;
    coding.scale = round_to_half(xz / zz);
    const double s = coding.scale;
    coding.error = energy_ - 2 * s * xz + s * s * zz;
    if (coding.error < best_.error) best_ = coding;
  }

  const TrellisCode& code_;
  const Search search_;
  const float* x_;
  const int n_;
  Scratch& scratch_;
  double energy_ = 0;
  Coding best_;
};

}  // namespace

TrellisCode::TrellisCode(int k, int m, std::vector<float> v, float r, double e, int free)
    : state_bits(k),
      memory(m),
      free_bits(free),
      values(std::move(v)),
      rms(r),
      error(e),
      step(size_t{1} << (k * m)) {
  const size_t codes = size_t{1} << k, groups = step.size() / codes;
  std::map<std::vector<float>, uint16_t> known;
  for (size_t group = 0; group < groups; ++group)
    for (size_t oldest = 0; oldest < codes; ++oldest) {
      const size_t state = oldest * groups + group;
      std::vector<float> lanes;
      for (size_t variant = 0; variant < variants(); ++variant) {
        const float* const of_state = values.data() + variant * windows() + state * codes;
        lanes.insert(lanes.end(), of_state, of_state + codes);
      }
      const auto found = known.find(lanes);
      if (found != known.end()) {
        step[state] = found->second;
        continue;
      }
      const size_t row = rows.size() / lanes.size();
      rows.insert(rows.end(), lanes.begin(), lanes.end());
      step[state] = static_cast<uint16_t>(row << k);
      for (size_t x = 0; x < codes; ++x) {
        std::vector<float> reordered(lanes.size());
        for (size_t c = 0; c < lanes.size(); ++c) reordered[c] = lanes[c ^ x];
        known.emplace(std::move(reordered), static_cast<uint16_t>(row << k | x));
      }
    }
}

void TrellisCode::choose_variants(const float* x, int n, uint8_t* codes) const {
  if (free_bits == 0) return;
  size_t window = 0;
  for (int t = 0; t < n; ++t) {
    window = (window << state_bits | codes[t]) & (windows() - 1);
    size_t nearest = 0;
    const auto distance = [&](size_t variant) {
      return std::fabs(x[t] - values[variant * windows() + window]);
    };
    for (size_t variant = 1; variant < variants(); ++variant)
      if (distance(variant) < distance(nearest)) nearest = variant;
    codes[t] = static_cast<uint8_t>(codes[t] | nearest << state_bits);
  }
}

void TrellisCode::reconstruct(const uint8_t* codes, int n, float* z) const {
  const size_t state_mask = (size_t{1} << state_bits) - 1;
  size_t window = 0;
  for (int t = 0; t < n; ++t) {
    window = (window << state_bits | (codes[t] & state_mask)) & (windows() - 1);
    z[t] = values[(codes[t] >> state_bits) * windows() + window];
  }
}

void pack_trellis_codes(const uint8_t* codes, int n, int code_bits, uint8_t* out) {
  uint32_t pending = 0;
  int n_pending = 0;
  for (int t = 0; t < n; ++t) {
    pending |= static_cast<uint32_t>(codes[t]) << n_pending;
    for (n_pending += code_bits; n_pending >= 8; n_pending -= 8, pending >>= 8)
      *out++ = static_cast<uint8_t>(pending);
  }
}

namespace {

void encode_block(const TrellisCode& code, const float* rotated, int n, bool clustered,
                  Scratch& scratch, uint8_t* out) {
  BlockCoder coder(code, rotated, n, scratch);
  const Coding& coding = coder.run(clustered);
  store_fp16(out, coding.scale);
  pack_trellis_codes(coding.codes, n, code.code_bits(), out + 2);
}

}  // namespace

void encode_trellis_block(const TrellisCode& code, const float* rotated, int n, bool clustered,
                          uint8_t* out) {
  Scratch scratch(code);
  encode_block(code, rotated, n, clustered, scratch, out);
}

void encode_trellis_row(const TrellisCode& code, const float* weights, int64_t cols, uint8_t* out) {
  Scratch scratch(code);
  float x[kMaxBlock];
  for (int64_t first = 0; first < cols; first += kMaxBlock) {
    const int n = static_cast<int>(std::min<int64_t>(kMaxBlock, cols - first));
    std::copy(weights + first, weights + first + n, x);
    rotate_block(x, first, n, true);
    encode_block(code, x, n, true, scratch, out);
    out += 2 + n * code.code_bits() / 8;
  }
}

}  // namespace hrun
