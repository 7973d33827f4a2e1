#include "formats/trellis.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "formats/format.h"
#include "formats/rotation.h"

namespace hrun {
namespace {

constexpr int kLanes = 8;
typedef float Floats __attribute__((vector_size(4 * kLanes)));
typedef int32_t Ints __attribute__((vector_size(4 * kLanes)));
typedef uint8_t Bytes __attribute__((vector_size(kLanes)));

// A vector type as a template argument loses its alignment, a struct keeps it.
struct alignas(sizeof(Floats)) CostGroup {
  Floats v;
};

struct Scratch {
  std::vector<CostGroup> cost, next;  // per state, kLanes states together
  std::vector<Bytes> choice;       // [value][state]: the oldest code of the best window that ends in this state
  explicit Scratch(const TrellisCode& code)
      : cost(n_groups(code)), next(n_groups(code)), choice(n_groups(code) * kMaxBlock) {}
  static size_t n_groups(const TrellisCode& code) { return (size_t{1} << (code.window_bits - code.code_bits)) / kLanes; }
};

// Costs of the predecessors of the states 8g .. 8g+7: state s follows from state s >> k of each oldest code.
template <int k>
inline __attribute__((always_inline)) void spread(const float* old, size_t g, Floats& out) {
  if constexpr (k >= 3) {
    out = Floats{} + old[g >> (k - 3)];
  } else {
    const float a = old[2 * g], b = old[2 * g + 1];
    out = Floats{a, a, a, a, b, b, b, b};
  }
}

// The cheapest path for x[0..n) from state 0; codes[0..n).
template <int k>
inline __attribute__((always_inline)) void search_body(const TrellisCode& code, const float* x, int n, Scratch& scratch,
                                                       uint8_t* codes) {
  const size_t n_groups = scratch.cost.size(), n_states = n_groups * kLanes, n_before = n_states >> k;
  const Floats* values = reinterpret_cast<const Floats*>(code.values);
  std::fill(scratch.cost.begin(), scratch.cost.end(), CostGroup{Floats{} + std::numeric_limits<float>::max()});
  scratch.cost[0].v[0] = 0;
  CostGroup* cost = scratch.cost.data();
  CostGroup* next = scratch.next.data();
  for (int t = 0; t < n; ++t) {
    const Floats target = Floats{} + x[t];
    const float* old = reinterpret_cast<const float*>(cost);
    Bytes* choice = scratch.choice.data() + static_cast<size_t>(t) * n_groups;
    for (size_t g = 0; g < n_groups; ++g) {
      Floats before;
      spread<k>(old, g, before);
      Floats error = target - values[g];
      Floats best = error * error + before;
      Ints oldest = {};
      for (int p = 1; p < (1 << k); ++p) {
        spread<k>(old + static_cast<size_t>(p) * n_before, g, before);
        error = target - values[static_cast<size_t>(p) * n_groups + g];
        const Floats candidate = error * error + before;
        const Ints less = candidate < best;
        best = less ? candidate : best;
        oldest = less ? Ints{} + p : oldest;
      }
      next[g].v = best;
      choice[g] = __builtin_convertvector(oldest, Bytes);
    }
    std::swap(cost, next);
  }
  const float* final_cost = reinterpret_cast<const float*>(cost);
  size_t state = static_cast<size_t>(std::min_element(final_cost, final_cost + n_states) - final_cost);
  const uint8_t* chosen = reinterpret_cast<const uint8_t*>(scratch.choice.data());
  for (int t = n - 1; t >= 0; --t) {
    codes[t] = static_cast<uint8_t>(state & ((1u << k) - 1));
    state = (chosen[static_cast<size_t>(t) * n_states + state] * n_states + state) >> k;
  }
}

using Search = void (*)(const TrellisCode&, const float*, int, Scratch&, uint8_t*);

template <int k>
void search_baseline(const TrellisCode& code, const float* x, int n, Scratch& scratch, uint8_t* codes) {
  search_body<k>(code, x, n, scratch, codes);
}

#if defined(__x86_64__)
template <int k>
__attribute__((target("avx2"))) void search_avx2(const TrellisCode& code, const float* x, int n, Scratch& scratch,
                                                 uint8_t* codes) {
  search_body<k>(code, x, n, scratch, codes);
}
#endif

template <int k>
Search pick_search() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) return search_avx2<k>;
#endif
  return search_baseline<k>;
}

