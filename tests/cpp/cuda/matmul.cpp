// Fast matmuls on the emulated device against the integer definition of each format
// (formats/format.h).
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "cases.h"
#include "cuda/device/matmul_stream.h"
#include "cuda/kernels/matmul.h"
#include "encode/encoders.h"
#include "formats/list.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

// Codes, scales and sums as quantize() leaves them, from any codes.
struct Input {
  QuantizedRows rows{};
  std::vector<int8_t> codes, transposed;
  std::vector<float> scales;
  std::vector<int16_t> sums;
};

enum class Hostile { none, largest, zeros };

template <class Random>
Input make_input(InputForm kind, int64_t n_tokens, int64_t cols, Hostile hostile, Random& random) {
  Input in;
  const int64_t stride = (cols + 255) / 256 * 256,
                n_blocks = (cols + input_form_columns(kind) - 1) / input_form_columns(kind);
  in.codes.assign(static_cast<size_t>(n_tokens * stride), 0);
  in.scales.resize(static_cast<size_t>(n_tokens * n_blocks));
  in.sums.assign(static_cast<size_t>(n_tokens * stride / 16), 0);
  for (int64_t t = 0; t < n_tokens; ++t)
    for (int64_t c = 0; c < cols; ++c) {
      const int code = hostile == Hostile::zeros     ? 0
                       : hostile == Hostile::largest ? (random() % 2 ? 127 : -127)
                                                     : static_cast<int>(random() % 255) - 127;
      in.codes[static_cast<size_t>(t * stride + c)] = static_cast<int8_t>(code);
      in.sums[static_cast<size_t>((t * stride + c) / 16)] =
          static_cast<int16_t>(in.sums[static_cast<size_t>((t * stride + c) / 16)] + code);
    }
  for (float& s : in.scales) s = static_cast<float>(random() % 1000 + 1) * 1e-4f;
  if (wants_transposed(kind)) {
    in.transposed.resize(in.codes.size());
    for (size_t i = 0; i < in.codes.size(); ++i)
      in.transposed[i / 256 * 256 + i % 16 * 16 + i % 256 / 16] = in.codes[i];
  }
  in.rows = {in.codes.data(),
             in.scales.data(),
             in.sums.data(),
             n_tokens,
             cols,
             stride,
             n_blocks,
             in.transposed.empty() ? nullptr : in.transposed.data()};
  return in;
}

template <class F>
std::vector<IntBlock> unpack_row(const uint8_t* row, int64_t cols) {
  std::vector<IntBlock> blocks(static_cast<size_t>(n_blocks<F>(cols)));
  for (int64_t b = 0; b < n_blocks<F>(cols); ++b)
    F::unpack(row + static_cast<size_t>(b) * F::kBlockBytes, block_length<F>(cols, b),
              blocks[static_cast<size_t>(b)]);
  return blocks;
}

// The result that matmul must give: exact integer sums per block, products and sums in double.
// Errors are relative to `size`.
template <class F>
double expected(const std::vector<IntBlock>& row, int64_t cols, const Input& in, int64_t token,
                double& size) {
  double y = 0;
  size = 0;
  const int scale_columns = input_form_columns(F::kInputForm);
  for (int64_t b = 0; b < n_blocks<F>(cols); ++b) {
    const IntBlock& block = row[static_cast<size_t>(b)];
    const int n = block_length<F>(cols, b);
    const int8_t* const x = in.codes.data() + token * in.rows.stride + b * F::kBlockValues;
    int64_t dot = 0, offsets = 0;
    for (int g = 0; g < n / kGroup; ++g) {
      int part = 0, sum = 0;
      for (int i = 0; i < kGroup; ++i)
        part += block.codes[kGroup * g + i] * x[kGroup * g + i], sum += x[kGroup * g + i];
      dot += static_cast<int64_t>(block.group_scale[g]) * part;
      if constexpr (F::kHasOffset) offsets += static_cast<int64_t>(block.group_offset[g]) * sum;
    }
    const double dx = in.scales[static_cast<size_t>(token * in.rows.n_blocks +
                                                    b * F::kBlockValues / scale_columns)];
    double part = static_cast<double>(block.scale) * static_cast<double>(dot) * dx;
    size += std::fabs(part);
    if constexpr (F::kHasOffset) {
      const double other = static_cast<double>(block.offset) * static_cast<double>(offsets) * dx;
      part -= other, size += std::fabs(other);
    }
    y += part;
  }
  return y;
}

