// Activations made ready for a matmul: the CPU's codes, scales and sums bit for bit from the same
// floats.
#include <bit>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "cpu/tiers.h"
#include "cuda/device/math.h"
#include "cuda/kernels/quantize.h"
#include "cases.h"
#include "cuda/memory.h"
#include "formats/rotation.h"
#include "../random_bits.h"

using namespace hrun;

namespace {

using gpu::expect, gpu::failures;
float random_float() { return ::random_float(-22); }

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Inputs that break quantizers: value `c` of token `t`.
float hostile(int64_t t, int64_t c, int64_t cols) {
  switch (t % 14) {
    case 1:
      return 0.0f;
    case 2:
      return 1e30f * random_float();
    case 3:
      return 1e-40f * random_float();
    case 4:
      return 1e-35f * random_float();
    case 5:
      return c == cols / 2 ? 3.0f : 0.0f;
    case 6:
      return c % 2 ? -1.0f : 1.0f;
    case 7:
      return c == cols / 3 ? 1e4f : random_float();
    case 8:
      return std::popcount(static_cast<unsigned>(c) & 0xa5u) % 2 ? -1.0f
                                                                 : 1.0f;  // a row of H: one spike
    case 9:
      return static_cast<float>(c % 255 - 127) + 0.5f;  // ties
    case 10:
      return c == 5 ? kInfinity : random_float();
    case 11:
      return c == cols - 1 ? std::nanf("") : random_float();
    case 12:
      return 2.5f;
    default:
      return random_float();
  }
}

bool same_bits(float a, float b) {
  return float_to_bits(a) == float_to_bits(b) || (std::isnan(a) && std::isnan(b));
}

// Floats on the device with rows `stride` apart, `offset` values behind an aligned address; the
// values between are NaN.
struct Rows {
  Rows(gpu::Gpu& device, int64_t rows, int64_t cols, int64_t stride, int64_t offset)
      : memory(device, static_cast<size_t>(rows * stride + offset + 1) * sizeof(float), "a test"),
        view{static_cast<float*>(memory.data) + offset, rows, cols, stride} {
    for (int64_t i = 0; i < rows * stride + offset + 1; ++i)
      static_cast<float*>(memory.data)[i] = std::nanf("");
  }
  gpu::Memory memory;
  FloatView view;
};

struct Case {
  InputForm kind;
  int64_t n_tokens, cols, gap, offset;  // gap: between rows
  bool norm, gate;
};

void check(gpu::Gpu& device, const Case& c) {
  const std::string name = "kind " + std::to_string(static_cast<int>(c.kind)) + ", " +
                           std::to_string(c.n_tokens) + " x " + std::to_string(c.cols) + " + " +
                           std::to_string(c.gap) +
                           (c.norm   ? ", norm"
                            : c.gate ? ", gate"
                                     : "");
  const KernelTable& cpu = *select_cpu_tier("scalar").kernels;
  Rows x(device, c.n_tokens, c.cols, c.cols + c.gap, c.offset),
      gate(device, c.n_tokens, c.cols, c.cols + c.gap, c.offset);
  Rows norm(device, 1, c.cols, c.cols, c.offset);
  for (int64_t t = 0; t < c.n_tokens; ++t)
    for (int64_t i = 0; i < c.cols; ++i) {
      x.view.row(t)[i] = hostile(t, i, c.cols);
      gate.view.row(t)[i] = t % 3 == 2 ? 40.0f * random_float() : random_float();
    }
  for (int64_t i = 0; i < c.cols; ++i) norm.view.data[i] = 1.0f + random_float() / 4;

  gpu::QuantizeSource from{.x = x.view};
  if (c.norm) from.norm = norm.view.data, from.eps = 1e-5f;
  if (c.gate) from.gate = gate.view.data, from.gate_stride = gate.view.stride;

  gpu::QuantizedRows to = gpu::quantized_shape(c.kind, c.n_tokens, c.cols);
  const auto n = static_cast<size_t>(c.n_tokens);
  gpu::Memory codes(device, n * static_cast<size_t>(to.stride), "a test");
  gpu::Memory scales(device, n * static_cast<size_t>(to.n_blocks) * sizeof(float), "a test");
  gpu::Memory sums(device, n * static_cast<size_t>(to.stride / 16) * sizeof(int16_t), "a test");
  to.codes = static_cast<int8_t*>(codes.data);
  to.scales = static_cast<float*>(scales.data);
  to.sums = static_cast<int16_t*>(sums.data);
  gpu::Memory transposed(device, n * static_cast<size_t>(to.stride), "a test");
  if (gpu::wants_transposed(c.kind)) to.transposed = static_cast<int8_t*>(transposed.data);
  gpu::quantize(device, from, c.kind, to);

  // The norm's sum has an order of its own: the rounding after it is compared on the floats that it
  // gives.
  Rows made(device, c.n_tokens, c.cols, c.cols + c.gap, c.offset),
      turned(device, c.n_tokens, c.cols, c.cols + c.gap, c.offset);
  gpu::prepare_floats(device, from, InputForm::kFloat, made.view);
  gpu::prepare_floats(device, from, c.kind, turned.view);
  std::vector<float> expected(static_cast<size_t>(c.cols));
  for (int64_t t = 0; t < c.n_tokens; ++t) {
    if (c.norm)
      cpu.rms_norm(x.view.row(t), norm.view.data, from.eps, c.cols, expected.data());
    else if (c.gate)
      cpu.silu_mul(gate.view.row(t), x.view.row(t), c.cols, expected.data());
    else
      std::copy(x.view.row(t), x.view.row(t) + c.cols, expected.data());
    double squares = 0;
    for (int64_t i = 0; i < c.cols; ++i)
      squares += static_cast<double>(x.view.row(t)[i]) * x.view.row(t)[i];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(c.cols) + from.eps);
    for (int64_t i = 0; i < c.cols; ++i) {
      const float a = made.view.row(t)[i], e = expected[static_cast<size_t>(i)];
      const double exact = x.view.row(t)[i] * inverse * norm.view.data[i];
      const bool close =
          c.norm && squares < 3e38 && std::abs(a - exact) <= 1e-6 * std::abs(exact) + 1e-45;
      expect(same_bits(a, e) || close, name + ": value " + std::to_string(i) +
                                           " of the source of token " + std::to_string(t));
    }
  }

