// Every quantized format: its integer view keeps the bounds that the exact dot products rely on,
// for any bytes, and neither decoding nor encoding touches a byte outside the block (the buffers
// are exact; sanitizers watch).
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <memory>
#include <random>

#include "encode/encoders.h"
#include "formats/list.h"

namespace {

int failures = 0;

// The largest |sum_g scale_g sum_i code_i x_i| and |sum_g offset_g sum_i x_i| over all int8
// activations |x| <= 127.
template <class F>
void check_bounds(const uint8_t* block, int n) {
  hrun::IntBlock ints;
  F::unpack(block, n, ints);
  int64_t dot = 0, offset = 0;
  for (int i = 0; i < n; ++i) {
    const int g = i / hrun::kGroup;
    dot += std::abs(int64_t{ints.group_scale[g]} * ints.codes[i] * 127);
    if constexpr (F::kHasOffset) offset += std::abs(int64_t{ints.group_offset[g]} * 127);
  }
  const int64_t limit = std::numeric_limits<int32_t>::max();
  if (dot > limit || offset > limit) {
    std::printf("%s: a block's integer dot product can reach %g\n", F::kName.data(),
                static_cast<double>(std::max(dot, offset)));
    ++failures;
  }
}

template <class F>
void check_decoding(std::mt19937& random) {
  for (int cols = 32; cols <= F::kBlockValues; cols += 32) {
    if (!F::row_ok(cols)) continue;
    const size_t bytes = F::row_bytes(cols);
    const auto block = std::make_unique<uint8_t[]>(bytes);
    for (int round = 0; round < 2000; ++round) {
      // All bytes equal, mixtures of two extremes, then random bytes.
      for (size_t i = 0; i < bytes; ++i) {
        const unsigned r = random();
        block[i] = static_cast<uint8_t>(round < 256   ? round
                                        : round < 512 ? 0 - (r & 1)
                                        : round < 768 ? 0x7f + (r & 1)
                                                      : r);
      }
      check_bounds<F>(block.get(), cols);
    }
  }
}

template <class F>
void check_encoding(std::mt19937& random) {
  std::normal_distribution<float> normal;
  const float scales[] = {1e-45f, 1e-40f, 1e-30f, 6e-8f, 1e-5f, 1.0f, 1e3f, 1e4f};
  for (int64_t cols : {32, 96, 256, 288, 512}) {
    if (!F::row_ok(cols)) continue;
    const auto n = static_cast<size_t>(cols);
    const auto w = std::make_unique<float[]>(n), importance = std::make_unique<float[]>(n);
    const auto decoded = std::make_unique<float[]>(n);
    const auto row = std::make_unique<uint8_t[]>(F::row_bytes(cols));
    const hrun::FormatInfo& info = *hrun::find_format(F::kId);
    for (int round = 0; round < 48; ++round) {
      const float scale = scales[round % 8];
      for (size_t i = 0; i < n; ++i) {
        const float g = normal(random);
        // Gaussian, small integers, constants, mostly zeros, magnitudes over 60 octaves.
        const float sparse = random() % 32 ? 0.0f : g,
                    ranging = std::ldexp(g, -static_cast<int>(random() % 60));
        const float shapes[] = {g, std::round(g), 1.0f, sparse, ranging, -1.0f};
        w[i] = scale * shapes[round / 8];
        importance[i] =
            random() % 3 ? std::ldexp(1.0f, static_cast<int>(random() % 200) - 100) : 0.0f;
      }
      for (const float* weight :
           {static_cast<const float*>(nullptr), static_cast<const float*>(importance.get())}) {
        hrun::find_encoder(info.id)->encode_row(w.get(), weight, cols, row.get());
        info.decode_row(row.get(), cols, decoded.get());
        for (size_t i = 0; i < n; ++i)
          if (!std::isfinite(decoded[i])) {
            std::printf("%s: weight %g of a row with scale %g decodes to %g\n", F::kName.data(),
                        w[i], scale, decoded[i]);
            ++failures;
            break;
          }
      }
    }
  }
}

}  // namespace

int main() {
  std::mt19937 random(1);
  hrun::Formats::for_each([&]<class F>() {
    if constexpr (hrun::QuantizedFormat<F>) check_decoding<F>(random);
    if (hrun::find_encoder(F::kId)) check_encoding<F>(random);
  });
  if (failures) std::printf("%d failures\n", failures);
  return failures != 0;
}
