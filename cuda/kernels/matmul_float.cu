// Float weights times fp32 activations, on tensor cores.
//
// A tf32 product keeps 11 bits of each factor.  F16 and BF16 weights fit; an activation is the sum
// of two such numbers (22 bits), and so is an F32 weight, of which the product of the two small
// parts is left out.  Errors are about 2^-22 of each product, whatever the magnitudes.
//
// Rows are read as the file has them: a warp has 16 rows and, of 32 columns, lane l = 4 g + q the
// columns 8 q ... 8 q + 7 of rows g and g + 8, which are 64 successive bytes per row.  The order of
// the columns in a product is free as long as both factors have the same: product j of four takes
// columns 8 q + 2 j and 8 q + 2 j + 1.
#include <algorithm>

#include "base/error.h"
#include "cuda/device/packed.h"
#include "cuda/kernels/matmul.h"
#include "formats/list.h"

namespace hrun::gpu {
namespace {

constexpr int kWarps = kMostSlots;
constexpr int kStepColumns = 64;
constexpr uint32_t kUpperBits = 0xffffe000u;

// Eight weights as they are in memory.
template <FloatFormat F>
struct Eight {
  static constexpr int kBytes = static_cast<int>(F::kBlockBytes), kLoads = 8 * kBytes / 16;
  Words4 words[kLoads];

  HRUN_HD void load(const uint8_t* row, int64_t c, int64_t cols, bool wide) {
    if (wide && c + 8 <= cols) {
#pragma unroll
      for (int i = 0; i < kLoads; ++i)
        words[i] = load_once(reinterpret_cast<const Words4*>(row + c * kBytes) + i);
    } else {
#pragma unroll
      for (int i = 0; i < kLoads; ++i) words[i] = {};
#pragma unroll
      for (int i = 0; i < 8 * kBytes / 2;
           ++i) {  // in halves, which are aligned whatever the format
        const int64_t at = c * kBytes + 2 * i;
        if (at < cols * kBytes)
          words[i / 8].v[i / 2 % 4] |=
              static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(row + at)) << (16 * (i % 2));
      }
    }
  }
  HRUN_HD uint32_t word(int i) const { return words[i / 4].v[i % 4]; }
  HRUN_HD float value(int i) const {
    if constexpr (F::kId == F32::kId)
      return bits_to_float(word(i));
    else if constexpr (F::kId == F16::kId)
      return half_to_float(word(i / 2) >> (16 * (i % 2)));
    else
      return bits_to_float(i % 2 == 0 ? word(i / 2) << 16 : word(i / 2) & 0xffff0000u);
  }
};

template <FloatFormat F, int kColumnTiles>
struct MatmulFloats {
  static constexpr int kThreads = kWarps * kWarp, kBlocks = 1;
  static constexpr const char* kName = "matmul_floats";
  static constexpr int kTokens = 8 * kColumnTiles;
  static constexpr int kWindows = kStepColumns / 32;
  static constexpr bool kSplit = F::kId == F32::kId;

  PlainMatrix w;
  FloatView x, y;
  bool wide_rows, wide_tokens;  // rows begin at multiples of 16 bytes
  int tiles_per_block;
  int sum_slots;  // slot s has every sum_slots-th step; their sums are added in order
  // Where sliced: a z of the grid is a piece.
  bool sliced;
  SlicePieces pieces;
  size_t slice_bytes;
  int64_t slice_x, slice_y;

  struct Step {
    Eight<F> rows[kWindows][2];
  };

  HRUN_HD void operator()() const {
    if (!sliced) return multiply(w.data, x, y);
    const SlicePiece piece = pieces.at(block_z(), kTokens);
    if (piece.n <= block_y() * kTokens) return;
    const int64_t input_row = pieces.one_row ? 0 : piece.row;
    multiply(w.data + static_cast<size_t>(piece.slice) * slice_bytes,
             {x.data + piece.slice * slice_x + input_row * x.stride, piece.n, x.cols, x.stride},
             {y.data + piece.slice * slice_y + piece.row * y.stride, piece.n, y.cols, y.stride});
  }

