// The first public kernels for ITQ3_S are wrong in seven ways.  Each has a test here that such a
// kernel fails, and, where the defect is arithmetic, a model of it that shows so.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>

#include "cases.h"
#include "cpu/backend/cpu_backend.h"
#include "cuda/cuda_backend.h"
#include "cuda/kernels/matmul_weight.h"
#include "cuda/kernels/quantize.h"
#include "cuda/kernels/rows.h"
#include "encode/encoders.h"
#include "formats/list.h"
#include "formats/rotation.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

constexpr int kCols = 256;
constexpr double u = 1.0 / 2048;  // unit roundoff of fp16

std::vector<const FormatInfo*> rotated_formats() {
  std::vector<const FormatInfo*> all;
  for (const FormatInfo& f : formats())
    if (is_rotated(f.input_form)) all.push_back(&f);
  return all;
}

double length(std::span<const double> v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}
std::vector<double> widened(const std::vector<float>& v) { return {v.begin(), v.end()}; }
double dot(const std::vector<double>& w, const float* x) {
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) sum += w[i] * x[i];
  return sum;
}

std::vector<uint8_t> encode(const FormatInfo& f, const std::vector<float>& w, int64_t rows,
                            const float* importance = nullptr) {
  const auto cols = static_cast<int64_t>(w.size()) / rows;
  std::vector<uint8_t> out(f.row_bytes(cols) * static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r)
    find_encoder(f.id)->encode_row(w.data() + r * cols, importance, cols,
                                   out.data() + static_cast<size_t>(r) * f.row_bytes(cols));
  return out;
}
std::vector<float> decode(const FormatInfo& f, const std::vector<uint8_t>& data, int64_t cols) {
  const int64_t rows = static_cast<int64_t>(data.size() / f.row_bytes(cols));
  std::vector<float> w(static_cast<size_t>(rows * cols));
  for (int64_t r = 0; r < rows; ++r)
    f.decode_row(data.data() + static_cast<size_t>(r) * f.row_bytes(cols), cols,
                 w.data() + r * cols);
  return w;
}

// y [n_tokens, rows] of the weight-domain kernel.  Every buffer has a canary behind its last byte.
class Guarded {
 public:
  Guarded(Gpu& gpu, size_t bytes) : bytes_(bytes), memory_(gpu, bytes + kCanary) {
    std::memset(memory_.get() + bytes, 0x5a, kCanary);
  }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(memory_.get());
  }
  bool intact() const {
    return std::all_of(memory_.get() + bytes_, memory_.get() + bytes_ + kCanary,
                       [](uint8_t b) { return b == 0x5a; });
  }

 private:
  static constexpr size_t kCanary = 4096;
  size_t bytes_;
  OnDevice<uint8_t> memory_;
};

std::vector<float> multiply(Gpu& gpu, const FormatInfo& f, const std::vector<uint8_t>& rows_data,
                            int64_t cols, const std::vector<float>& x) {
  const int64_t rows = static_cast<int64_t>(rows_data.size() / f.row_bytes(cols)),
                n_tokens = static_cast<int64_t>(x.size()) / cols;
  const OnDevice<uint8_t> from(gpu, rows_data);
  const OnDevice<float> input(gpu, x);
  const Guarded packed(gpu, weight_domain_bytes(f.id, rows, cols)),
      y(gpu, static_cast<size_t>(rows * n_tokens) * sizeof(float)),
      scratch(gpu, weight_domain_scratch_bytes(f.id, rows, cols, n_tokens));
  pack_weight_domain(gpu, f.id, from.get(), f.row_bytes(cols), 0, rows, rows, cols,
                     packed.as<uint8_t>());
  matmul_weight_domain(gpu, f.id, packed.as<uint8_t>(), rows, cols,
                       {input.get(), n_tokens, cols, cols}, {y.as<float>(), n_tokens, rows, rows},
                       scratch.as<uint8_t>());
  expect(packed.intact() && y.intact() && scratch.intact(),
         "{}: a buffer of the weight-domain product is overrun", f.name);
  return {y.as<float>(), y.as<float>() + rows * n_tokens};
}

