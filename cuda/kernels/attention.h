// Keys and values on the device, and what reads them.
#pragma once

#include "backend/backend.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

// One layer of a cache in device memory.  A page holds, layer by layer, the keys as
// [kv_head][64 positions][k_dim] and then the values as [kv_head][64 positions][v_dim].
struct KVPages {
  void* k = nullptr;  // of page 0
  void* v = nullptr;
  CacheType k_type = CacheType::f16, v_type = CacheType::f16;
  int64_t page_bytes = 0;  // from a page to the next
  int n_kv_heads = 0, k_dim = 0, v_dim = 0;
};

// Where the device finds what a recorded graph can be replayed at: the position of each row, and
// the page table of the sequence.
struct SpanOnDevice {
  const int32_t* positions;
  const int32_t* pages;
  const int32_t* state;  // the slot of its recurrent state
};

void rope(Gpu& gpu, FloatView x, int n_heads, const Rope& rope, const int32_t* positions);
void kv_append(Gpu& gpu, const KVPages& cache, FloatView k, FloatView v, SpanOnDevice span);

// `positions`: an upper bound of first + n_tokens.  No bit of the result depends on it, nor, up to
// 16 tokens, on how many tokens there are.  scratch: attention_scratch_bytes() for the same
// arguments.
size_t attention_scratch_bytes(const Gpu& gpu, const KVPages& cache, const AttentionShape& shape,
                               int64_t n_tokens, int64_t positions);
void attention(Gpu& gpu, FloatView q, const KVPages& cache, SpanOnDevice span, int64_t positions,
               const AttentionShape& shape, const float* sinks, FloatView out, void* scratch);

}  // namespace hrun::gpu