  HRUN_HD void multiply(const uint8_t* weights, const FloatView& from, const FloatView& to) const {
    const int64_t tile =
        static_cast<int64_t>(block_x()) * tiles_per_block + warp() % tiles_per_block;
    const int slot = warp() / tiles_per_block, slots = kWarps / tiles_per_block;
    const int64_t first_token = static_cast<int64_t>(block_y()) * kTokens;
    for (int s = slot; s < sum_slots; s += slots) {
      float sums[kColumnTiles][4] = {};
      if (tile * kTileRows < w.rows) add_steps(weights, from, tile, s, first_token, sums);
      auto* const place = reinterpret_cast<float*>(shared()) +
                          (s * tiles_per_block + warp() % tiles_per_block) * kTokens * kTileRows;
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
        for (int k = 0; k < 4; ++k)
          place[(8 * n + 2 * (lane() % 4) + k % 2) * kTileRows + lane() / 4 + 8 * (k / 2)] =
              sums[n][k];
    }
    sync_block();
    for (int at = thread(); at < kTokens * kTileRows * tiles_per_block; at += kThreads) {
      const int t = at / kTileRows % tiles_per_block, token = at / kTileRows / tiles_per_block;
      const int64_t row =
          (static_cast<int64_t>(block_x()) * tiles_per_block + t) * kTileRows + at % kTileRows;
      if (row >= w.rows || first_token + token >= to.rows) continue;
      float sum = 0;
      for (int s = 0; s < sum_slots; ++s)
        sum += reinterpret_cast<const float*>(
            shared())[((s * tiles_per_block + t) * kTokens + token) * kTileRows + at % kTileRows];
      to.data[(first_token + token) * to.stride + row] = sum;
    }
  }

  HRUN_HD void load(Step& step, const uint8_t* weights, int64_t tile, int64_t c) const {
    if (c >= w.cols) return;
#pragma unroll
    for (int i = 0; i < kWindows; ++i)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        int64_t row = tile * kTileRows + lane() / 4 + 8 * h;
        if (row >= w.rows) row = w.rows - 1;  // the result is not stored
        step.rows[i][h].load(weights + static_cast<size_t>(row) * w.row_bytes,
                             c + 32 * i + 8 * (lane() % 4), w.cols, wide_rows);
      }
  }

  HRUN_HD void add_steps(const uint8_t* weights, const FloatView& from, int64_t tile, int slot,
                         int64_t first_token, float (&sums)[kColumnTiles][4]) const {
    const int64_t distance = static_cast<int64_t>(sum_slots) * kStepColumns;
    int64_t c = static_cast<int64_t>(slot) * kStepColumns;
    Step steps[2];
    load(steps[0], weights, tile, c);
    load(steps[1], weights, tile, c + distance);
    for (; c < w.cols; c += 2 * distance) {
      add(steps[0], from, c, first_token, sums);
      load(steps[0], weights, tile, c + 2 * distance);
      if (c + distance >= w.cols) break;
      add(steps[1], from, c + distance, first_token, sums);
      load(steps[1], weights, tile, c + 3 * distance);
    }
  }

  HRUN_HD void add(const Step& step, const FloatView& from, int64_t first, int64_t first_token,
                   float (&sums)[kColumnTiles][4]) const {
    float c[kColumnTiles][4] =
        {};  // tensor cores do not round to nearest: their sums are kept short
#pragma unroll
    for (int i = 0; i < kWindows; ++i) {
#pragma unroll
      for (int n = 0; n < kColumnTiles; ++n) {
        float v[8] = {};
        const int64_t token = first_token + 8 * n + lane() / 4;
        if (token < from.rows)
          load_eight(from.data + token * from.stride, first + 32 * i + 8 * (lane() % 4), w.cols,
                     wide_tokens, v);
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          uint32_t a[4], low_a[4], b[2], low_b[2];
#pragma unroll
          for (int k = 0; k < 4; ++k) {
            const float value = step.rows[i][k % 2].value(2 * j + k / 2);
            a[k] = kSplit ? float_to_bits(value) & kUpperBits : float_to_bits(value);
            if constexpr (kSplit)
              low_a[k] = float_to_bits(value - bits_to_float(a[k])) & kUpperBits;
          }
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            b[k] = float_to_bits(v[2 * j + k]) & kUpperBits;
            low_b[k] = float_to_bits(v[2 * j + k] - bits_to_float(b[k])) & kUpperBits;
          }
          if constexpr (kSplit) mma_tf32(c[n], low_a, b);
          mma_tf32(c[n], a, low_b);
          mma_tf32(c[n], a, b);
        }
      }
    }
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[n][k] += c[n][k];
  }
};

