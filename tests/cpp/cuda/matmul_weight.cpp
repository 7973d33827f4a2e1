// Products in the weight domain against decoded rows in double precision, and against the CPU
// backend's.
//
// Bound, per row and token: a block of 256 weights passes one rounding in the tensor cores' first
// step, two with the scale and four additions, each at most u = 2^-11 relative to the vector's
// length (a butterfly doubles squared length and loses at most u of each sum), so the decoded block
// is off by at most 7 u |w|; a scale far below its row's largest is a subnormal fp16, off by 2^-25
// of that; activations are off by u each; so
//   |error| <= (8 u |w_b| + 2^-25 * 2016 * d_max * sqrt(256)) |x_b|, summed over blocks,
//            + (columns + 8) 2^-23 sum |w x|  for the fp32 sums.
// Random rounding gives 0.4 u of each of about seven, so the root mean square of the errors is held
// to 1.25 u as well.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "cpu/backend/cpu_backend.h"
#include "cuda/kernels/matmul_weight.h"
#include "cases.h"
#include "cuda/memory.h"
#include "formats/list.h"
#include "../random_bits.h"

using namespace hrun;

namespace {

using gpu::expect, gpu::failures;
float random_float() { return ::random_float(-23); }

enum class Scales { ordinary, large, tiny, mixed, zero };

// Random codes; block scales of the given kind.
std::vector<uint8_t> random_rows(const FormatInfo& f, int64_t rows, int64_t cols, Scales kind) {
  const size_t bytes = f.row_bytes(cols);
  std::vector<uint8_t> data(bytes * static_cast<size_t>(rows));
  for (uint8_t& b : data) b = static_cast<uint8_t>(random_bits() >> 8);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t b = 0; b * 256 < cols; ++b) {
      float d = std::ldexp(1.0f + std::abs(random_float()), -9);
      if (kind == Scales::large) d = 60000.0f;
      if (kind == Scales::tiny) d = std::ldexp(1.0f + static_cast<float>(random_bits() % 4), -24);
      if (kind == Scales::mixed)
        d = std::ldexp(1.0f + std::abs(random_float()), -static_cast<int>(random_bits() % 22));
      if (kind == Scales::zero && random_bits() % 2) d = 0;
      if (random_bits() % 8 == 0) d = -d;
      store_fp16(
          data.data() + static_cast<size_t>(r) * bytes + static_cast<size_t>(b) * f.block_bytes, d);
    }
  return data;
}

struct Product {
  std::vector<float> y;  // [n_tokens, rows]
};

// Memory is poisoned: a value that is not written is NaN.
Product multiply(gpu::Gpu& device, const FormatInfo& f, const std::vector<uint8_t>& w, int64_t rows,
                 int64_t cols, const std::vector<float>& x, int64_t n_tokens, int64_t gap = 0) {
  gpu::Memory from(device, w.size(), "a test"),
      packed(device, gpu::weight_domain_bytes(f.id, rows, cols), "a test");
  std::memcpy(from.data, w.data(), w.size());
  // In two parts, where there are two tiles.
  const int64_t some = rows / 2 / 16 * 16;
  for (const auto& [first, n] : {std::pair{int64_t{0}, some}, std::pair{some, rows - some}})
    if (n > 0)
      gpu::pack_weight_domain(
          device, f.id,
          static_cast<const uint8_t*>(from.data) + static_cast<size_t>(first) * f.row_bytes(cols),
          f.row_bytes(cols), first, n, rows, cols, static_cast<uint8_t*>(packed.data));
  const auto floats = [&](int64_t n) { return static_cast<size_t>(n) * sizeof(float); };
  gpu::Memory input(device, floats(n_tokens * (cols + gap)), "a test"),
      output(device, floats(n_tokens * (rows + gap)), "a test");
  FloatView xv{static_cast<float*>(input.data), n_tokens, cols, cols + gap},
      yv{static_cast<float*>(output.data), n_tokens, rows, rows + gap};
  for (int64_t t = 0; t < n_tokens; ++t) std::memcpy(xv.row(t), x.data() + t * cols, floats(cols));
  for (int64_t i = 0; i < n_tokens * (rows + gap); ++i) yv.data[i] = std::nanf("");
  gpu::Memory scratch(device, gpu::weight_domain_scratch_bytes(f.id, rows, cols, n_tokens),
                      "a test");
  gpu::matmul_weight_domain(device, f.id, static_cast<const uint8_t*>(packed.data), rows, cols, xv,
                            yv, scratch.data);
  Product out;
  for (int64_t t = 0; t < n_tokens; ++t) {
    out.y.insert(out.y.end(), yv.row(t), yv.row(t) + rows);
    for (int64_t i = rows; i < rows + gap; ++i)
      expect(std::isnan(yv.row(t)[i]), "the gap between rows is as it was");
  }
  return out;
}

