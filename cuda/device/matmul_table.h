// Makes the functions of one format (matmul_fast.h) from its kernels.
#pragma once

#include "cuda/device/matmul_stream.h"
#include "cuda/device/matmul_tile.h"
#include "cuda/device/matmul_warpgroups.h"
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

// The kernels for many tokens.
template <class F, bool kSliced = false>
bool has_warpgroups(const Gpu& gpu) {
  return gpu.info().warpgroups &&
         gpu.info().block_shared_bytes >= MatmulWarpgroups<F, kSliced>::kSharedBytes;
}
template <class F, bool kSliced = false>
void launch_many(Gpu& gpu, const PackedProduct& part, const QuantizedRows& x,
                 const SliceTask& task = {}) {
  if (has_warpgroups<F, kSliced>(gpu))
    launch_tile<F, MatmulWarpgroups<F, kSliced>, kSliced>(gpu, part, x, task);
  else
    launch_tile<F, MatmulTile<F, kSliced>, kSliced>(gpu, part, x, task);
}

// Says which of two kernels is faster, from the cycles that each takes where its tiles do not fill
// the device.  The one for few tokens does 20 weights and up to 16 tokens per cycle and
// multiprocessor.
template <class Kernel>
bool tiles_are_faster_of(const Gpu& gpu, int64_t rows, int64_t n_tokens) {
  const int64_t n = gpu.info().multiprocessors > 0 ? gpu.info().multiprocessors : 1;
  const int64_t tiles = (rows + Kernel::kRows - 1) / Kernel::kRows *
                        ((n_tokens + Kernel::kTokens - 1) / Kernel::kTokens);
  const int64_t tile_cycles =
      (tiles + n - 1) / n * Kernel::kRows * Kernel::kTokens * Kernel::kCycles / (128 * 128);
  const int64_t stream_cycles = (n_tokens + 15) / 16 * rows * kChunkColumns / (20 * n);
  return tile_cycles < stream_cycles;
}
template <class F>
bool tiles_are_faster(const Gpu& gpu, int64_t rows, int64_t n_tokens) {
  if (n_tokens <= 16) return false;
  return has_warpgroups<F>(gpu) ? tiles_are_faster_of<MatmulWarpgroups<F>>(gpu, rows, n_tokens)
                                : tiles_are_faster_of<MatmulTile<F>>(gpu, rows, n_tokens);
}

template <class F>
void matmul_format(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                   const MatmulEnd* end) {
  if (x.n_tokens <= 8) return launch_few<F, 8>(gpu, parts, x, end);
  for (const PackedProduct& part : parts)
    if (tiles_are_faster<F>(gpu, part.w.rows, x.n_tokens))
      launch_many<F>(gpu, part, x);
    else
      launch_few<F, 16>(gpu, {&part, 1}, x, nullptr);
}

template <class F>
void matmul_slices_format(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                          const SliceTask& task) {
  const bool heads = task.few_runs == nullptr;
  if (task.few <= 8) return launch_few_slices<F, 8>(gpu, parts, x, task);
  if (heads && tiles_are_faster<F>(gpu, parts[0].w.rows * task.n_slices, task.n_rows)) {
    for (const PackedProduct& part : parts) launch_many<F, true>(gpu, part, x, task);
    return;
  }
  launch_few_slices<F, 16>(gpu, parts, x, task);
  if (task.n_many_runs > 0)
    for (const PackedProduct& part : parts) launch_many<F, true>(gpu, part, x, task);
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
