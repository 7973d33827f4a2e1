// Access to the fast matmuls of one group of formats.  Each .cu file of kernels defines one group.
#pragma once

#include "cuda/kernels/matmul.h"

namespace hrun::gpu {

struct FastMatmul {
  FormatId format;
  int chunk_bytes;
  void (*pack)(Gpu& gpu, const uint8_t* from, int64_t first, int64_t n_rows,
               const PackedMatrix& to);
  void (*matmul)(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                 const MatmulEnd* end);  // at most kPackedProducts
  void (*matmul_slices)(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                        const SliceTask& task);  // at most kPackedProducts
};

const FastMatmul* find_rtq_matmul(FormatId format);
const FastMatmul* find_group_matmul(FormatId format);
const FastMatmul* find_k_quant_matmul(FormatId format);

}  // namespace hrun::gpu
