// Matrices that each take some rows of an input give the bits of one matmul after the other, for
// every format that is written.
#include <cstdio>
#include <cstring>
#include <vector>

#include "base/error.h"
#include "devices/registry.h"
#include "encode/encoders.h"
#include "formats/list.h"

namespace {

constexpr int64_t kRows = 70, kCols = 512, kTokens = 19;
constexpr int64_t kFirst[] = {0, 0, 3, 18}, kCount[] = {1, 19, 9, 1};

std::vector<float> values(size_t n, unsigned seed) {
  std::vector<float> out(n);
  for (float& v : out) {
    seed = seed * 1664525u + 1013904223u;
    v = static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) * 0x1p-23f;
  }
  return out;
}

struct Case {
  hrun::Backend& backend;
  std::vector<std::vector<uint8_t>> bytes;
  std::vector<std::unique_ptr<hrun::DeviceTensor>> weights;

  void add(const hrun::FormatInfo& f, unsigned seed) {
    const std::vector<float> w = values(kRows * kCols, seed);
    std::vector<uint8_t>& out = bytes.emplace_back(f.row_bytes(kCols) * kRows);
    for (int64_t r = 0; r < kRows; ++r)
      hrun::find_encoder(f.id)->encode_row(
          w.data() + r * kCols, nullptr, kCols,
          out.data() + static_cast<size_t>(r) * f.row_bytes(kCols));
    weights.push_back(backend.upload({f.id, kRows, kCols, f.row_bytes(kCols), out.data(), "test"}));
  }

  std::vector<float> run(const hrun::MatmulInput& x, bool at_once) {
    constexpr int64_t kStride = kRows + 5;
    std::vector<float> y(std::size(kFirst) * kTokens * kStride);
    std::vector<hrun::MatmulPart> parts;
    for (size_t i = 0; i < std::size(kFirst); ++i)
      parts.push_back(
          {weights[i % weights.size()].get(),
           kFirst[i],
           {y.data() + static_cast<int64_t>(i) * kTokens * kStride, kCount[i], kRows, kStride}});
    if (at_once)
      backend.matmul_parts(parts, x);
    else
      backend.Backend::matmul_parts(parts, x);
    return y;
  }
};

}  // namespace

int main() {
  int failures = 0;
  std::vector<float> x = values(kTokens * kCols, 1), gate = values(kTokens * kCols, 2),
                     norm = values(kCols, 3);
  const hrun::FloatView view{x.data(), kTokens, kCols, kCols},
      gate_view{gate.data(), kTokens, kCols, kCols};
  for (const auto way : {hrun::RotatedMatmul::activation, hrun::RotatedMatmul::activation_float,
                         hrun::RotatedMatmul::weight}) {
    const auto backend =
        hrun::make_backend({.device = "cpu", .n_threads = 2, .rotated_matmul = way});
    const auto weight = backend->upload({hrun::F32::kId, 1, kCols, kCols * 4,
                                         reinterpret_cast<const uint8_t*>(norm.data()), "norm"});
    for (const hrun::FormatInfo& f : hrun::formats()) {
      if (!hrun::find_encoder(f.id) || !f.row_ok(kCols)) continue;
      Case c{*backend, {}, {}};
      c.add(f, 7);
      c.add(*hrun::find_format("q8_0"), 8);
      const hrun::MatmulInput inputs[] = {view, hrun::MatmulInput::normed(view, *weight, 1e-5f),
                                          hrun::MatmulInput::gated(gate_view, view)};
      for (const hrun::MatmulInput& input : inputs) {
        const std::vector<float> got = c.run(input, true), want = c.run(input, false);
        if (std::memcmp(got.data(), want.data(), got.size() * sizeof(float)) == 0 && want[0] != 0)
          continue;
        ++failures;
        std::printf("failed: %s\n", std::string(f.name).c_str());
      }
    }
    Case c{*backend, {}, {}};
    c.add(*hrun::find_format("q8_0"), 8);
    float y[kRows * 2];
    const hrun::MatmulPart beyond{c.weights[0].get(), kTokens - 1, {y, 2, kRows, kRows}};
    try {
      backend->matmul_parts({&beyond, 1}, view);
      ++failures;
      std::printf("failed: rows beyond the input are refused\n");
    } catch (const hrun::ArgumentError&) {}
  }
  return failures != 0;
}