// Any bytes are a block, except for the fp16 scales, which must be finite: bytes 0, 1 or where the
// format has them.
template <class F>
std::vector<uint8_t> make_rows(int64_t rows, int64_t cols, bool any_bytes, std::mt19937& random) {
  std::vector<uint8_t> data(static_cast<size_t>(rows) * F::row_bytes(cols));
  std::vector<float> w(static_cast<size_t>(cols));
  std::normal_distribution<float> normal;
  for (int64_t r = 0; r < rows; ++r) {
    uint8_t* const row = data.data() + static_cast<size_t>(r) * F::row_bytes(cols);
    // The scales come from an encoded row, the codes from dice.
    for (float& v : w) v = normal(random);
    if (!any_bytes || r == 0) {
      if constexpr (RtqFormat<F>) {
        for (int64_t b = 0; b < n_blocks<F>(cols); ++b) {
          uint8_t* const block = row + static_cast<size_t>(b) * F::kBlockBytes;
          store_fp16(block, normal(random));
          for (int i = 0; i < block_length<F>(cols, b) * F::kCodeBits / 8; ++i)
            block[2 + i] = static_cast<uint8_t>(random());
        }
      } else {
        find_encoder(F::kId)->encode_row(w.data(), nullptr, cols, row);
      }
    } else {
      for (size_t i = 0; i < F::row_bytes(cols); ++i) row[i] = static_cast<uint8_t>(random());
      for (int64_t b = 0; b < n_blocks<F>(cols); ++b) {
        IntBlock block;
        uint8_t* const at = row + static_cast<size_t>(b) * F::kBlockBytes;
        const size_t bytes =
            static_cast<size_t>(F::row_bytes(cols) - static_cast<size_t>(b) * F::kBlockBytes);
        const auto bad = [&] {
          F::unpack(at, block_length<F>(cols, b), block);
          bool wrong = !std::isfinite(block.scale) || std::fabs(block.scale) < 1e-3;
          if constexpr (F::kHasOffset) wrong = wrong || !std::isfinite(block.offset);
          return wrong;
        };
        while (bad())
          for (size_t i = 0; i < (bytes < F::kBlockBytes ? bytes : F::kBlockBytes); ++i)
            at[i] = static_cast<uint8_t>(random());
      }
    }
  }
  return data;
}

