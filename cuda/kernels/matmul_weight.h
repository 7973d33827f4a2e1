// Weight-domain product for rotated formats: decode, scale, inverse 256-point transform in the tile
// load, fp16 tensor cores.
#pragma once

#include "backend/backend.h"
#include "formats/format.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

// Bytes of the layout that this kernel reads; 0 if the format or shape has none (then the decoded
// rows are multiplied in fp32).
size_t weight_domain_bytes(FormatId format, int64_t rows, int64_t cols);
// Packs the rows first ... first + n_rows of a matrix of `rows`; first, and n_rows but for the last
// part: multiples of 16.
void pack_weight_domain(Gpu& gpu, FormatId format, const uint8_t* from, size_t row_bytes,
                        int64_t first, int64_t n_rows, int64_t rows, int64_t cols, uint8_t* to);
// y = x W^T with unrotated x.  scratch: weight_domain_scratch_bytes().
size_t weight_domain_scratch_bytes(FormatId format, int64_t rows, int64_t cols, int64_t n_tokens);
void matmul_weight_domain(Gpu& gpu, FormatId format, const uint8_t* packed, int64_t rows,
                          int64_t cols, FloatView x, FloatView y, void* scratch);

}  // namespace hrun::gpu
