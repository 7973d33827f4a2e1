// The kernel for a matrix unit, on an emulated one, against the vector kernel: the same bits, for
// random and extreme activations, for rows of every kind of tail and any number of tokens.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#if defined(__AVX512VNNI__)
#include "cpu/kernels/matmul_panels.h"

namespace hrun {
namespace {

template <class T>
struct Aligned {
  T* data;
  explicit Aligned(size_t n)
      : data(static_cast<T*>(std::aligned_alloc(64, (n * sizeof(T) + 63) / 64 * 64))) {
    memset(data, 0, (n * sizeof(T) + 63) / 64 * 64);
  }
  ~Aligned() { std::free(data); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
};

template <PackableFormat F>
bool same_bits(int64_t rows, int64_t cols, int64_t n_tokens, int extreme, std::mt19937& random) {
  const size_t row_bytes = F::row_bytes(cols);
  std::vector<uint8_t> file(row_bytes * static_cast<size_t>(rows));
  for (auto& byte : file) byte = static_cast<uint8_t>(random());
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t b = 0; b < n_blocks<F>(cols);
         ++b) {  // the scale is a block's first number or its last
      const size_t first = static_cast<size_t>(b) * F::kBlockBytes,
                   end = std::min(first + F::kBlockBytes, row_bytes);
      for (const size_t at : {first, F::kHasOffset ? first + 2 : first, end - 2})
        store_fp16(file.data() + static_cast<size_t>(r) * row_bytes + at,
                   static_cast<float>(random() % 1000) / 1000.0f - 0.5f);
      if constexpr (F::kId == MXFP4::kId)  // an exponent
        file[static_cast<size_t>(r) * row_bytes + first] = static_cast<uint8_t>(120 + random() % 8);
    }
  const int64_t n_panels = (rows + kPanelRows - 1) / kPanelRows;
  const size_t panel_bytes = PanelLayout<F>::panel_bytes(cols);
  Aligned<uint8_t> panels(panel_bytes * static_cast<size_t>(n_panels) + 64);
  for (int64_t p = 0; p < n_panels; ++p) {
    const int64_t first = p * kPanelRows, n = std::min<int64_t>(kPanelRows, rows - first);
    if (!pack_panel_kernel<F>(file.data() + static_cast<size_t>(first) * row_bytes, row_bytes,
                              static_cast<int>(n), cols,
                              panels.data + static_cast<size_t>(p) * panel_bytes)) {
      std::printf("%s: not packed\n", F::kName.data());
      return false;
    }
  }
  PackedActivations x;
  x.n_tokens = x.stride = n_tokens;
  x.n_blocks = n_blocks<F>(cols);
  Aligned<int8_t> codes(static_cast<size_t>(n_tokens * x.n_blocks * F::kBlockValues));
  Aligned<float> scale(static_cast<size_t>(n_tokens * x.n_blocks));
  Aligned<int32_t> sums(static_cast<size_t>(n_tokens * x.n_blocks));
  for (int64_t t = 0; t < n_tokens; ++t)
    for (int64_t c = 0; c < cols; ++c) {
      const int code =
          extreme ? (extreme > 0 ? 127 : -127) : static_cast<int>(random() % 255) - 127;
      const int64_t at = x.at(t, c / F::kBlockValues);
      codes.data[at * F::kBlockValues + c % F::kBlockValues] = static_cast<int8_t>(code);
      sums.data[at] += code;
    }
  for (int64_t i = 0; i < n_tokens * x.n_blocks; ++i)
    scale.data[i] = static_cast<float>(random() % 1000) / 777.0f;
  x.codes = codes.data;
  x.scale = scale.data;
  x.block_sums = sums.data;

  const PackedWeights w{panels.data, panel_bytes, rows, cols};
  const size_t n_results = static_cast<size_t>(rows * n_tokens);
  std::vector<float> wanted(n_results, -1.0f), found(n_results, -2.0f);
  Aligned<float> scratch(static_cast<size_t>(kPackedPanels * kPanelRows * n_tokens));
  for (int64_t p = 0; p < n_panels; p += kTilePanels<2>) {
    multiply_tokens<F, NoTiles>(w, p, x, wanted.data(), rows, scratch.data);
    if constexpr (short_matrix_unit_fits<F, EmulatedTiles>())
      multiply_short_blocks<F, EmulatedTiles>(w, p, x, found.data(), rows, scratch.data);
    else if (n_tokens <= kTileRows)
      multiply_few_by_matrix_unit<F, EmulatedTiles>(w, p, x, found.data(), rows);
    else
      multiply_tokens<F, EmulatedTiles>(w, p, x, found.data(), rows, scratch.data);
  }
  if (memcmp(wanted.data(), found.data(), n_results * sizeof(float)) == 0) return true;
  std::printf("%s: %lld x %lld, %lld tokens, extreme %d: the results differ\n", F::kName.data(),
              static_cast<long long>(rows), static_cast<long long>(cols),
              static_cast<long long>(n_tokens), extreme);
  return false;
}

template <class List>
struct All;
template <AnyFormat... F>
struct All<FormatList<F...>> {
  template <class OneFormat>
  static bool check(std::mt19937& random, int& n_formats) {
    if constexpr (PackableFormat<OneFormat>) {
      if constexpr (matrix_unit_fits<OneFormat, EmulatedTiles>() ||
                    short_matrix_unit_fits<OneFormat, EmulatedTiles>()) {
        ++n_formats;
        bool good = true;
        for (const int64_t cols : {256, 512, 288, 1120})
          for (const int64_t tokens : {1, 5, 9, 16, 17, 31, 32, 53})
            for (const int extreme : {0, 1, -1})
              good &= !OneFormat::row_ok(cols) ||
                      same_bits<OneFormat>(40, cols, tokens, extreme, random);
        return good;
      }
    }
    return true;
  }
  static bool check_all(int& n_formats) {
    std::mt19937 random(7);
    return (check<F>(random, n_formats) & ...);
  }
};

}  // namespace
}  // namespace hrun

int main() {
  if (!__builtin_cpu_supports("avx512vnni") || !__builtin_cpu_supports("avx512vbmi")) {
    std::printf("skipped: this CPU has no AVX-512 VNNI\n");
    return 0;
  }
  int n_formats = 0;
  const bool good = hrun::All<hrun::Formats>::check_all(n_formats);
  std::printf("%d formats\n", n_formats);
  return good && n_formats > 0 ? 0 : 1;
}
#else
int main() { std::printf("skipped: built without AVX-512\n"); }
#endif
