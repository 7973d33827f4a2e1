// Helper of train_rtq.py: the path search over many blocks of a source, and the sums that a Lloyd step needs.
//
// A window of `bits` bits holds the newest 3-bit code in its lowest bits; value[window] is the reconstruction.
#include <cstdint>
#include <cstring>
#include <vector>

typedef float f8 __attribute__((vector_size(32)));
typedef int32_t i8 __attribute__((vector_size(32)));
typedef int8_t b8 __attribute__((vector_size(8)));

// source: [blocks, length]; value: [1 << bits]; count, sum: [1 << bits], added to; windows: [blocks, length] or null.
// Returns the squared error.
extern "C" double viterbi_stats(const float* source, int64_t blocks, int length, const float* value, int bits,
                                double* count, double* sum, int32_t* windows) {
  const int n_states = 1 << (bits - 3), n_groups = n_states / 8;
  std::vector<f8> cost(n_groups), next(n_groups);
  std::vector<b8> choice(static_cast<size_t>(length) * n_groups);
  const f8* values = reinterpret_cast<const f8*>(value);
  double total = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    const float* x = source + b * length;
    for (auto& c : cost) c = f8{} + 1e30f;
    cost[0][0] = 0;
    for (int t = 0; t < length; ++t) {
      const f8 xt = f8{} + x[t];
      const float* old = reinterpret_cast<const float*>(cost.data());
      for (int g = 0; g < n_groups; ++g) {
        f8 d = xt - values[g];
        f8 best = d * d + old[g];
        i8 arg = {};
        for (int p = 1; p < 8; ++p) {
          d = xt - values[p * n_groups + g];
          const f8 c = d * d + old[p * n_groups + g];
          const i8 less = c < best;
          best = less ? c : best;
          arg = less ? i8{} + p : arg;
        }
        next[g] = best;
        choice[static_cast<size_t>(t) * n_groups + g] = __builtin_convertvector(arg, b8);
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
      const double error = static_cast<double>(x[t]) - value[window];
      total += error * error;
      count[window] += 1;
      sum[window] += x[t];
      if (windows) windows[b * length + t] = window;
      state = window >> 3;
    }
  }
  return total;
}