template <class F>
void check(int64_t rows, int64_t cols, int64_t n_tokens, Hostile hostile, uint32_t seed) {
  std::mt19937 random(seed);
  Gpu gpu(0);
  const std::vector<uint8_t> file = make_rows<F>(rows, cols, hostile != Hostile::none, random);
  const size_t bytes = packed_bytes(F::kId, rows, cols);
  auto* const packed = static_cast<uint8_t*>(gpu.allocate(bytes));
  const PackedMatrix w{F::kId, rows, cols, packed};
  for (int64_t r = 0; r < rows; r += kPackRows)
    pack(gpu, file.data() + static_cast<size_t>(r) * F::row_bytes(cols), r,
         rows - r < kPackRows ? rows - r : kPackRows, w);
  gpu.wait();

  const Input in = make_input(F::kInputForm, n_tokens, cols, hostile, random);
  const int64_t y_stride = rows + 5;
  std::vector<float> y(static_cast<size_t>(n_tokens * y_stride), 1e30f);
  // The same matrix as several parts: its first rows, all of it, its first rows again.
  const int64_t less = std::min<int64_t>(rows, 21);
  std::vector<float> first(static_cast<size_t>(n_tokens * less)), last(first);
  const PackedMatrix few{F::kId, less, cols, packed};
  const PackedProduct parts[] = {{few, {first.data(), n_tokens, less, less}},
                                 {w, {y.data(), n_tokens, rows, y_stride}},
                                 {few, {last.data(), n_tokens, less, less}}};
  matmul(gpu, parts, in.rows);

  double worst = 0;
  // A token has the same bits alone, among a few and among many, and on a card with more
  // multiprocessors, where row tiles are shared out in another way, or without bulk copies and
  // products of warpgroups.
  setenv("HRUN_CUDA_WARPGROUPS", "0", 1);
  Gpu without_warpgroups(0);
  setenv("HRUN_EMULATED_MULTIPROCESSORS", "132", 1);
  setenv("HRUN_CUDA_BULK", "0", 1);
  Gpu large(0);
  unsetenv("HRUN_EMULATED_MULTIPROCESSORS");
  unsetenv("HRUN_CUDA_BULK");
  unsetenv("HRUN_CUDA_WARPGROUPS");
  const auto tokens = [&](Gpu& device, int64_t at, int64_t n) {
    QuantizedRows some = in.rows;
    some.codes += at * some.stride;
    some.scales += at * some.n_blocks;
    some.sums += at * some.stride / 16;
    if (some.transposed) some.transposed += at * some.stride;
    some.n_tokens = n;
    std::vector<float> own(static_cast<size_t>(n * rows));
    const PackedProduct part{w, {own.data(), n, rows, rows}};
    matmul(device, {&part, 1}, some);
    device.wait();
    for (int64_t t = 0; t < n; ++t)
      if (!std::equal(own.begin() + t * rows, own.begin() + (t + 1) * rows,
                      y.begin() + (at + t) * y_stride))
        worst = INFINITY;
  };
  tokens(large, n_tokens - 1, 1);
  if (n_tokens > 1) {
    tokens(gpu, n_tokens - 1, 1);
    tokens(n_tokens % 2 == 0 ? gpu : large, 1, std::min<int64_t>(n_tokens - 1, 11));
  }
  if (n_tokens > 16) tokens(without_warpgroups, 0, n_tokens);
  for (int64_t r = 0; r < rows; ++r) {
    const std::vector<IntBlock> row =
        unpack_row<F>(file.data() + static_cast<size_t>(r) * F::row_bytes(cols), cols);
    for (int64_t t = 0; t < n_tokens; ++t) {
      double size = 0;
      const double want = expected<F>(row, cols, in, t, size);
      const double error =
          std::fabs(y[static_cast<size_t>(t * y_stride + r)] - want) / (size + 1e-30);
      if (!(error <= worst)) worst = error;
    }
  }
  for (int64_t t = 0; t < n_tokens; ++t)
    for (int64_t r = rows; r < y_stride; ++r)
      if (y[static_cast<size_t>(t * y_stride + r)] != 1e30f) worst = INFINITY;
  for (int64_t t = 0; t < n_tokens; ++t)
    for (int64_t r = 0; r < less; ++r) {
      const size_t i = static_cast<size_t>(t * less + r),
                   at = static_cast<size_t>(t * y_stride + r);
      if (first[i] != last[i] || first[i] != y[at]) worst = INFINITY;
    }
  if (!(worst < 1e-6)) {
    std::printf("FAILED: %s %lld x %lld, %lld tokens, kind %d: error %g\n",
                std::string(F::kName).c_str(), static_cast<long long>(rows),
                static_cast<long long>(cols), static_cast<long long>(n_tokens),
                static_cast<int>(hostile), worst);
    ++failures;
  }
  gpu.release(packed);
}

template <class F>
void check_shapes(uint32_t seed) {
  for (const int64_t n_tokens : {1, 5, 8, 16, 17, 33})
    check<F>(40, 1024, n_tokens, Hostile::none, seed++);
  check<F>(200, 512, 63, Hostile::none, seed++);
  check<F>(130, 256 * 9, 33, Hostile::none, seed++);
  check<F>(70, 256 * 19, 1, Hostile::none, seed++);
  // The slots are fewer than eight, and no power of two.
  check<F>(40, 256 * 5, 17, Hostile::none, seed++);
  check<F>(130, 256 * 3, 66, Hostile::none, seed++);
  check<F>(16 * 11 + 3, 512, 6, Hostile::none, seed++);
  // There are so many row tiles that a block of threads works on several, with chunks for all
  // warps, for some, and unequally many.
  for (const int64_t cols : {256 * 3, 256 * 9})
    if (RtqFormat<F> || cols == 256 * 3) check<F>(16 * 23 + 5, cols, 1, Hostile::none, seed++);
  for (const int64_t cols : {32, 448})
    if (F::row_ok(cols)) check<F>(136, cols, 127, Hostile::none, seed++);
}