Search search_for(int code_bits) {
  static const Search kSearches[] = {pick_search<2>(), pick_search<3>(), pick_search<4>()};
  return kSearches[code_bits - 2];
}

// The value of each code of a block, in units of the scale.
void reconstruct(const TrellisCode& code, const uint8_t* codes, int n, float* z) {
  const uint32_t mask = (1u << code.window_bits) - 1;
  uint32_t window = 0;
  for (int t = 0; t < n; ++t) {
    window = ((window << code.code_bits) | codes[t]) & mask;
    z[t] = code.values[window];
  }
}

void pack(const uint8_t* codes, int n, int code_bits, uint8_t* out) {
  uint32_t pending = 0;
  int n_pending = 0;
  for (int t = 0; t < n; ++t) {
    pending |= static_cast<uint32_t>(codes[t]) << n_pending;
    for (n_pending += code_bits; n_pending >= 8; n_pending -= 8, pending >>= 8) *out++ = static_cast<uint8_t>(pending);
  }
}

constexpr float kLargestHalf = 65504.0f;

float round_to_half(float value) { return fp16_to_fp32(fp32_to_fp16(std::min(value, kLargestHalf))); }

// Codes one block of rotated weights: a path search at a scale, then the least-squares scale of that path, and again.
void encode_block(const TrellisCode& code, Search search, const float* x, int n, Scratch& scratch, uint8_t* out) {
  constexpr int kRounds = 3;
  double energy = 0;
  for (int t = 0; t < n; ++t) energy += static_cast<double>(x[t]) * x[t];
  float d = round_to_half(static_cast<float>(std::sqrt(energy / n)) / code.rms);
  uint8_t codes[kMaxBlock], best_codes[kMaxBlock] = {};
  float scaled[kMaxBlock], z[kMaxBlock];
  float best_d = 0;
  double best_error = energy;
  for (int round = 0; round < kRounds && d > 0; ++round) {
    const float inverse = 1.0f / d;
    for (int t = 0; t < n; ++t) scaled[t] = x[t] * inverse;
    search(code, scaled, n, scratch, codes);
    reconstruct(code, codes, n, z);
    double error = 0, xz = 0, zz = 0;
    for (int t = 0; t < n; ++t) {
      const double e = static_cast<double>(x[t]) - static_cast<double>(d) * z[t];
      error += e * e;
      xz += static_cast<double>(x[t]) * z[t];
      zz += static_cast<double>(z[t]) * z[t];
    }
    if (error >= best_error) break;
    best_error = error;
    best_d = d;
    std::copy(codes, codes + n, best_codes);
    const float refined = round_to_half(static_cast<float>(xz / zz));
    if (refined == d) break;
    d = refined;
  }
  store_fp16(out, best_d);
  pack(best_codes, n, code.code_bits, out + 2);
}

}  // namespace

void encode_trellis_row(const TrellisCode& code, const float* weights, int64_t cols, uint8_t* out) {
  const Search search = search_for(code.code_bits);
  Scratch scratch(code);
  float x[kMaxBlock];
  for (int64_t first = 0; first < cols; first += kMaxBlock) {
    const int n = static_cast<int>(std::min<int64_t>(kMaxBlock, cols - first));
    std::copy(weights + first, weights + first + n, x);
    rotate_block(x, first, n, true);
    encode_block(code, search, x, n, scratch, out);
    out += 2 + n * code.code_bits / 8;
  }
}

}  // namespace hrun