std::vector<float> unit_tokens() {
  std::vector<float> x(size_t{kCols} * kCols);
  for (size_t c = 0; c < kCols; ++c) x[c * kCols + c] = 1;
  return x;
}

// 1.  The transform ran on the codes, and the scales of 32 columns each were multiplied in
// afterwards, in the other domain.
void scales_come_first(Gpu& gpu) {
  const FormatInfo& f = *find_format("itq3_s");
  Random random(1);
  std::vector<uint8_t> row(f.row_bytes(kCols));
  for (uint8_t& b : row) b = static_cast<uint8_t>(random.next());
  store_fp16(row.data(), 0.01f);
  const uint8_t unequal[4] = {0xf0, 0x0f, 0x1e, 0x70};  // sub-scales 0 15 15 0 14 1 0 7
  std::memcpy(row.data() + 106, unequal, 4);

  IntBlock ints;
  ITQ3_S::unpack(row.data(), kCols, ints);
  std::vector<float> codes(ints.codes, ints.codes + kCols);
  unrotate_block(codes.data(), 0, kCols, false);
  for (int c = 0; c < kCols; ++c)
    codes[static_cast<size_t>(c)] *= ints.scale * static_cast<float>(ints.group_scale[c / kGroup]);

  const std::vector<double> w = widened(decode(f, row, kCols));
  const std::vector<float> y = multiply(gpu, f, row, kCols, unit_tokens());
  const double bound = 8.1 * u * length(w);
  double error = 0, otherwise = 0;
  for (size_t c = 0; c < kCols; ++c)
    error = std::max(error, std::abs(y[c] - w[c])),
    otherwise = std::max(otherwise, std::abs(codes[c] - w[c]));
  expect(error <= bound, "scales of 32 columns are applied before the transform: error {} above {}",
         error, bound);
  expect(otherwise > 4 * bound, "scales applied after it would be noticed");
}

// 2.  Eight warps with different rows used one buffer in shared memory, and barriers of single
// warps.
struct SharedBuffer {
  static constexpr int kThreads = 256, kBlocks = 1;
  static constexpr const char* kName = "test";
  float* out;  // [8 warps][256]
  HRUN_HD void operator()() const {
    auto* const buffer = reinterpret_cast<float*>(shared());
    for (int i = 0; i < 8; ++i)
      buffer[lane() * 8 + i] = static_cast<float>(1000 * warp() + lane() * 8 + i);
    sync_warp();
    for (int i = 0; i < 8; ++i) out[warp() * 256 + lane() * 8 + i] = buffer[i * 32 + lane()];
    sync_warp();
  }
};
void warps_have_rows_of_their_own(Gpu& gpu) {
  Random random(2);
  constexpr int64_t rows = 256, cols = 512, n_tokens = 17;
  for (const FormatInfo* f : rotated_formats()) {
    const std::vector<uint8_t> data = encode(*f, random.normals(rows * cols), rows);
    const std::vector<float> w = decode(*f, data, cols), x = random.normals(n_tokens * cols);
    // Every launch runs the threads in another order over poisoned shared memory.
    const std::vector<float> first = multiply(gpu, *f, data, cols, x);
    for (int seed = 0; seed < 5; ++seed)
      expect(multiply(gpu, *f, data, cols, x) == first,
             "{}: the result depends on the order of the threads", f->name);
    double error = 0, size = 0;
    for (int64_t t = 0; t < n_tokens; ++t)
      for (int64_t r = 0; r < rows; ++r) {
        double exact = 0;
        for (int64_t c = 0; c < cols; ++c)
          exact += static_cast<double>(w[static_cast<size_t>(r * cols + c)]) *
                   x[static_cast<size_t>(t * cols + c)];
        error = std::max(error, std::abs(first[static_cast<size_t>(t * rows + r)] - exact)),
        size = std::max(size, std::abs(exact));
      }
    expect(error < 0.005 * size, "{}: 16 warps, 256 rows: error {}", f->name, error / size);
  }
  int wrong = 0;
  const OnDevice<float> out(gpu, 8 * 256);
  for (int seed = 0; seed < 20; ++seed) {
    gpu.launch(SharedBuffer{out.get()}, Grid{1}, 1024);
    const std::vector<float> values = out.read();
    for (int warp = 0; warp < 8; ++warp)
      for (int i = 0; i < 8; ++i)
        for (int l = 0; l < 32; ++l)
          wrong += values[static_cast<size_t>(warp * 256 + l * 8 + i)] !=
                   static_cast<float>(1000 * warp + i * 32 + l);
  }
  expect(wrong > 0, "a buffer that warps share would be noticed");
}

