// Keys and values become codes on the device: the CPU's bits from the same rows.
#pragma once

#include "cuda/kernels/attention.h"

namespace hrun::gpu {

// Requires head sizes that a layer with codes may have, and no more shared memory than a block of
// threads has.  Throws UnsupportedModelError.
void require_coded_layer(const Gpu& gpu, const CacheLayer& layer);

// The mean and the balance of keys that the file brings, [n_kv_heads][k_dim]; null: they are to be
// found.
struct KeyTables {
  const float *mean = nullptr, *balance = nullptr;
};

// Call this after the rows of a batch were written to a layer with codes.  `begins`: some row is in
// a page that begins a sequence; `completes`: some page is full now.  Rows that are neither cost
// nothing but the launch.
void code_pages(Gpu& gpu, const KVPages& cache, const BatchOnDevice& batch,
                std::span<const SpanBound> bounds, const KeyContext& keys, const KeyTables& tables,
                bool begins, bool completes);

// Attends in all spans at once, as attention() does, over a layer with codes.
struct AttentionTask;
size_t coded_attention_shared_bytes(int k_dim, int v_dim);
void launch_coded_attention(Gpu& gpu, const AttentionTask& task, const KVPages& cache,
                            const Rope* rope, int64_t blocks);

}  // namespace hrun::gpu