std::vector<double> decode(const FormatInfo& f, const uint8_t* row, int64_t cols) {
  std::vector<float> own(static_cast<size_t>(cols));
  f.decode_row_own_basis(row, cols, own.data());
  std::vector<double> w(own.begin(), own.end());
  for (int64_t first = 0; first < cols; first += 256)
    for (int64_t done = first; done < std::min(first + 256, cols);) {
      const int n = rotation_piece(static_cast<int>(std::min(first + 256, cols) - done));
      double* const v = w.data() + done;
      for (int half = 1; half < n; half *= 2)
        for (int i = 0; i < n; ++i)
          if ((i & half) == 0) {
            const double a = v[i], b = v[i + half];
            v[i] = a + b, v[i + half] = a - b;
          }
      for (int i = 0; i < n; ++i) {
        v[i] /= std::sqrt(static_cast<double>(n));
        if (f.input_form == InputForm::kRotatedSigned) v[i] *= rotation_sign(done + i);
      }
      done += n;
    }
  return w;
}

void check(gpu::Gpu& device, const FormatInfo& f, int64_t rows, int64_t cols, int64_t n_tokens,
           Scales kind, float magnitude = 1, int64_t gap = 0) {
  const std::string name = std::string(f.name) + " " + std::to_string(rows) + " x " +
                           std::to_string(cols) + ", " + std::to_string(n_tokens) +
                           " tokens, scales " + std::to_string(static_cast<int>(kind)) + ", x " +
                           std::to_string(magnitude);
  const std::vector<uint8_t> w = random_rows(f, rows, cols, kind);
  std::vector<float> x(static_cast<size_t>(n_tokens * cols));
  for (size_t i = 0; i < x.size(); ++i)
    x[i] = magnitude * random_float() * (random_bits() % 97 == 0 ? 100.0f : 1.0f);
  const Product got = multiply(device, f, w, rows, cols, x, n_tokens, gap);
  if (n_tokens > 1) {
    const Product alone = multiply(device, f, w, rows, cols, {x.end() - cols, x.end()}, 1);
    expect(std::equal(alone.y.begin(), alone.y.end(), got.y.end() - rows),
           name + ": the last token has the same bits alone");
  }
  constexpr double u = 1.0 / 2048;
  double squared_error = 0, squared_size = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const uint8_t* const row = w.data() + static_cast<size_t>(r) * f.row_bytes(cols);
    const std::vector<double> exact = decode(f, row, cols);
    double largest_scale = 0;
    for (int64_t b = 0; b * 256 < cols; ++b)
      largest_scale = std::max<double>(
          largest_scale, std::abs(load_fp16(row + b * static_cast<int64_t>(f.block_bytes))));
    for (int64_t t = 0; t < n_tokens; ++t) {
      double sum = 0, sizes = 0, bound = 0, lengths = 0;
      for (int64_t first = 0; first < cols; first += 256) {
        double ww = 0, xx = 0;
        for (int64_t c = first; c < std::min(first + 256, cols); ++c) {
          const double a = exact[static_cast<size_t>(c)], b = x[static_cast<size_t>(t * cols + c)];
          sum += a * b, sizes += std::abs(a * b), ww += a * a, xx += b * b;
        }
        bound += (8 * u * std::sqrt(ww) + std::ldexp(1.0, -25) * 2016 * largest_scale * 16) *
                 std::sqrt(xx);
        lengths += ww * xx / static_cast<double>(std::min<int64_t>(256, cols - first));
      }
      bound = 1.01 * bound + static_cast<double>(cols + 8) * std::ldexp(1.0, -23) * sizes;
      const double error = std::abs(got.y[static_cast<size_t>(t * rows + r)] - sum);
      expect(error <= bound, name + ": row " + std::to_string(r) + ", token " + std::to_string(t) +
                                 ": error " + std::to_string(error) + " above " +
                                 std::to_string(bound));
      squared_error += error * error, squared_size += lengths;
    }
  }
  if (kind == Scales::ordinary && rows * n_tokens >= 200)
    expect(std::sqrt(squared_error) <= 1.25 * u * std::sqrt(squared_size),
           name + ": root mean square " +
               std::to_string(std::sqrt(squared_error / squared_size) / u) + " u");
}

