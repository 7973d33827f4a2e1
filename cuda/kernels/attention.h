// Keys and values on the device, and the functions that read them.
#pragma once

#include <span>

#include "backend/backend.h"
#include "cuda/gpu.h"
#include "cuda/kernels/quantize.h"

namespace hrun::gpu {

// The data that lies beside a page of a coded cache (backend/page_buffers.h); null where it has
// none.
struct BesidePage {
  uint8_t* rows;
  uint8_t* beginning;
  uint8_t* squares;
};
// The part of a layer with codes in these buffers.
struct CodedLayer {
  const BesidePage* beside = nullptr;  // by page, on the device; null: the layer has no codes
  int64_t k_rows = 0, v_rows = 0;      // as in a page without codes
  // Per head: the mean of keys, the balance, exact keys and values.
  int64_t beginning = 0, beginning_bytes = 0;
  int64_t squares = 0;  // [kv_head][64 positions][k_dim]
};

// One layer of a cache in device memory.  A page holds, layer by layer, the keys as
// [kv_head][64 positions][k_dim] and then the values as [kv_head][64 positions][v_dim]; codes as in
// device/cache_codes.h.
struct KVPages {
  void* k = nullptr;  // of page 0
  void* v = nullptr;
  CacheType k_type = CacheType::f16, v_type = CacheType::f16;
  int64_t page_bytes = 0;  // from a page to the next
  int n_kv_heads = 0, k_dim = 0, v_dim = 0;
  CodedLayer coded{};
  int k_plain = 0;  // of a key with codes: so many of its last values are fp16, behind the codes

  HRUN_HD int k_coded() const { return k_dim - k_plain; }
};

// A span of the batch, for the device.
struct SpanOnDevice {
  int32_t first_row, n_rows, first_position;
  int32_t state;                                 // the slot of its recurrent state
  int32_t kept = -1, kept_at = 0, log_row = -1;  // as in RowSpan
};

// The data of a batch that the device reads, at the place where a recorded graph finds it again:
// the spans, and for each row its position and its span.  Span s has the page table `tables + s *
// table`.
struct BatchOnDevice {
  const SpanOnDevice* spans;
  const int32_t* positions;
  const int32_t* span_of_row;
  const int32_t* tables;
  int n_spans, table;

  HRUN_HD const int32_t* pages(int span) const {
    return tables + static_cast<int64_t>(span) * table;
  }
};

// A span as far as the launch depends on it: rows, and a bound of the last position plus one.
struct SpanBound {
  int64_t n_rows, end;
};

void rope(Gpu& gpu, FloatView x, int n_heads, const Rope& rope, const int32_t* positions);
void kv_append(Gpu& gpu, const KVPages& cache, FloatView k, FloatView v,
               const BatchOnDevice& batch);

// Heads of queries or of keys, for a norm, a turn or both.
inline constexpr int kMostHeadDim = 256;
struct HeadsTask {
  FloatView x{};  // [n_rows, n_heads * dim]
  int n_heads = 0, dim = 0;
  const float* norm = nullptr;  // [dim]; null: none
  float eps = 0;
  bool norm_first = false;  // before the turn
  bool turned = false;
  Rope rope{};
};
// Does rms_norm() and rope() of queries, if there are some, and of keys, and kv_append() in one
// launch.  Heads of up to kMostHeadDim.
void finish_heads(Gpu& gpu, const HeadsTask& q, const HeadsTask& k, const KVPages& cache,
                  FloatView v, const BatchOnDevice& batch);

// All spans at once.  No bit of a row depends on the other rows, the bounds or the device.
// scratch: attention_scratch_bytes() for the same arguments.
size_t attention_scratch_bytes(const KVPages& cache, const AttentionShape& shape,
                               std::span<const SpanBound> bounds);
// If it returns true, parts are left to be joined.  One of the functions below joins them from
// `join_later`.
struct AttentionTask;
bool attention(Gpu& gpu, FloatView q, const KVPages& cache, const BatchOnDevice& batch,
               std::span<const SpanBound> bounds, const AttentionShape& shape, const float* sinks,
               FloatView out, void* scratch, AttentionTask* join_later = nullptr);
void join_parts(Gpu& gpu, const AttentionTask& task);
bool can_join_and_quantize(const AttentionTask& task);
void join_and_quantize(Gpu& gpu, const AttentionTask& task, InputForm kind,
                       const QuantizedRows& to);

}  // namespace hrun::gpu
