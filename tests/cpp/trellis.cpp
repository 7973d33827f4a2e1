// The path search at 2 to 6 bits: a code of random levels comes close to the rate-distortion
// bound, which only a search that finds (nearly) the best of all paths can do.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <random>
#include <vector>

#include "formats/format.h"
#include "formats/rotation.h"
#include "encode/trellis.h"

namespace {

// Decodes a block from the definition in trellis.h and returns its squared error against `x`.
double block_error(const hrun::TrellisCode& code, const uint8_t* block, const float* x, int n) {
  const int k = code.code_bits(), m = code.memory, states = code.state_bits;
  std::vector<uint32_t> c(static_cast<size_t>(m + n), 0);
  for (int bit = 0; bit < k * n; ++bit)
    c[static_cast<size_t>(m + bit / k)] |= ((block[2 + bit / 8] >> (bit % 8)) & 1u) << (bit % k);
  double error = 0;
  for (size_t t = static_cast<size_t>(m); t < c.size(); ++t) {
    uint32_t index = 0;
    for (int lag = 0; lag <= m; ++lag)
      index |= (c[t - static_cast<size_t>(lag)] & ((1u << states) - 1)) << (states * lag);
    index += (c[t] >> states) * static_cast<uint32_t>(code.windows());
    const double e = static_cast<double>(x[t - static_cast<size_t>(m)]) -
                     static_cast<double>(hrun::load_fp16(block) * code.values[index]);
    error += e * e;
  }
  return error;
}

// k bits of a code are states', `free` choose among levels.
bool check(int k, int m, int cols, double limit, int free = 0) {
  std::mt19937 random(static_cast<unsigned>(10 * (k + free) + m));
  std::normal_distribution<float> normal;
  const size_t n_levels = size_t{1} << (k * m);
  std::vector<float> levels(n_levels << free);
  for (float& level : levels)
    level = std::fmin(std::fmax(std::round(30 * normal(random)), -127.0f), 127.0f);
  // Random levels, read by the newest code xor the oldest and all codes between.
  const size_t n_windows = n_levels << k;
  std::vector<float> values(n_windows << free);
  for (size_t i = 0; i < values.size(); ++i) {
    const size_t variant = i / n_windows, window = i % n_windows;
    values[i] = levels[variant * n_levels + ((window & (n_levels - 1)) ^ (window >> (k * m)))];
  }
  const hrun::TrellisCode code(k, m, std::move(values), 29.0f, limit, free);
  const int bits = code.code_bits();

  double error = 0, energy = 0;
  for (int row = 0; row < 40; ++row) {
    std::vector<float> w(static_cast<size_t>(cols));
    for (float& v : w) v = normal(random);
    const int tail = cols % 256, blocks = cols / 256;
    std::vector<uint8_t> out(
        static_cast<size_t>(blocks * (2 + 32 * bits) + (tail ? 2 + tail * bits / 8 : 0)));
    hrun::encode_trellis_row(code, w.data(), cols, out.data());
    for (int first = 0, at = 0; first < cols; first += 256) {
      const int n = cols - first < 256 ? cols - first : 256;
      hrun::rotate_block(w.data() + first, first, n, true);
      error += block_error(code, out.data() + at, w.data() + first, n);
      for (int i = 0; i < n; ++i)
        energy += static_cast<double>(w[static_cast<size_t>(first + i)]) *
                  w[static_cast<size_t>(first + i)];
      at += 2 + n * bits / 8;
    }
  }
  std::printf("%d bits, memory %d, %d columns: %.5f, at most %.5f\n", bits, m, cols, error / energy,
              limit);
  return error <= limit * energy;
}

}  // namespace

int main() {
  // The bounds are 0.0625, 0.0156, 0.0039, 0.00098 and 0.00024; the best scalar codes reach 0.1175,
  // 0.0345, 0.0095, 0.0025 and 0.00064.
  const bool ok = check(2, 4, 256, 0.090) & check(2, 5, 288, 0.085) & check(3, 2, 256, 0.028) &
                  check(3, 3, 352, 0.0215) & check(4, 2, 512, 0.0075) & check(5, 2, 288, 0.0020) &
                  check(4, 2, 288, 0.00060, 2);
  return ok ? 0 : 1;
}
