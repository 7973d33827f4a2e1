// The kernels of one CPU tier: what kernels.cpp exports, once per tier, and what
// backend/ calls.
//
// A kernel works on one small piece (a panel of rows, one token) in one thread; splitting the work
// over threads and all checking is the backend's.  Numeric contract: DESIGN.md, "Numbers that do
// not move".
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "formats/format.h"

namespace hrun {

inline constexpr int kLanes = 16;       // of every float reduction, in every tier
inline constexpr int kPanelRows = 16;   // weight rows per call of a matmul kernel
inline constexpr int kDecodedRows = 4;  // weight rows that matmul over decoded rows holds at a time
inline constexpr int kAttentionBlock =
    kPagePositions;  // positions per step of the online softmax, aligned to position 0

// Activations of a matmul as int8, held in int16.  A block is 32 or 256 columns (less in a row's
// tail).
//   x[t, c] ~ scale[t, c / block] * codes[t, c]
// A block with an infinity or a NaN has codes 0 and scale NaN; one whose largest magnitude is below
// 127/FLT_MAX counts as 0.
struct QuantizedRows {
  int16_t* codes = nullptr;  // [n_tokens, cols]
  float* scale = nullptr;    // [n_tokens, n_blocks]
  int16_t* sums = nullptr;   // [n_tokens, ceil(cols / 16)], of the codes of a group
  int64_t n_tokens = 0;
  int64_t cols = 0;
  int64_t n_blocks = 0;
  int64_t n_groups = 0;
};

// The values that are quantized: x; or x * inverse[t] * weight, the norm; or silu(gate) * x.
struct ActivationSource {
  FloatView x;
  const float* weight = nullptr;   // [cols]
  const float* inverse = nullptr;  // [n_tokens]
  FloatView gate{};
};

// Up to kPanelRows weight rows as the file holds them.
struct WeightRows {
  const uint8_t* data = nullptr;
  size_t row_bytes = 0;
  int n_rows = 0;
  int64_t cols = 0;
};

// Activations for packed weights (panels/layout.h): int8, in the order that the codes of the format
// are packed in.  The tokens of a block lie side by side, so that kernels reach those of a tile
// from one address.
struct PackedActivations {
  int8_t* codes = nullptr;        // [n_blocks, stride, columns of a block]
  float* scale = nullptr;         // [n_blocks, stride]
  int32_t* block_sums = nullptr;  // [n_blocks, stride], of the codes
  int16_t* sums8 = nullptr;  // [n_blocks, stride, 32], of 8 columns; these only of blocks of 256 in
                             // natural order
  int16_t* sums16 = nullptr;  // [n_blocks, stride, 16]
  int16_t* sums32 = nullptr;  // [n_blocks, stride, 8]
  int64_t n_tokens = 0;
  int64_t stride = 0;  // tokens from a block to the next
  int64_t n_blocks = 0;

