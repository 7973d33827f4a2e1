// Makes the functions of one format (matmul_fast.h) from its kernels.
#pragma once

#include "cuda/device/matmul_stream.h"
#include "cuda/device/matmul_tile.h"
#include "cuda/kernels/matmul_fast.h"

namespace hrun::gpu {

// One thread per row and chunk.
template <class F>
struct PackChunks {
  static constexpr int kThreads = 128, kBlocks = 1;
  static constexpr const char* kName = "pack";
  const uint8_t* from;
  size_t row_bytes;
  int64_t first;   // row
  int64_t n_rows;  // in `from`
  int64_t padded;  // and without data, to fill the last tile
  int64_t cols;
  uint8_t* to;

  HRUN_HD void operator()() const {
    const int64_t chunks = n_chunks<F>(cols);
    const int64_t at = static_cast<int64_t>(block_x()) * kThreads + thread();
    if (at >= padded * chunks) return;
    const int64_t i = at / chunks, index = at % chunks, row = first + i;
    Packed<F>::pack_row(i < n_rows ? from + static_cast<size_t>(i) * row_bytes : nullptr, cols,
                        index, static_cast<int>(row % kTileRows),
                        to + (row / kTileRows * chunks + index) * kChunkBytes<F>);
  }
};

template <class F>
void pack_format(Gpu& gpu, const uint8_t* from, int64_t first, int64_t n_rows,
                 const PackedMatrix& to) {
  const int64_t padded = (n_rows + kTileRows - 1) / kTileRows * kTileRows;
  const PackChunks<F> k{from,    F::row_bytes(to.cols),        first, n_rows, padded,
                        to.cols, const_cast<uint8_t*>(to.data)};
  gpu.launch(k,
             Grid{static_cast<int>((padded * n_chunks<F>(to.cols) + k.kThreads - 1) / k.kThreads)});
}

// Says which of the two kernels is faster, from the cycles that each takes where its tiles do not
// fill the device.  A tile of 128 x 128 of the one takes about 2200 per chunk, and twice that where
// groups have scales.  The other does 20 weights and up to 16 tokens per cycle and multiprocessor.
template <class F>
bool tiles_are_faster(const Gpu& gpu, int64_t rows, int64_t n_tokens) {
  if (n_tokens <= 16) return false;
  using Kernel = MatmulTile<F>;
  const int64_t n = gpu.info().multiprocessors > 0 ? gpu.info().multiprocessors : 1;
  const int64_t tiles = (rows + Kernel::kRows - 1) / Kernel::kRows *
                        ((n_tokens + Kernel::kTokens - 1) / Kernel::kTokens);
  const int64_t tile_cycles = (tiles + n - 1) / n * Kernel::kRows * Kernel::kTokens *
                              (Kernel::kWhole ? 2200 : 4400) / (128 * 128);
  const int64_t stream_cycles = (n_tokens + 15) / 16 * rows * kChunkColumns / (20 * n);
  return tile_cycles < stream_cycles;
}

template <class F>
void matmul_format(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                   const MatmulEnd* end) {
  if (x.n_tokens <= 8 && can_copy_in_bulk<F>(gpu))
    return launch_stream<F, 8, true>(gpu, parts, x, end);
  if (x.n_tokens <= 8) return launch_stream<F, 8>(gpu, parts, x, end);
  for (const PackedProduct& part : parts)
    if (tiles_are_faster<F>(gpu, part.w.rows, x.n_tokens))
      launch_tile<F>(gpu, part, x);
    else
      launch_stream<F, 16>(gpu, {&part, 1}, x, nullptr);
}

template <class F>
void matmul_slices_format(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                          const SliceTask& task) {
  const bool heads = task.few_runs == nullptr;
  if (task.few <= 8) return launch_stream_slices<F, 8>(gpu, parts, x, task);
  if (heads && tiles_are_faster<F>(gpu, parts[0].w.rows * task.n_slices, task.n_rows)) {
    for (const PackedProduct& part : parts) launch_tile<F, true>(gpu, part, x, task);
    return;
  }
  launch_stream_slices<F, 16>(gpu, parts, x, task);
  if (task.n_many_runs > 0)
    for (const PackedProduct& part : parts) launch_tile<F, true>(gpu, part, x, task);
}

template <class... F>
const FastMatmul* find_in(FormatList<F...>, FormatId format) {
  static const FastMatmul table[] = {
      {F::kId, kChunkBytes<F>, pack_format<F>, matmul_format<F>, matmul_slices_format<F>}...};
  for (const FastMatmul& m : table)
    if (m.format == format) return &m;
  return nullptr;
}

}  // namespace hrun::gpu
