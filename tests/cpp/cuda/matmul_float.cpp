// matmul_floats on the emulated device against sums in double.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include "cuda/kernels/matmul.h"
#include "encode/encoders.h"
#include "formats/list.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

int failures = 0;

// `shift`: values by which rows and activations begin off the alignment that wide loads want;
// `magnitude`: of activations.
template <FloatFormat F>
void check(int64_t rows, int64_t cols, int64_t n_tokens, int shift, float magnitude,
           uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  Gpu gpu(0);
  std::vector<uint8_t> file(static_cast<size_t>(rows * cols + shift) * F::kBlockBytes);
  uint8_t* const data = file.data() + static_cast<size_t>(shift) * F::kBlockBytes;
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (float& v : w) v = normal(random) * 0.1f;
  find_encoder(F::kId)->encode_row(w.data(), nullptr, rows * cols, data);
  const int64_t x_stride = cols + shift;
  std::vector<float> x(static_cast<size_t>(n_tokens * x_stride + shift));
  for (float& v : x) v = normal(random) * magnitude * std::exp(3 * normal(random));
  const int64_t y_stride = rows + 3;
  std::vector<float> y(static_cast<size_t>(n_tokens * y_stride), 1e30f);
  const PlainMatrix plain{F::kId, rows, cols, static_cast<size_t>(cols) * F::kBlockBytes, data};
  const FloatView view{x.data() + shift, n_tokens, cols, x_stride};
  matmul_floats(gpu, plain, view, FloatView{y.data(), n_tokens, rows, y_stride});
  double worst = 0;
  if (n_tokens > 1) {  // a token has the same bits alone
    std::vector<float> alone(static_cast<size_t>(rows));
    matmul_floats(gpu, plain, {view.row(n_tokens - 1), 1, cols, x_stride},
                  FloatView{alone.data(), 1, rows, rows});
    if (!std::equal(alone.begin(), alone.end(), y.begin() + (n_tokens - 1) * y_stride))
      worst = INFINITY;
  }
  for (int64_t t = 0; t < n_tokens; ++t) {
    for (int64_t r = 0; r < rows; ++r) {
      double sum = 0, size = 0;
      for (int64_t c = 0; c < cols; ++c) {
        const double product = static_cast<double>(F::widen(
                                   data + static_cast<size_t>(r * cols + c) * F::kBlockBytes)) *
                               view.row(t)[c];
        sum += product;
        size += std::fabs(product);
      }
      const double error = std::fabs(y[static_cast<size_t>(t * y_stride + r)] - sum) / size;
      if (!(error <= worst)) worst = error;
    }
    for (int64_t r = rows; r < y_stride; ++r)
      if (y[static_cast<size_t>(t * y_stride + r)] != 1e30f) worst = INFINITY;
  }
  if (worst < 1e-6) return;
  std::printf("FAILED: %s %lld x %lld, %lld tokens: error %g\n", std::string(F::kName).c_str(),
              static_cast<long long>(rows), static_cast<long long>(cols),
              static_cast<long long>(n_tokens), worst);
  ++failures;
}

template <FloatFormat F>
void check_format() {
  uint32_t seed = 1;
  for (const int64_t n_tokens : {1, 3, 8, 9, 33, 40}) check<F>(37, 576, n_tokens, 0, 1.0f, seed++);
  for (const int64_t cols : {1, 7, 40, 200, 1030}) check<F>(17, cols, 5, 0, 1.0f, seed++);
  for (const int shift : {1, 3, 4}) check<F>(16, 264, 2, shift, 1.0f, seed++);
  check<F>(16, 256, 2, 0, 1e-20f, seed++);
  check<F>(16, 256, 2, 0, 1e20f, seed++);
}

}  // namespace

int main() {
  Formats::for_each([]<class F>() {
    if constexpr (FloatFormat<F>) check_format<F>();
  });
  return failures == 0 ? 0 : 1;
}
