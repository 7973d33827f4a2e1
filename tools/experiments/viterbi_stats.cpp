// Helper of train_rtq.py: the path search over many blocks of a source, and the sums that a Lloyd
// step needs.
//
// A window of `bits` bits holds the newest code in its lowest k bits; value[window] is the
// reconstruction, one of `variants`: value[variant << bits | window].  A variant is chosen by bits
// that no later value depends on.
#include <cstdint>
#include <cstring>
#include <vector>

// One lane per newest code.
template <int k>
struct Lanes {
  typedef float f __attribute__((vector_size(4 << k)));
  typedef int32_t i __attribute__((vector_size(4 << k)));
  typedef int8_t b __attribute__((vector_size(1 << k)));
};

template <int k>
static double search(const float* source, int64_t blocks, int length, const float* value, int bits,
                     int variants, double* count, double* sum, int32_t* windows) {
  using fv = typename Lanes<k>::f;
  using iv = typename Lanes<k>::i;
  using bv = typename Lanes<k>::b;
  constexpr int kCodes = 1 << k;
  const int n_states = 1 << (bits - k), n_groups = n_states / kCodes;
  std::vector<fv> cost(n_groups), next(n_groups);
  std::vector<bv> choice(static_cast<size_t>(length) * n_groups);
  const fv* values = reinterpret_cast<const fv*>(value);
  const size_t vectors = size_t{1} << (bits - k);  // of the values of a variant
  const auto nearest = [&](fv xt, size_t at) {
    fv d = xt - values[at];
    fv least = d * d;
    for (int v = 1; v < variants; ++v) {
      d = xt - values[static_cast<size_t>(v) * vectors + at];
      least = d * d < least ? d * d : least;
    }
    return least;
  };
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const float* x = source + b * length;
    for (auto& c : cost) c = fv{} + 1e30f;
    cost[0][0] = 0;
    for (int t = 0; t < length; ++t) {
      const fv xt = fv{} + x[t];
      const float* old = reinterpret_cast<const float*>(cost.data());
      for (int g = 0; g < n_groups; ++g) {
        fv best = nearest(xt, static_cast<size_t>(g)) + old[g];
        iv arg = {};
        for (int p = 1; p < kCodes; ++p) {
          const int from = p * n_groups + g;
          const fv c = nearest(xt, static_cast<size_t>(from)) + old[from];
          const iv less = c < best;
          best = less ? c : best;
          arg = less ? iv{} + p : arg;
        }
        next[g] = best;
        choice[static_cast<size_t>(t) * n_groups + g] = __builtin_convertvector(arg, bv);
      }
      cost.swap(next);
    }
    int state = 0;
    const float* final_cost = reinterpret_cast<const float*>(cost.data());
    for (int s = 1; s < n_states; ++s)
      if (final_cost[s] < final_cost[state]) state = s;
    const int8_t* chosen = reinterpret_cast<const int8_t*>(choice.data());
    for (int t = length - 1; t >= 0; --t) {
      const int window = chosen[static_cast<size_t>(t) * n_states + state] * n_states + state;
      int taken = window;
      double error = static_cast<double>(x[t]) - value[window];
      for (int v = 1; v < variants; ++v) {
        const double other = static_cast<double>(x[t]) - value[v << bits | window];
        if (other * other < error * error) error = other, taken = v << bits | window;
      }
      total += error * error;
      count[taken] += 1;
      sum[taken] += x[t];
      if (windows) windows[b * length + t] = taken;
      state = window >> k;
    }
  }
  return total;
}

// source: [blocks, length]; value: [variants << bits], aligned to 64 bytes; count, sum: as many,
// added to; windows: [blocks, length] or null.  Returns the squared error.
extern "C" double viterbi_stats(const float* source, int64_t blocks, int length, const float* value,
                                int k, int bits, int variants, double* count, double* sum,
                                int32_t* windows) {
  const auto run = k == 2 ? search<2> : k == 3 ? search<3> : k == 4 ? search<4> : search<5>;
  return run(source, blocks, length, value, bits, variants, count, sum, windows);
}