  std::vector<float> signs(static_cast<size_t>(c.cols));
  for (int64_t i = 0; i < c.cols; ++i) signs[static_cast<size_t>(i)] = rotation_sign(i);
  std::vector<int16_t> cpu_codes(static_cast<size_t>(c.cols) * n),
      cpu_sums(n * static_cast<size_t>(c.cols / 16 + 2));
  std::vector<float> cpu_scale(n * static_cast<size_t>(to.n_blocks));
  hrun::QuantizedRows oracle;
  oracle.codes = cpu_codes.data();
  oracle.scale = cpu_scale.data();
  oracle.sums = cpu_sums.data();
  oracle.n_tokens = c.n_tokens;
  oracle.cols = c.cols;
  oracle.n_blocks = to.n_blocks;
  oracle.n_groups = (c.cols + 31) / 32 * 2;
  for (int64_t t = 0; t < c.n_tokens; ++t) {
    for (int64_t b = 0; b < to.n_blocks; ++b)
      cpu.quantize_block(ActivationSource{.x = made.view}, t, b, c.kind, signs.data(), oracle);
    const std::string token = name + ", token " + std::to_string(t);
    for (int64_t b = 0; b < to.n_blocks; ++b)
      expect(same_bits(to.scales[t * to.n_blocks + b], oracle.scale[t * to.n_blocks + b]),
             token + ": scale " + std::to_string(b));
    for (int64_t i = 0; i < to.stride; ++i)
      expect(to.codes[t * to.stride + i] == (i < c.cols ? oracle.codes[t * c.cols + i] : 0),
             token + ": code " + std::to_string(i));
    for (int64_t i = 0; to.transposed && i < to.stride; ++i)
      expect(to.transposed[t * to.stride + i / 256 * 256 + i % 16 * 16 + i % 256 / 16] ==
                 to.codes[t * to.stride + i],
             token + ": transposed code " + std::to_string(i));
    for (int64_t g = 0; g < to.stride / 16; ++g) {
      int sum = 0;
      for (int i = 0; i < 16; ++i) sum += to.codes[t * to.stride + 16 * g + i];
      expect(to.sums[t * (to.stride / 16) + g] == sum, token + ": sum " + std::to_string(g));
      if (16 * g < c.cols)
        expect(sum == oracle.sums[t * oracle.n_groups + g],
               token + ": the CPU's sum " + std::to_string(g));
    }
    std::vector<float> rotated(made.view.row(t), made.view.row(t) + c.cols);
    if (is_rotated(c.kind))
      for (int64_t first = 0; first < c.cols; first += kRotationBlock)
        rotate_block(rotated.data() + first, first,
                     static_cast<int>(std::min<int64_t>(kRotationBlock, c.cols - first)),
                     c.kind == InputForm::kRotatedSigned);
    for (int64_t i = 0; i < c.cols; ++i)
      expect(same_bits(turned.view.row(t)[i], rotated[static_cast<size_t>(i)]),
             token + ": rotated value " + std::to_string(i));
    for (int64_t i = c.cols; i < c.cols + c.gap && t + 1 < c.n_tokens; ++i)
      expect(std::isnan(turned.view.row(t)[i]), token + ": the gap between rows is as it was");
  }
}

