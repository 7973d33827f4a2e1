#include "encode/input_moments.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "base/cpu_features.h"
#include "base/error.h"
#include "base/threads.h"

#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a call

namespace hrun {
namespace {

constexpr int64_t kPanel = 32;

// The compiler keeps a vector in registers only where one instruction takes it whole, so each tier
// has its own.
typedef double Doubles2 __attribute__((vector_size(16)));
typedef double Doubles4 __attribute__((vector_size(32)));
typedef double Doubles8 __attribute__((vector_size(64)));
constexpr int64_t kSpare = 16;  // places after a row that are read and written

template <class Doubles>
constexpr int64_t kLane = sizeof(Doubles) / sizeof(double);

// y[0..n) -= c * x[0..n), a whole number of vectors.
template <class Doubles>
[[gnu::always_inline]] inline void subtract_scaled(double* y, const double* x, double c,
                                                   int64_t n) {
  for (int64_t i = 0; i < n; i += kLane<Doubles>) {
    Doubles a, b;
    __builtin_memcpy(&a, y + i, sizeof a);
    __builtin_memcpy(&b, x + i, sizeof b);
    a -= b * c;
    __builtin_memcpy(y + i, &a, sizeof a);
  }
}

// In place: the lower triangle of the symmetric h [n][stride] becomes the transpose of M's upper
// one, M D M^T = h; the rest of h is scratch.  d: [n].  Column by column from the last, in panels
// so that the matrix is read once per panel.  Every element loses the same products in the same
// order, whoever subtracts them.

// A panel's own part.  Row j of the lower triangle is column j of the upper one.  False if a pivot
// is not positive.
template <class Doubles>
[[gnu::always_inline]] inline bool panel_body(double* h, int64_t begin, int64_t end, int64_t stride,
                                              double* d) {
  for (int64_t j = end - 1; j >= begin; --j) {
    double* row = h + j * stride;
    d[j] = row[j];
    if (!(d[j] > 0) || !std::isfinite(d[j])) return false;
    const double inverse = 1.0 / d[j];
    for (int64_t i = begin; i < j; ++i)
      subtract_scaled<Doubles>(h + i * stride, row, row[i] * inverse, i + 1);
    for (int64_t i = 0; i < j; ++i) row[i] *= inverse;
    row[j] = 1;
  }
  return true;
}

template <class Doubles>
[[gnu::always_inline]] inline Doubles load(const double* p) {
  Doubles v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}

// What the panel takes off rows first .. last, which are all before it: four rows by two vectors of
// columns in registers, and a tile of the panel's columns in the first-level cache.
template <class Doubles>
[[gnu::always_inline]] inline void rest_body(double* h, int64_t first, int64_t last, int64_t begin,
                                             int64_t end, int64_t stride, const double* d) {
  constexpr int64_t kTile = 64, kRows = 4, kVectors = 2, kStep = kVectors * kLane<Doubles>;
  static_assert(kTile % kStep == 0 && kStep <= kSpare);
  for (int64_t tile = 0; tile < last; tile += kTile)
    for (int64_t i = std::max(first, tile / kRows * kRows); i < last; i += kRows) {
      const int64_t n = std::min(kRows, last - i), reach = std::min(tile + kTile, i + n);
      double scaled[kPanel][kRows] = {};
      for (int64_t j = begin; j < end; ++j)
        for (int64_t r = 0; r < n; ++r) scaled[j - begin][r] = h[j * stride + i + r] * d[j];
      double* rows[kRows];
      for (int64_t r = 0; r < kRows; ++r) rows[r] = h + (i + std::min(r, n - 1)) * stride;
      for (int64_t c = tile; c < reach; c += kStep) {
        Doubles left[kRows][kVectors];
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v)
            left[r][v] = load<Doubles>(rows[r] + c + v * kLane<Doubles>);
        for (int64_t j = end - 1; j >= begin; --j) {
          Doubles taken[kVectors];
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v)
            taken[v] = load<Doubles>(h + j * stride + c + v * kLane<Doubles>);
#pragma GCC unroll 4
          for (int r = 0; r < kRows; ++r)
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) left[r][v] -= taken[v] * scaled[j - begin][r];
        }
#pragma GCC unroll 4
        for (int r = 0; r < kRows; ++r) {
          if (r >= n) continue;
#pragma GCC unroll 2
          for (int v = 0; v < kVectors; ++v)
            __builtin_memcpy(rows[r] + c + v * kLane<Doubles>, &left[r][v], sizeof left[r][v]);
        }
      }
    }
}

