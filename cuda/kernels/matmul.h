// Products of quantized activations with packed weights: y[t, r] = sum over blocks of dw[r, b] *
// dx[t, b] * (exact int32 sum).
#pragma once

#include <span>

#include "backend/backend.h"
#include "formats/format.h"
#include "cuda/gpu.h"
#include "cuda/kernels/quantize.h"
#include "cuda/kernels/slices.h"

namespace hrun::gpu {

// Slot s of sum_slots(n) has every so many of n steps along the columns, from step s on.  All
// kernels sum a slot from zero and add the slots in order.  So a token's bits depend on the number
// of columns alone, not on the kernel, the other tokens, the other matrices or the device.
inline constexpr int kMostSlots = 8;
HRUN_HD int sum_slots(int64_t n) {
  return n < kMostSlots ? static_cast<int>(n > 1 ? n : 1) : kMostSlots;
}
// The most row tiles that kMostSlots warps share without a warp of two slots: a power of two.
HRUN_HD int most_row_tiles(int64_t n_steps) {
  int tiles = kMostSlots;
  while (tiles * sum_slots(n_steps) > kMostSlots) tiles /= 2;
  return tiles;
}

// A matrix in the layout that the fast kernels read, on the device.
struct PackedMatrix {
  FormatId format;
  int64_t rows;
  int64_t cols;
  const uint8_t* data;  // packed_bytes() of it, 256-byte aligned
};

// Bytes of a packed matrix; 0 if the format, or this shape of it, has no fast kernel.
size_t packed_bytes(FormatId format, int64_t rows, int64_t cols);

// Packs rows as the file has them, on the device, into the packed layout.  `first` ... first +
// n_rows: the part of the matrix whose rows are in `from` (multiples of kPackRows but for the last
// part).  The device must be waited for before a product reads them: products load weights early.
inline constexpr int64_t kPackRows = 64;
void pack(Gpu& gpu, const uint8_t* from, int64_t first, int64_t n_rows, const PackedMatrix& to);

// y[t, r] for all tokens of x, of matrices of one format and as many columns: with few tokens, up
// to kPackedProducts at a time are one launch.
struct PackedProduct {
  PackedMatrix w;
  FloatView y;
  FloatView add{};  // if it has data: y is added to it in the end; up to kMostAddedTokens of x
  // Where w is the first of several slices: bytes from one to the next, and values of y.
  size_t slice_bytes = 0;
  int64_t slice_y = 0;
};
inline constexpr size_t kPackedProducts = 4;
inline constexpr int64_t kMostAddedTokens = 8;

// The work that the blocks of threads that end last do when products are there: they make the input
// of the next matmul.  It is either the norm of the rows that one product is added to, or two
// products, one the gate of the other.
struct MatmulEnd {
  QuantizeSource from;
  InputForm kind;
  QuantizedRows to;
  int* counters = nullptr;  // kEndCounters zeros, which are zeros again afterwards
};
inline constexpr size_t kEndCounters = 4096;
// Says whether MatmulEnd works for products of so many rows.
bool can_end(const QuantizedRows& x, int64_t rows);
// The most row tiles of a block of threads at a time where one product is the gate of the other:
// the warp that says that they are there stores all of them.
inline int most_gated_tiles(int64_t n_tokens) { return n_tokens > 1 ? 1 : 2; }

void matmul(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
            const MatmulEnd* end = nullptr);

// Multiplies slices, at most kPackedProducts tensors of one format in a launch.  The bits are those
// of matmul().
void matmul_slices(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                   const SliceTask& task);

// Does the same without a packed layout, for every integer format: rows as the file has them.
struct PlainMatrix {
  FormatId format;
  int64_t rows;
  int64_t cols;
  size_t row_bytes;
  const uint8_t* data;
};
void matmul_plain(Gpu& gpu, const PlainMatrix& w, const QuantizedRows& x, FloatView y);
void matmul_plain_slices(Gpu& gpu, const PlainMatrix& first, size_t slice_bytes,
                         const QuantizedRows& x, FloatView y, int64_t slice_y,
                         const SliceTask& task);

// Does the same for float formats, in fp32.
void matmul_floats(Gpu& gpu, const PlainMatrix& w, FloatView x, FloatView y);
// slice_x: values from the input of one head to the next.
void matmul_floats_slices(Gpu& gpu, const PlainMatrix& first, size_t slice_bytes, FloatView x,
                          int64_t slice_x, FloatView y, int64_t slice_y, const SliceTask& task);

}  // namespace hrun::gpu