// 3. Weights were rounded to int8 after the inverse transform: clamped, and truncated towards zero.
void nothing_is_rounded_to_int8(Gpu& gpu) {
  Random random(3);
  const std::vector<float> ones = unit_tokens();
  for (const FormatInfo* f : rotated_formats()) {
    std::vector<float> weights = random.normals(kCols);
    weights[77] = 400;  // the outlier that the rotation spreads over its block
    const std::vector<uint8_t> data = encode(*f, weights, 1);
    const std::vector<double> w = widened(decode(*f, data, kCols));
    const double step = std::abs(load_fp16(data.data()));
    const auto as_int8 = [&](double v) {
      return step * std::trunc(std::clamp(v / step, -128.0, 127.0));
    };
    const double bound = 8.1 * u * length(w);
    const std::vector<float> y = multiply(gpu, *f, data, kCols, ones);
    for (size_t c = 0; c < kCols; ++c)
      expect(std::abs(y[c] - w[c]) <= bound, "{}: weight {} is {}, not {}", f->name, c, y[c], w[c]);
    expect(std::abs(as_int8(w[77]) - w[77]) > 4 * bound, "{}: a clamp to int8 would be noticed",
           f->name);

    // Truncation towards zero makes every product with the weights' own signs too small.
    const std::vector<uint8_t> plain = encode(*f, random.normals(kCols), 1);
    const std::vector<double> v = widened(decode(*f, plain, kCols));
    std::vector<float> signs(kCols);
    std::vector<double> truncated(kCols);
    const double fine = std::abs(load_fp16(plain.data()));
    for (size_t c = 0; c < kCols; ++c)
      signs[c] = v[c] < 0 ? -1.0f : 1.0f, truncated[c] = fine * std::trunc(v[c] / fine);
    const double exact = dot(v, signs.data()), limit = 8.1 * u * length(v) * 16;
    const double error = multiply(gpu, *f, plain, kCols, signs)[0] - exact;
    expect(std::abs(error) <= limit, "{}: products with the weights' signs are off by {} of {}",
           f->name, error, exact);
    expect(std::abs(error) <= exact / 1024, "{}: a bias of {} of {}", f->name, error, exact);
    expect(dot(truncated, signs.data()) - exact < -exact / 512, "{}: truncation would be noticed",
           f->name);
  }
}

// 4. A single token found no kernel at all; where one row was decoded, 32-point transforms stood
// for that of 256.
void one_token_and_the_whole_transform(Gpu& gpu) {
  Random random(4);
  for (const FormatInfo* f : rotated_formats()) {
    const std::vector<uint8_t> data = encode(*f, random.normals(3 * kCols), 3);
    const std::vector<float> w = decode(*f, data, kCols);
    for (const int column : {0, 31, 32, 100, 255}) {
      std::vector<float> x(kCols);
      x[static_cast<size_t>(column)] = 1;
      const std::vector<float> y = multiply(gpu, *f, data, kCols, x);
      for (size_t r = 0; r < 3; ++r) {
        const std::vector<double> row(w.begin() + static_cast<long>(r * kCols),
                                      w.begin() + static_cast<long>((r + 1) * kCols));
        expect(std::abs(y[r] - row[static_cast<size_t>(column)]) <= 8.1 * u * length(row),
               "{}: column {} of row {} for one token", f->name, column, r);
      }
      // One column of the input reaches all 256 columns of its block.
      const OnDevice<float> input(gpu, x);
      const OnDevice<int8_t> codes(gpu, kCols);
      const OnDevice<float> scales(gpu, 1);
      const OnDevice<int16_t> sums(gpu, kCols / 16);
      gpu::QuantizedRows to = quantized_shape(f->input_form, 1, kCols);
      to.codes = codes.get(), to.scales = scales.get(), to.sums = sums.get();
      quantize(gpu, {.x = {input.get(), 1, kCols, kCols}}, f->input_form, to);
      for (const int8_t code : codes.read())
        expect(code == 127 || code == -127, "{}: column {} in the rotated basis: {}", f->name,
               column, code);
    }
    const OnDevice<uint8_t> rows(gpu, data);
    const OnDevice<float> out(gpu, 3 * kCols);
    decode_rows(gpu, {f->id, 3, kCols, f->row_bytes(kCols), rows.get()}, 0, nullptr, false,
                {out.get(), 3, kCols, kCols});
    expect(out.read() == w, "{}: decoded rows are the CPU's", f->name);
  }
}

