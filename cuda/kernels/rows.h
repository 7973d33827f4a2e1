// Every format on the device, as the file has it: rows decoded to floats, and products that no fast
// kernel does.
#pragma once

#include "backend/backend.h"
#include "cuda/gpu.h"
#include "cuda/kernels/matmul.h"

namespace hrun::gpu {

// out[i] = row first + i, or row rows[i] (on the device), of the matrix: in the original basis, or
// the format's own.
void decode_rows(Gpu& gpu, const PlainMatrix& w, int64_t first, const int32_t* rows, bool own_basis,
                 FloatView out);

}  // namespace hrun::gpu