  int64_t at(int64_t t, int64_t b) const { return b * stride + t; }
};

// The order in which panels are fetched ahead for one or two tokens.  Either the halves of a window
// of 8 KiB are fetched side by side, line by line in turns, or line after line.
enum class Prefetch : uint8_t { halves, linear };

// A tensor in panels of 16 rows.
struct PackedWeights {
  const uint8_t* data = nullptr;
  size_t panel_bytes = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  Prefetch prefetch = Prefetch::halves;
};
inline constexpr int kPackedPanels = 4;     // per call of a packed matmul, at most
inline constexpr int kFewTokensAtMost = 8;  // beyond, a packed matmul stores decoded weights

struct FormatKernels {
  // Decodes one row to floats, in the original basis or in the format's own.  `signs` holds
  // rotation_sign() per column.
  void (*decode_row)(const uint8_t* row, int64_t cols, const float* signs, bool own_basis,
                     float* out);
  // Quantized formats: y[t, r] for all tokens of x.  y points at row 0 of the panel; scratch:
  // kPanelRows floats per token.
  void (*matmul_int)(const WeightRows& w, const QuantizedRows& x, float* y, int64_t y_stride,
                     float* scratch);
  // The same for float formats, with fp32 activations.
  void (*matmul_float)(const WeightRows& w, FloatView x, float* y, int64_t y_stride);
  // These are null where the tier has no kernel for packed weights of this format.
  size_t (*packed_panel_bytes)(int64_t cols);
  bool (*pack_panel)(const uint8_t* rows, size_t row_bytes, int n_rows, int64_t cols,
                     uint8_t* panel);
  // Multiplies rows of panels first_panel .. first_panel + n_panels - 1 by all tokens; y points at
  // row 0 of the tensor.  scratch: kPackedPanels * kPanelRows floats per token, 64-aligned.
  void (*matmul_packed)(const PackedWeights& w, int64_t first_panel, int n_panels,
                        const PackedActivations& x, float* y, int64_t y_stride, float* scratch);
};

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

// Channels of a short convolution, and rows of one sequence.
struct ConvTask {
  const float* x;
  float* out;
  const float* taps;  // [n_taps][tap_stride]
  float* state;       // [n_taps - 1][tap_stride]
  int64_t x_stride, out_stride, tap_stride;
  int64_t n_tokens, n_channels;
  int n_taps;
  bool silu;
};

// Up to kLanes columns of a head's matrix, and rows of one sequence.
struct DeltaTask {
  const float* q;  // [n_tokens, k_dim], `stride` apart, as k and v
  const float* k;
  const float* v;      // [n_tokens, n_columns]
  const float* decay;  // one per token, `gate_stride` apart, as beta
  const float* beta;
  float* out;
  float* state;  // [k_dim][kLanes]
  int64_t stride, gate_stride, out_stride;
  int64_t n_tokens;
  int k_dim, n_columns;
};

// Up to kLanes values of a head, and rows of one sequence.
struct ScanTask {
  const float* x;  // [n_tokens, n_columns], `stride` apart, as b and c
  const float* b;  // [n_tokens, state_dim]
  const float* c;
  const float* decay;  // one per token, `gate_stride` apart, as step
  const float* step;
  float* out;
  float* state;  // [state_dim][kLanes]
  int64_t stride, gate_stride, out_stride;
  int64_t n_tokens;
  int state_dim, n_columns;
  float skip;
};

struct KernelTable {
  const FormatKernels* formats;  // in the order of formats()

  // Rotates the block of n columns at column `first` in place (rotation.h).
  void (*rotate_block)(float* x, int64_t first, int n, const float* signs, bool with_signs);
  // Quantizes block `block` of token t of x into `to`; x is in the original basis.
  void (*quantize_block)(const ActivationSource& x, int64_t t, int64_t block, InputForm kind,
                         const float* signs, const QuantizedRows& to);
  // The same for packed weights.
  void (*quantize_packed)(const ActivationSource& x, int64_t t, int64_t block, InputForm kind,
                          const float* signs, const PackedActivations& to);
  // y[t, r] = <x[t], w[r]> over decoded rows [n_rows, cols] that are w_stride apart.
  void (*matmul_decoded)(const float* w, int64_t w_stride, int n_rows, FloatView x, float* y,
                         int64_t y_stride);

  float (*norm_inverse)(const float* x, float eps, int64_t n);  // 1 / sqrt(mean(x^2) + eps)
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  // Turns one token: n_heads heads of head_dim; cos and sin of its position, n_rot / 2 each.
  void (*rope)(float* x, int n_heads, int64_t head_dim, int n_rot, RopeStyle style,
               const float* cos, const float* sin);
  void (*to_fp16)(const float* x, int64_t n, uint16_t* out);
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
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t n,
                     float* out);
  void (*gated)(Nonlinearity f, const float* gate, const float* up, int64_t n, float* out);
  void (*nonlinearity)(Nonlinearity f, const float* x, int64_t n, float* out);
  void (*xielu)(float* x, const Xielu& f, int64_t n);
  void (*scale)(float* x, float factor, int64_t n);
  void (*soft_cap)(float* x, float cap, int64_t n);
  void (*add_scaled)(float* x, float factor, const float* y, int64_t n);  // x = fma(factor, y, x)
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*add)(float* x, const float* y, int64_t n);  // x += y
  void (*exp)(const float* x, int64_t n, float* out);
  void (*short_conv)(const ConvTask& task);
  void (*delta_rule)(const DeltaTask& task);
  void (*ssm_scan)(const ScanTask& task);
  void (*l2_norm)(float* x, float eps, float scale, int64_t n);  // of one head
  void (*decay)(float* x, const float* bias, const float* rate, int64_t n);
  // For measurements: reads n bytes (a multiple of 256) as fast as it can; the result only keeps
  // the loads alive.
  int64_t (*read_memory)(const uint8_t* p, size_t n);
  // The tier's int8 (or int16) multiply-add on registers, over and over; returns the number of
  // operations done.
  int64_t (*multiply_registers)(int64_t iterations);
  // Does the CPU compute what this tier relies on?  Null: nothing that CPUID does not settle.
  bool (*self_check)();
};

}  // namespace hrun