// 5. A function that writes floats was cast to one that writes fp16: wrong values, and twice the
// bytes.  (The canaries of multiply() watch every call in this file; here the fp16 buffer is the
// last of the scratch memory but for 256 bytes.)
void halves_are_halves(Gpu& gpu) {
  Random random(5);
  const FormatInfo& f = *find_format("rtq3");
  for (const int64_t n_tokens : {1, 16, 31}) {
    const std::vector<uint8_t> data = encode(f, random.normals(16 * 512), 16);
    const std::vector<float> w = decode(f, data, 512),
                             x = random.normals(static_cast<size_t>(n_tokens) * 512);
    const std::vector<float> y = multiply(gpu, f, data, 512, x);
    for (int64_t t = 0; t < n_tokens; ++t)
      for (int64_t r = 0; r < 16; ++r) {
        const std::vector<double> row(w.begin() + r * 512, w.begin() + (r + 1) * 512);
        expect(std::abs(y[static_cast<size_t>(t * 16 + r)] - dot(row, x.data() + t * 512)) <=
                   8.1 * u * length(row) * std::sqrt(512.0) * 2,
               "token {} of {}, row {}", t, n_tokens, r);
      }
  }
  expect(two_halves(1.0f, -2.0f) == 0xc0003c00u, "two fp16 values in four bytes");
}

// 6. The type had no CPU kernels and no case in the quantizer: neither could be had through the
// normal entry points.
void every_entry_point_knows_the_formats() {
  Random random(6);
  constexpr int64_t rows = 40, cols = 512, n_tokens = 3;
  for (const FormatInfo* f : rotated_formats()) {
    expect(find_encoder(f->id) && f->decode_row && find_format(f->name) == f &&
               find_format(f->id) == f,
           "{}: in the registry", f->name);
    const std::vector<float> weights = random.normals(rows * cols),
                             x = random.normals(n_tokens * cols);
    const std::vector<uint8_t> data = encode(*f, weights, rows);
    const TensorView view{f->id, rows, cols, f->row_bytes(cols), data.data(), "w"};
    const auto run = [&](Backend& backend) {
      const auto in = backend.allocate(x.size() * sizeof(float), "a test"),
                 out = backend.allocate(rows * n_tokens * sizeof(float), "a test"),
                 looked_up = backend.allocate(2 * cols * sizeof(float), "a test");
      backend.write(in->data,
                    {reinterpret_cast<const uint8_t*>(x.data()), x.size() * sizeof(float)});
      const auto tensor = backend.upload(view);
      const auto table = backend.upload(view, TensorUse::lookup);
      const MatmulTarget target{tensor.get(),
                                {static_cast<float*>(out->data), n_tokens, rows, rows}};
      backend.matmul({&target, 1},
                     MatmulInput(FloatView{static_cast<float*>(in->data), n_tokens, cols, cols}));
      const int32_t tokens[2] = {39, 7};
      backend.embed(*table, tokens, {static_cast<float*>(looked_up->data), 2, cols, cols});
      std::vector<float> result(rows * n_tokens + 2 * cols);
      backend.read(out->data,
                   {reinterpret_cast<uint8_t*>(result.data()), rows * n_tokens * sizeof(float)});
      backend.read(looked_up->data, {reinterpret_cast<uint8_t*>(result.data() + rows * n_tokens),
                                     2 * cols * sizeof(float)});
      return result;
    };
    const std::vector<float> decoded = decode(*f, data, cols);
    for (const RotatedMatmul way :
         {RotatedMatmul::activation, RotatedMatmul::activation_float, RotatedMatmul::weight}) {
      BackendOptions options;
      options.n_threads = 1;
      options.rotated_matmul = way;
      CpuBackend cpu(options);
      CudaBackend cuda(0, options);
      const std::vector<float> a = run(cpu), b = run(cuda);
      const double rounding = way == RotatedMatmul::activation ? 0.02 : 0.002;
      double error = 0, difference = 0, size = 0;
      for (int64_t t = 0; t < n_tokens; ++t)
        for (int64_t r = 0; r < rows; ++r) {
          double exact = 0;
          for (int64_t c = 0; c < cols; ++c)
            exact += static_cast<double>(decoded[static_cast<size_t>(r * cols + c)]) *
                     x[static_cast<size_t>(t * cols + c)];
          const size_t i = static_cast<size_t>(t * rows + r);
          error = std::max(error, std::abs(a[i] - exact)),
          difference = std::max<double>(difference, std::abs(a[i] - b[i])),
          size = std::max(size, std::abs(exact));
        }
      expect(error <= rounding * size, "{}: product on the CPU, way {}: off by {}", f->name,
             static_cast<int>(way), error / size);
      expect(difference <= (way == RotatedMatmul::weight ? 0.002 : 1e-5) * size,
             "{}: product on the device, way {}: off by {}", f->name, static_cast<int>(way),
             difference / size);
      for (int64_t c = 0; c < 2 * cols; ++c) {
        const float row = decoded[static_cast<size_t>((c < cols ? 39 : 7) * cols + c % cols)];
        expect(a[static_cast<size_t>(rows * n_tokens + c)] == row &&
                   b[static_cast<size_t>(rows * n_tokens + c)] == row,
               "{}: looked-up rows", f->name);
      }
    }
  }
}