bool panel_baseline(double* h, int64_t begin, int64_t end, int64_t stride, double* d) {
  return panel_body<Doubles2>(h, begin, end, stride, d);
}
void rest_baseline(double* h, int64_t first, int64_t last, int64_t begin, int64_t end,
                   int64_t stride, const double* d) {
  rest_body<Doubles2>(h, first, last, begin, end, stride, d);
}
#if defined(__x86_64__)
__attribute__((target("avx2"))) bool panel_avx2(double* h, int64_t begin, int64_t end,
                                                int64_t stride, double* d) {
  return panel_body<Doubles4>(h, begin, end, stride, d);
}
__attribute__((target("avx2"))) void rest_avx2(double* h, int64_t first, int64_t last,
                                               int64_t begin, int64_t end, int64_t stride,
                                               const double* d) {
  rest_body<Doubles4>(h, first, last, begin, end, stride, d);
}
__attribute__((target("avx512f,prefer-vector-width=512"))) bool panel_avx512(
    double* h, int64_t begin, int64_t end, int64_t stride, double* d) {
  return panel_body<Doubles8>(h, begin, end, stride, d);
}
__attribute__((target("avx512f,prefer-vector-width=512"))) void rest_avx512(
    double* h, int64_t first, int64_t last, int64_t begin, int64_t end, int64_t stride,
    const double* d) {
  rest_body<Doubles8>(h, first, last, begin, end, stride, d);
}
#endif

struct Kernels {
  bool (*panel)(double* h, int64_t begin, int64_t end, int64_t stride, double* d);
  void (*rest)(double* h, int64_t first, int64_t last, int64_t begin, int64_t end, int64_t stride,
               const double* d);
};

Kernels pick_kernels() {
#if defined(__x86_64__)
  if (cpu_may_use("avx512f")) return {panel_avx512, rest_avx512};
  if (cpu_may_use("avx2")) return {panel_avx2, rest_avx2};
#endif
  return {panel_baseline, rest_baseline};
}

bool factor(double* h, int64_t n, int64_t stride, double* d, ThreadPool* pool) {
  constexpr int64_t kTask = 64;  // rows
  static const Kernels kernels = pick_kernels();
  for (int64_t end = n; end > 0; end -= std::min(end, kPanel)) {
    const int64_t begin = std::max<int64_t>(end - kPanel, 0);
    if (!kernels.panel(h, begin, end, stride, d)) return false;
    const auto rest = [&](int64_t first, int64_t last, int) {
      kernels.rest(h, first * kTask, std::min(last * kTask, begin), begin, end, stride, d);
    };
    const int64_t n_tasks = (begin + kTask - 1) / kTask;
    if (pool != nullptr)
      pool->parallel(n_tasks, 1, rest);
    else
      rest(0, n_tasks, 0);
  }
  return true;
}

// out[t][c] = h[c][t] for c > t, a square at a time: one of them is read across its rows.
void transpose_above(const double* h, int64_t n, int64_t stride, float* out, int64_t out_stride) {
  constexpr int64_t kSquare = 32;
  for (int64_t top = 0; top < n; top += kSquare)
    for (int64_t left = top; left < n; left += kSquare)
      for (int64_t t = top; t < std::min(top + kSquare, n); ++t)
        for (int64_t c = std::max(left, t + 1); c < std::min(left + kSquare, n); ++c)
          out[t * out_stride + c] = static_cast<float>(h[c * stride + t]);
}

constexpr int64_t kAlone = 512;  // columns up to which one thread does it

}  // namespace

InputFactor::InputFactor(const float* moments, int64_t cols, int64_t width, double damping,
                         int n_threads)
    : cols_(cols), width_(width), stride_(width + kPadding) {
  if (cols < 1 || width < 1 || width > cols || cols % kWidthStep != 0 || width % kWidthStep != 0)
    throw ArgumentError("{} columns in groups of {}, must be multiples of {}", cols, width,
                        int{kWidthStep});
  if (!(damping > 0)) throw ArgumentError("damping is {}, must be positive", damping);
  feedback_.assign(static_cast<size_t>(cols * stride_), 0.0f);
  weights_.resize(static_cast<size_t>(cols));
  std::optional<ThreadPool> pool;
  if (width > kAlone && n_threads != 1) pool.emplace(n_threads);
  double trace = 0;
  std::vector<double> h, d(static_cast<size_t>(width));
  for (int64_t first = 0; first < cols; first += width) {
    const int64_t n = std::min(width, cols - first);
    const float* source = moments + first * width;
    double diagonal = 0;
    for (int64_t i = 0; i < n; ++i) diagonal += static_cast<double>(source[i * width + i]);
    trace += diagonal;
    if (!std::isfinite(diagonal))
      throw ConversionError("the second moments of an input are not finite");
    // If an input is always zero, any error is free, and any positive weight will do.
    const double ridge = diagonal > 0 ? damping * diagonal / static_cast<double>(n) : 1.0;
    const int64_t stride = n + kSpare;
    h.assign(static_cast<size_t>(n * stride), 0.0);
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j <= i; ++j)
        h[static_cast<size_t>(i * stride + j)] =
            static_cast<double>(source[i * width + j]) + (i == j ? ridge : 0.0);
    if (!factor(h.data(), n, stride, d.data(), pool ? &*pool : nullptr))
      throw ConversionError(
          "the second moments of an input are not positive definite; more calibration text or more "
          "damping is needed");
    for (int64_t t = 0; t < n; ++t)
      weights_[static_cast<size_t>(first + t)] = static_cast<float>(d[static_cast<size_t>(t)]);
    transpose_above(h.data(), n, stride, feedback_.data() + first * stride_, stride_);
  }
  mean_power_ = trace / static_cast<double>(cols);
}

int64_t InputFactor::group_end(int64_t t) const {
  return std::min(cols_, (t / width_ + 1) * width_);
}

}  // namespace hrun