template <class F>
void check_format() {
  uint32_t seed = 1;
  if (few_cases()) {
    for (const int64_t n_tokens : {3, 12}) check<F>(40, 512, n_tokens, Hostile::none, seed++);
    if (starts_early()) check<F>(16 * 23 + 5, 256 * 3, 1, Hostile::none, seed++);
    return check<F>(130, 512, 129, Hostile::none, seed++);
  }
  // One block alone is exact but for the products of scales.
  check<F>(16, 256, 1, Hostile::none, seed++);
  for (const int64_t n_tokens : {2, 9}) check<F>(40, 1024, n_tokens, Hostile::none, seed++);
  // Many tokens go through another kernel.
  check<F>(200, 512, 129, Hostile::none, seed++);
  check<F>(130, 768, 65, Hostile::largest, seed++);
  check<F>(33, 768, 3, Hostile::largest, seed++);
  check<F>(33, 768, 12, Hostile::largest, seed++);
  check<F>(20, 512, 2, Hostile::zeros, seed++);
  for (const int64_t cols : {32, 288, 448, 896, 2016})
    if (F::row_ok(cols)) {
      check<F>(24, cols, 4, Hostile::none, seed++);
      if (cols == 288) check<F>(136, cols, 127, Hostile::none, seed++);
    }
  // Formats differ in how a weight is decoded.  What depends on shapes alone is shown by a format
  // with sums of tables, one with groups of weights and one with offsets.
  if (F::kName == "rtq3" || F::kName == "q8_0" || F::kName == "q4_k") check_shapes<F>(seed);
}

// The blocks of threads of products that are one launch, for a card with 132 multiprocessors: as
// many as there are row tiles, where there are few.
void check_plans() {
  struct Case {
    const char* name;
    std::vector<int64_t> rows;
    int64_t cols;
    int blocks, tiles_per_group;
  };
  const Case cases[] = {
      {"135M: q, k, v", {576, 192, 192}, 576, 60, 1},
      {"135M: o", {576}, 576, 36, 1},
      {"135M: gate, up", {1536, 1536}, 576, 192, 1},
      {"135M: down", {576}, 1536, 36, 1},
      {"135M: head", {49152}, 576, 384, 2},
      {"1B: o", {2048}, 2048, 128, 1},
      {"8B: o", {4096}, 4096, 256, 1},
      {"one chunk", {8192}, 256, 256, 2},
  };
  for (const Case& c : cases) {
    const int64_t chunks = (c.cols + kChunkColumns - 1) / kChunkColumns;
    const StreamPlan plan = plan_stream(c.rows, chunks, 0, 8, 132, 16);
    expect(plan.blocks() == c.blocks && plan.tiles_per_group == c.tiles_per_group,
           "{}: {} blocks of {} row tiles, expected {} of {}", c.name, plan.blocks(),
           plan.tiles_per_group, c.blocks, c.tiles_per_group);
    expect(chunks > 8 || plan.tiles_per_group * chunks <= 8, "{}: a warp has two chunks", c.name);
    // Where the blocks are fewer than the multiprocessors, nothing more can be shared out.
    expect(plan.n_groups >= 132 || plan.tiles_per_group == 1, "{}: idle multiprocessors", c.name);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string only = argc > 1 ? argv[1] : "";
  check_plans();
  Formats::for_each([&]<class F>() {
    if constexpr (QuantizedFormat<F>)
      if (find_encoder(F::kId) && packed_bytes(F::kId, 16, 256) != 0 &&
          (only.empty() || only == F::kName) &&
          (!few_cases() || F::kName == "rtq3" || F::kName == "q6_k" ||
           (starts_early() && F::kName == "q8_0")))
        check_format<F>();
  });
  return failures == 0 ? 0 : 1;
}
