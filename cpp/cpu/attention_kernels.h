// Kernels of attention, over plain and coded caches.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/cache.h"
#include "cpu/kernel_constants.h"
#include "formats/format.h"

namespace hrun {

// Tokens and the query heads of one kv head.  A query is a token and a head: number token * n_heads
// + head.
struct AttentionTask {
  FloatView q;    // [n_tokens, n_heads * k_dim]
  FloatView out;  // [n_tokens, n_heads * v_dim]
  int n_heads;
  const uint8_t* k;      // in page 0: [kLanes positions][k_dim][position]
  const uint8_t* v;      // in page 0: [position][v_dim]
  const int32_t* pages;  // block b lies in page pages[b], pages[b] * page_bytes further
  size_t page_bytes;
  int k_dim, v_dim;
  int64_t first_position;  // token t sees the positions up to first_position + t
  int64_t whole = 0;       // or, where this is not 0, of all so many positions
  float scale;
  int64_t window = 0;  // and not more than so many (of all: half as many to either side); 0: all
  float soft_cap = 0;  // 0: none
  const float* sinks = nullptr;   // [n_heads]
  const float* slopes = nullptr;  // [n_heads]: scores shrink by so much for each position between
  int64_t first_block, n_blocks;  // of kAttentionBlock positions: all, or with `partial` some
  ptrdiff_t to_next =
      0;  // bytes from these blocks to those that the thread will read after them; 0: not known
  float* partial = nullptr;  // [block][query][partial_floats()]: largest score, sum, values; then
                             // out is not touched

  ptrdiff_t page_offset(int64_t block) const {
    return pages[block] * static_cast<ptrdiff_t>(page_bytes);
  }
  int n_queries() const { return static_cast<int>(q.rows) * n_heads; }
  int64_t partial_floats() const { return 2 + v_dim; }
  int64_t first_visible(int64_t token) const {
    const int64_t position = first_position + token;
    const int64_t first = whole > 0 ? position - window / 2 : position + 1 - window;
    return window > 0 && first > 0 ? first : 0;
  }
  int64_t end_visible(int64_t token) const {
    const int64_t position = first_position + token;
    if (whole == 0) return position + 1;
    const int64_t end = position + 1 + window / 2;
    return window > 0 && end < whole ? end : whole;
  }
  float* out_of(int query) const { return out.row(query / n_heads) + query % n_heads * v_dim; }
  // 64-aligned.
  size_t scratch_floats() const {
    constexpr int64_t kPerQuery =
        2 + 2 * sizeof(void*) / sizeof(float);  // its state, and pointers to input and output
    return static_cast<size_t>(kPerQuery * n_queries() + kAttentionBlock * (k_dim + v_dim));
  }
};

// The keys or values of 64 positions of a head, which become codes (kernels/cache_encode.h).
struct BlockToCode {
  const uint8_t* rows;  // fp16, as AttentionTask has them
  int row_dim;          // values of a row, of which ...
  int dim;              // ... the first so many are coded
  bool keys;
  CacheType type;
  const float* centre;   // [dim], of keys: is subtracted from them ...
  const float* balance;  // ... and they are then multiplied by it
  uint8_t* to;           // codes and scales

  size_t scratch_floats() const { return 112 * static_cast<size_t>(dim); }
};

// Attention over codes (kernels/attention_coded.h).  `task` has the codes.  It has plain keys or
// values where only the others are coded.  The last block, which holds all its queries, is read
// from rows that are not coded yet.
struct CodedAttentionTask {
  AttentionTask task;
  CacheType k_type, v_type;
  int k_coded;        // values of a key that are codes; the others are fp16 behind the scales
  int64_t own_block;  // of the queries
  const uint8_t *own_k, *own_v;
  // These are of block 0, and are used where own_block is another block.
  const uint8_t *exact_k, *exact_v;  // [kExactPositions][dim]
  const float *mean, *balance;       // [k_dim] of keys before they were turned; of what is coded
  // Means of the rotary table over each block, [n_rot / 2]; n_rot is 0 where nothing is turned.
  const float *block_cos, *block_sin;
  int n_rot, first_rot;
  bool interleaved;
  // [n_queries][query_floats()], by prepare_coded_queries; null: the kernel prepares them itself.
  float* prepared;

  // The number of floats that a query takes when it is prepared for coded keys.
  size_t query_floats() const { return static_cast<size_t>(k_coded / 4 + 4 + 2 * pair_floats()); }
  int pair_floats() const { return (n_rot / 2 + kLanes - 1) / kLanes * kLanes; }
  // `partial` has one entry more, the last one: it is that of the exact positions.
  size_t scratch_floats() const {
    return task.scratch_floats() + kLanes +
           static_cast<size_t>((kAttentionBlock / 4 + kLanes + 1) * (task.k_dim + task.v_dim)) +
           static_cast<size_t>(task.n_queries()) *
               (query_floats() + static_cast<size_t>(task.v_dim));
  }
};

// The number of blocks of 64 positions that were read as codes.
struct CodedBlocks {
  int64_t keys, values;
};

struct AttentionKernels {
  // scratch: task.scratch_floats().  Null where the pair of formats has no kernel.
  using Attention = void (*)(const AttentionTask& task, float* scratch);
  Attention (*attention)(FormatId k_format, FormatId v_format);
  // Joins one query from the partial results of its blocks, which are `stride` floats apart, and
  // from its sink or null.
  void (*join_attention)(const float* partial, int64_t n_blocks, int64_t stride, int v_dim,
                         const float* sink, float* out);
  // Prepares all queries of a task whose blocks are shared out, into task.prepared.  scratch:
  // [k_dim].
  void (*prepare_coded_queries)(const CodedAttentionTask& task, float* scratch);
  // scratch: task.scratch_floats().
  CodedBlocks (*attention_coded)(const CodedAttentionTask& task, float* scratch);
  // One query from the partial results of its blocks, which are `stride` floats apart: coded ones,
  // the exact positions (null: not seen), its own block.  scratch: [v_dim].
  void (*join_attention_coded)(const float* partial, int64_t n_coded, const float* exact,
                               int64_t stride, int v_dim, bool v_coded, const float* sink,
                               float* scratch, float* out);
  // scratch: block.scratch_floats(), 64-aligned.
  void (*code_block)(const BlockToCode& block, float* scratch);
};

}  // namespace hrun