// 7. The importance of columns weighted the columns of the other basis, and scales were searched as
// for weights that are not rotated.  In the rotated basis a diagonal importance is the same
// everywhere in a block, so it must not change a byte. (Full second moments, in the right basis:
// tests/convert/test_calibration.py.)
void importance_is_in_the_right_basis() {
  Random random(7);
  constexpr int64_t rows = 40;
  const std::vector<float> gaussian = random.normals(rows * kCols);
  std::vector<float> importance(kCols);
  for (size_t c = 0; c < kCols; ++c) importance[c] = c % 7 == 0 ? 1000.0f : 0.01f;
  // Relative squared errors of ITQ3_S, RTQ2, RTQ3, RTQ4, RTQ5 and RTQ6; with IQ3_S's search
  // ITQ3_S has 0.0278.
  const double limits[] = {0.0175, 0.078, 0.0215, 0.0058, 0.0016, 0.0005};
  if (rotated_formats().size() != std::size(limits)) {
    expect(false, "{} rotated formats, {} limits of their errors", rotated_formats().size(),
           std::size(limits));
    return;
  }
  size_t i = 0;
  for (const FormatInfo* f : rotated_formats()) {
    const std::vector<uint8_t> data = encode(*f, gaussian, rows);
    expect(data == encode(*f, gaussian, rows, importance.data()),
           "{}: importance of columns moves codes of the rotated basis", f->name);
    const std::vector<float> decoded = decode(*f, data, kCols);
    double error = 0, size = 0;
    for (size_t k = 0; k < gaussian.size(); ++k)
      error += std::pow(decoded[k] - gaussian[k], 2), size += std::pow(gaussian[k], 2);
    expect(error / size < limits[i], "{}: relative squared error {} of Gaussian weights", f->name,
           error / size);
    ++i;
  }
}

}  // namespace

int main() {
  Gpu gpu(0);
  scales_come_first(gpu);
  warps_have_rows_of_their_own(gpu);
  nothing_is_rounded_to_int8(gpu);
  one_token_and_the_whole_transform(gpu);
  halves_are_halves(gpu);
  every_entry_point_knows_the_formats();
  importance_is_in_the_right_basis();
  return failures == 0 ? 0 : 1;
}
