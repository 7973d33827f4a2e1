// Keys and values on the device, and what reads them.
#pragma once

#include "backend/backend.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

// A position that a recorded graph can be replayed at: what the device reads at `base`, plus an
// offset known when the kernel was launched.
struct Position {
  const int64_t* base;
  int64_t offset;
};

void rope(Gpu& gpu, FloatView x, int n_heads, const Rope& rope, Position first);
void kv_append(Gpu& gpu, const KVLayer& cache, FloatView k, FloatView v, Position first);

// `positions`: an upper bound of first + n_tokens, by which the work is split into blocks; the
// result does not depend on it beyond rounding.  scratch: attention_scratch_bytes() for the same
// arguments.
size_t attention_scratch_bytes(const Gpu& gpu, const KVLayer& cache, const AttentionShape& shape,
                               int64_t n_tokens, int64_t positions);
void attention(Gpu& gpu, FloatView q, const KVLayer& cache, Position first, int64_t positions,
               const AttentionShape& shape, const float* sinks, FloatView out, void* scratch);

}  // namespace hrun::gpu