// The CPU's product in the weight domain (fp32) of the same rows.
void check_cpu(gpu::Gpu& device, const FormatInfo& f) {
  constexpr int64_t rows = 40, cols = 512, n_tokens = 5;
  const std::vector<uint8_t> w = random_rows(f, rows, cols, Scales::ordinary);
  std::vector<float> x(n_tokens * cols), y(n_tokens * rows);
  for (float& v : x) v = random_float();
  BackendOptions options;
  options.n_threads = 1;
  options.rotated_matmul = RotatedMatmul::weight;
  CpuBackend cpu(options);
  const auto tensor = cpu.upload({f.id, rows, cols, f.row_bytes(cols), w.data(), "w"});
  const MatmulTarget target{tensor.get(), {y.data(), n_tokens, rows, rows}};
  cpu.matmul({&target, 1}, MatmulInput(FloatView{x.data(), n_tokens, cols, cols}));
  const Product got = multiply(device, f, w, rows, cols, x, n_tokens);
  double error = 0, size = 0;
  for (size_t i = 0; i < y.size(); ++i)
    error += std::pow(got.y[i] - y[i], 2), size += std::pow(y[i], 2);
  expect(std::sqrt(error / size) < 1e-3, std::string(f.name) +
                                             ": the CPU's product, relative error " +
                                             std::to_string(std::sqrt(error / size)));
}

// A NaN or an infinity in a token makes that token's row NaN or infinite and no other.
void check_not_finite(gpu::Gpu& device, const FormatInfo& f) {
  constexpr int64_t rows = 17, cols = 256, n_tokens = 3;
  std::vector<float> x(n_tokens * cols);
  for (float& v : x) v = random_float();
  x[cols + 7] = std::numeric_limits<float>::infinity();
  const Product got =
      multiply(device, f, random_rows(f, rows, cols, Scales::ordinary), rows, cols, x, n_tokens);
  for (int64_t t = 0; t < n_tokens; ++t)
    for (int64_t r = 0; r < rows; ++r)
      expect(std::isfinite(got.y[static_cast<size_t>(t * rows + r)]) == (t != 1),
             std::string(f.name) + ": an infinity stays with its token");
}

}  // namespace

int main() {
  gpu::Gpu device(0);
  expect(gpu::weight_domain_bytes(find_format("q8_0")->id, 16, 256) == 0,
         "a format that is not rotated has no kernel");
  expect(gpu::weight_domain_bytes(find_format("itq3_s")->id, 16, 288) == 0,
         "a shape that the format has not");
  for (const char* name : {"itq3_s", "rtq2", "rtq3", "rtq4", "rtq5", "rtq6"}) {
    const FormatInfo& f = *find_format(name);
    for (const int64_t n_tokens : {1, 2, 7, 8, 9, 16, 17, 33, 127, 128})
      check(device, f, 24, 256, n_tokens, Scales::ordinary);
    check(device, f, 150, 512, 129,
          Scales::ordinary);  // two blocks of rows, two of tokens, whole and not
    check(device, f, 24, 768, 129, Scales::ordinary);
    check(device, f, 3, 2816, 3, Scales::ordinary, 1, 5);  // columns split over blocks of threads
    check(device, f, 16, 768, 4, Scales::large, 1e-3f);
    check(device, f, 16, 768, 4, Scales::large, 1e25f);
    check(device, f, 16, 768, 4, Scales::tiny, 1e-30f);
    check(device, f, 16, 768, 4, Scales::mixed, 1e5f);
    check(device, f, 16, 768, 4, Scales::zero);
    if (f.row_ok(32))
      for (const int64_t cols : {32, 64, 96, 128, 160, 192, 224, 288, 736})
        check(device, f, 18, cols, 3, Scales::ordinary);
    check_cpu(device, f);
    check_not_finite(device, f);
  }
  if (failures > 0) std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