struct FloatSlices {
  size_t slice_bytes;
  int64_t slice_x, slice_y;
  const SliceTask& task;
};

template <FloatFormat F, int kColumnTiles>
void launch_floats(Gpu& gpu, const PlainMatrix& w, FloatView x, FloatView y, bool many,
                   const FloatSlices* slices) {
  using Kernel = MatmulFloats<F, kColumnTiles>;
  const int64_t tiles = (w.rows + kTileRows - 1) / kTileRows,
                steps = (w.cols + kStepColumns - 1) / kStepColumns;
  const int slots = sum_slots(steps);
  // Four share activations in L1.
  const int tiles_per_block = std::max(kColumnTiles > 1 ? 4 : 1, most_row_tiles(steps));
  const auto wide = [](const void* data, size_t step) {
    return reinterpret_cast<uintptr_t>(data) % 16 == 0 && step % 16 == 0;
  };
  Kernel k{};
  k.w = w, k.x = x, k.y = y;
  k.wide_rows = wide(w.data, w.row_bytes);
  k.wide_tokens = wide(x.data, static_cast<size_t>(x.stride) * sizeof(float));
  k.tiles_per_block = tiles_per_block, k.sum_slots = slots;
  Grid grid{static_cast<int>((tiles + tiles_per_block - 1) / tiles_per_block),
            static_cast<int>((x.rows + Kernel::kTokens - 1) / Kernel::kTokens)};
  if (slices) {
    k.sliced = true;
    k.pieces = many ? many_pieces(slices->task) : few_pieces(slices->task);
    k.slice_bytes = slices->slice_bytes;
    k.slice_x = slices->slice_x, k.slice_y = slices->slice_y;
    k.wide_rows = k.wide_rows && wide(nullptr, k.slice_bytes);
    k.wide_tokens = k.wide_tokens && wide(nullptr, static_cast<size_t>(k.slice_x) * sizeof(float));
    const int n_runs = many ? slices->task.n_many_runs : slices->task.n_few_runs,
              most = k.pieces.runs && many ? kManyRows : Kernel::kTokens;
    grid.y = (most + Kernel::kTokens - 1) / Kernel::kTokens;
    grid.z = n_pieces(k.pieces, n_runs, Kernel::kTokens);
  }
  gpu.launch(k, grid,
             sizeof(float) * kTileRows * Kernel::kTokens *
                 static_cast<size_t>(std::max(tiles_per_block * slots, kWarps)));
}

template <class Function>
void with_float_format(FormatId format, Function&& f) {
  Formats::visit(format, [&]<class F>() {
    if constexpr (FloatFormat<F>)
      f.template operator()<F>();
    else
      throw ArgumentError("matmul_floats with the format {}", F::kName);
  });
}

}  // namespace

void matmul_floats(Gpu& gpu, const PlainMatrix& w, FloatView x, FloatView y) {
  if (x.rows == 0) return;
  with_float_format(w.format, [&]<class F>() {
    if (x.rows <= 8)
      launch_floats<F, 1>(gpu, w, x, y, false, nullptr);
    else
      launch_floats<F, 4>(gpu, w, x, y, false, nullptr);
  });
}

void matmul_floats_slices(Gpu& gpu, const PlainMatrix& first, size_t slice_bytes, FloatView x,
                          int64_t slice_x, FloatView y, int64_t slice_y, const SliceTask& task) {
  const FloatSlices slices{slice_bytes, slice_x, slice_y, task};
  with_float_format(first.format, [&]<class F>() {
    if (task.few <= 8) return launch_floats<F, 1>(gpu, first, x, y, false, &slices);
    launch_floats<F, 4>(gpu, first, x, y, false, &slices);
    if (task.n_many_runs > 0) launch_floats<F, 4>(gpu, first, x, y, true, &slices);
  });
}

}  // namespace hrun::gpu
