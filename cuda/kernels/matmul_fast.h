// How the fast matmuls of one group of formats are reached: each .cu file of kernels defines one group.
#pragma once

#include "cuda/kernels/matmul.h"

namespace hrun::gpu {

struct FastMatmul {
  FormatId format;
  int chunk_bytes;
  void (*pack)(Gpu& gpu, const uint8_t* from, int64_t first, int64_t n_rows, const PackedMatrix& to);
  size_t (*scratch_bytes)(const Gpu& gpu, const PackedMatrix& w, int64_t n_tokens);
  void (*matmul)(Gpu& gpu, const PackedMatrix& w, const QuantizedRows& x, FloatView y, void* scratch);
};

const FastMatmul* find_rtq_matmul(FormatId format);
const FastMatmul* find_group_matmul(FormatId format);

}  // namespace hrun::gpu