// The scalar functions against the lanes of the CPU.
void check_functions() {
  const KernelTable& cpu = *select_cpu_tier("scalar").kernels;
  std::vector<float> x, y;
  for (const float special : {0.0f, -0.0f, kInfinity, -kInfinity, std::nanf(""), 88.72283f,
                              88.7229f, -87.4f, -103.9f, -104.5f, 1e-45f, 7.0f, -7.0f})
    x.push_back(special), y.push_back(-special);
  for (int i = 0; i < 200000; ++i) {
    x.push_back(bits_to_float(random_bits()));
    y.push_back(bits_to_float(random_bits()));
    x.push_back(20.0f * random_float());
    y.push_back(5.0f * random_float());
  }
  const auto n = static_cast<int64_t>(x.size());
  std::vector<float> out(x.size());
  const auto compare = [&](const char* name, auto&& f) {
    for (size_t i = 0; i < x.size(); ++i)
      expect(same_bits(f(i), out[i]),
             std::string(name) + "(" + std::to_string(x[i]) + ", " + std::to_string(y[i]) + ")");
  };
  cpu.exp(x.data(), n, out.data());
  compare("exponential", [&](size_t i) { return gpu::exponential(x[i]); });
  cpu.nonlinearity(Nonlinearity::silu, x.data(), n, out.data());
  compare("silu", [&](size_t i) { return gpu::silu(x[i]); });
  cpu.nonlinearity(Nonlinearity::gelu, x.data(), n, out.data());
  compare("gelu", [&](size_t i) { return gpu::gelu(x[i]); });
  cpu.nonlinearity(Nonlinearity::gelu_erf, x.data(), n, out.data());
  compare("gelu_erf", [&](size_t i) { return gpu::gelu_erf(x[i]); });
  cpu.nonlinearity(Nonlinearity::softplus, x.data(), n, out.data());
  compare("softplus", [&](size_t i) { return gpu::softplus(x[i]); });
  std::copy(x.begin(), x.end(), out.begin());
  cpu.xielu(out.data(), {0.8f, 0.7f, 0.5f, -1e-6f}, n);
  compare("xielu", [&](size_t i) { return gpu::xielu(x[i], 0.8f, 0.7f, 0.5f, -1e-6f); });
  cpu.gated(Nonlinearity::clamped_silu, x.data(), y.data(), n, out.data());
  compare("clamped_silu", [&](size_t i) { return gpu::clamped_silu(x[i], y[i]); });
  out = x;
  cpu.soft_cap(out.data(), 30.0f, n);
  compare("soft_cap", [&](size_t i) { return gpu::soft_cap(x[i], 30.0f); });
}

}  // namespace

int main() {
  check_functions();
  gpu::Gpu device(0);
  constexpr InputForm kKinds[] = {InputForm::kInt8x32,  InputForm::kInt8x64,
                                  InputForm::kInt8x128, InputForm::kInt8x256,
                                  InputForm::kRotated,  InputForm::kRotatedSigned};
  for (const InputForm kind : kKinds) {
    for (const int64_t cols : {32, 64, 96, 128, 160, 192, 224, 256, 288, 480, 512, 896})
      check(device, {kind, 14, cols, 0, 0, false, false});
    for (const bool norm : {false, true}) {
      check(device, {kind, 14, 4096 + 224, 4, 0, norm, !norm});  // more than one turn of a warp
      check(device, {kind, 3, 544, 3, 1, norm, !norm});          // rows at odd addresses
      check(device, {kind, 1, 2048, 0, 0, norm, !norm});
    }
    check(device, {kind, 33, 256, 32, 4, false, false});
    check(device, {kind, 129, 64, 0, 0, true, false});
  }
  if (failures > 0) std::printf("%d failures\n", failures);
  return failures == 0 ? 0 : 1;
}
