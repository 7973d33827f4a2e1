// Products of the slices of a tensor in one launch: of experts, each with the rows that chose it,
// and of heads, each with all rows.
#pragma once

#include <cstdint>

#include "cuda/device/thread.h"

namespace hrun::gpu {

// Rows first ... first + n - 1 of the slots that use a slice.
struct SliceRun {
  int32_t slice, first, n;
};

// The share of one z of a grid.
struct SlicePiece {
  int slice, n;
  int64_t row;        // of y, in its slice where slices are apart
  int64_t input_row;  // of the quantized input
};

struct SliceTask {
  // Experts: runs on the device, those that are not used have n = 0.  Runs of at most `few` rows,
  // and of at most kManyRows.
  const SliceRun* few_runs = nullptr;
  const SliceRun* many_runs = nullptr;
  int n_few_runs = 0, n_many_runs = 0;
  int few = 8;           // 8 or 16
  bool one_row = false;  // the input is one row, which all slices read
  // Heads: how many there are, and the rows of each.  Row r of head h is row h * n_rows + r of the
  // quantized input.
  int n_slices = 0;
  int n_rows = 0;
};
inline constexpr int kManyRows = 128;

// Says what a z of a grid has to do; an argument of kernels.
struct SlicePieces {
  const SliceRun* runs;  // null: heads
  int n_slices, n_rows;
  bool one_row;

  // unit: the rows of a piece of a head.
  HRUN_HD SlicePiece at(int z, int unit) const {
    if (runs) {
      const SliceRun run = runs[z];
      return {run.slice, run.n, run.first, one_row ? 0 : run.first};
    }
    const int slice = z % n_slices, row = z / n_slices * unit;
    const int n = n_rows - row < unit ? n_rows - row : unit;
    return {slice, n, row, static_cast<int64_t>(slice) * n_rows + row};
  }
};

inline SlicePieces few_pieces(const SliceTask& task) {
  return {task.few_runs, task.n_slices, task.n_rows, task.one_row};
}
inline SlicePieces many_pieces(const SliceTask& task) {
  return {task.many_runs, task.n_slices, task.n_rows, task.one_row};
}
// The number of pieces.
inline int n_pieces(const SlicePieces& pieces, int n_runs, int unit) {
  return pieces.runs ? n_runs : (pieces.n_rows + unit - 1) / unit * pieces.n_slices;
}

}  // namespace hrun::gpu
