// y = x W^T in the weight domain.  A warp decodes 16 rows x 256 columns into registers, as integers
// in fp16; transforms them there (weight_tile.h), multiplying by the block's scale on the way; and
// multiplies the result, which is the left factor of mma.m16n8k16 as it stands, with fp16
// activations from shared memory, summed in fp32.  Nothing is rounded to int8 and no weight passes
// through shared memory.
//
// Ranges: scales are stored relative to a power of two per row (largest in [1/2, 1)), activations
// to one per token (largest in [2^14, 2^15)), both put back in fp32 at the end.  Signs of the
// rotation belong to columns, so they are applied to the activations when these become fp16, where
// they cost nothing and round nothing.
//
// The columns beyond the last multiple of 256 are decoded and transformed in fp32 when the matrix
// is packed and stored as fp16 fragments: right, and rare.
//
// Instructions per warp and tile of 16 x 256 weights times 128 tokens, counted in the SASS for
// sm_90:
//                                              RTQ3 (2, 4 alike)   ITQ3_S
//   decode: integer pipe                              420             160
//   fp16 subtractions, scale, butterflies             352             428
//   transform: mma                                     32              32
//   product: 256 mma, 128 ldmatrix, addresses         407             407
//   two stages of copies, waits, barriers             190             190
//   all                                              1500            1290
// beside 256 mma of 4 tensor cycles at the peak of sm_90 (8 on sm_80, 16 on sm_86 and sm_89).  A
// fragment of x is 256 bytes of shared memory per mma: two cycles of a multiprocessor, which is
// half of the fp16 peak of sm_90, all of sm_80's.  Half of the warps decode while the others
// multiply (their barriers are at different places of the loop), so that the slowest of these
// counts and not their sum: expected 35-40 % of the peak on sm_90, 50-60 % where tensor cores are
// slower.  Not measured: no such device was at hand.
#include "cuda/kernels/matmul_weight.h"

#include <algorithm>

#include "base/error.h"
#include "cuda/device/weight_layout.h"

namespace hrun::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kBlockRows = kWarps * kTileRows;
constexpr int kBlockTokens = 128;
constexpr int kStepCols = kTileCols / 2;  // columns of x per stage
constexpr int kStages = 3;
constexpr int kChunk = 8;  // fp16 values in sixteen bytes
constexpr int kChunksPerStep = kStepCols / kChunk;
constexpr size_t kStageBytes = size_t{kBlockTokens} * kStepCols * 2;

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// x as fp16 in the order of the tiles, signs applied, and the power of two of each token.  A block
// of threads per token; those beyond the last, up to a group of 16, are zeros.
template <bool kConsecutive>
struct Halve {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr const char* kName = "weight_domain_activations";

  const float* x;
  int64_t x_stride, n_tokens, cols, stride;  // stride: cols rounded up to a multiple of 256
  bool with_signs;
  uint16_t* out;
  float* token_scale;

  HRUN_HD void operator()() const {
    const int64_t token = block_x();
    if (token >= n_tokens) {
      for (int64_t chunk = thread(); chunk * kChunk < stride; chunk += kThreads)
        *reinterpret_cast<Words4*>(out + token * stride + chunk * kChunk) = {};
      return;
    }
    const float* const row = x + token * x_stride;
    uint32_t largest = 0;
    for (int64_t c = thread(); c < cols; c += kThreads) {
      const uint32_t bits = float_to_bits(row[c]) & 0x7fffffffu;
      if (bits > largest) largest = bits;
    }
    for (int mask = 1; mask < kWarp; mask *= 2) {
      const uint32_t other = shuffle_xor_bits(largest, mask);
      if (other > largest) largest = other;
    }
    auto* const per_warp = reinterpret_cast<uint32_t*>(shared());
    if (lane() == 0) per_warp[warp()] = largest;
    sync_block();
    for (int w = 0; w < kThreads / kWarp; ++w)
      if (per_warp[w] > largest) largest = per_warp[w];
    // Below 2^-110 the factor would leave fp32: such a token loses digits, as its products would.
    int exponent =
        largest >= 0x7f800000u || largest == 0 ? 14 : static_cast<int>(largest >> 23) - 127;
    if (exponent < -110) exponent = -110;
    const float factor = bits_to_float(static_cast<uint32_t>(14 - exponent + 127) << 23);
    if (thread() == 0)
      token_scale[token] = bits_to_float(static_cast<uint32_t>(exponent - 14 + 127) << 23);

    for (int64_t chunk = thread(); chunk * kChunk < stride; chunk += kThreads) {
      const int64_t block = chunk * kChunk / kTileCols * kTileCols;
      const bool whole = block + kTileCols <= cols;
      float v[kChunk];
#pragma unroll
      for (int i = 0; i < kChunk; ++i) {
        const int position = static_cast<int>(chunk * kChunk % kTileCols) + i;
        const int64_t c = block + (whole ? tile_column<kConsecutive>(position) : position);
        v[i] = c < cols ? row[c] * factor : 0.0f;
        if (with_signs && rotation_sign(c) < 0) v[i] = -v[i];
      }
      Words4 halves;
#pragma unroll
      for (int i = 0; i < 4; ++i) halves.v[i] = two_halves(v[2 * i], v[2 * i + 1]);
      *reinterpret_cast<Words4*>(out + token * stride + chunk * kChunk) = halves;
    }
  }
};

template <class F>
struct Multiply {
  static constexpr int kThreads = kWarps * kWarp, kBlocks = 1;
  static constexpr const char* kName = "matmul_weight_domain";
  static constexpr size_t kSharedBytes = kStages * kStageBytes;
  using Codes = TileCodes<F>;
  static constexpr int kTiles = kBlockTokens / 8;  // of mma, across the tokens

  const uint8_t* w;
  TileLayout layout;
  int64_t rows, n_tokens;
  const uint16_t* x;
  int64_t x_stride;  // in values
  const float* token_scale;
  int token_blocks, blocks_per_split;
  int64_t n_blocks;  // the tail counts as one
  float* y;          // of split s: y + s * split_stride
  int64_t y_stride, split_stride;

  struct Staged {
    uint32_t words[4 * Codes::kLoads];
    uint32_t scale;
    uint8_t integer_scales[2];
  };

  HRUN_HD void load(const uint8_t* tile, int64_t b, Staged& staged) const {
    const uint8_t* const block = tile + b * layout.block_bytes;
    const auto* const loads = reinterpret_cast<const Words4*>(block) + lane();
#pragma unroll
    for (int l = 0; l < Codes::kLoads; ++l) {
      const Words4 v = load_once(loads + l * kWarp);
#pragma unroll
      for (int i = 0; i < 4; ++i) staged.words[4 * l + i] = v.v[i];
    }
    staged.scale = reinterpret_cast<const uint32_t*>(block + Codes::kLoads * 512)[lane() / 4];
    if constexpr (Codes::kScaleBytes > 0) {
      const auto both = reinterpret_cast<const uint16_t*>(block + Codes::kLoads * 512 + 32)[lane()];
      staged.integer_scales[0] = static_cast<uint8_t>(both);
      staged.integer_scales[1] = static_cast<uint8_t>(both >> 8);
    }
  }

  HRUN_HD void load_tail(const uint8_t* tile, uint32_t (&a)[kFragments][4]) const {
    const auto* const steps =
        reinterpret_cast<const Words4*>(tile + layout.n_blocks * layout.block_bytes) + lane();
#pragma unroll
    for (int i = 0; i < kFragments; ++i) {
      Words4 v{};
      if (i < layout.tail_steps) v = steps[i * kWarp];
#pragma unroll
      for (int r = 0; r < 4; ++r) a[i][r] = v.v[r];
    }
  }

  // Stage `step` of the activations: [token][16 chunks], the chunks of a token permuted so that
  // eight tokens' chunks of one column lie in different banks.  A thread copies one chunk of every
  // sixteenth token; x has rows for whole groups.
  HRUN_HD void copy_stage(const uint16_t* from, int groups, int64_t step, int slot) const {
    const int token = thread() / kChunksPerStep, chunk = thread() % kChunksPerStep;
    uint8_t* const to = shared() + static_cast<size_t>(slot) * kStageBytes +
                        (token * kChunksPerStep + (chunk ^ (token & 7))) * 16;
    from += step * kStepCols;
#pragma unroll
    for (int i = 0; i < kBlockTokens / 16; ++i) {
      if (i < groups) copy_async(to + i * (16 * kChunksPerStep * 16), from);
      from += 16 * x_stride;
    }
  }

  // Eight steps of 16 columns, of the first `groups` groups of 16 tokens; kGroups: the same where
  // it is known, else 0.
  template <int kGroups>
  HRUN_HD void multiply(const uint32_t (&a)[kFragments][4], int first, const uint8_t* stage,
                        int groups, float (&acc)[kTiles][4]) const {
    const int token = (lane() >> 4) * 8 + (lane() & 7), half = (lane() >> 3) & 1;
    const uint8_t* const row = stage + token * (kChunksPerStep * 16);
    const int swizzle = half ^ (lane() & 7);
#pragma unroll
    for (int i = 0; i < kFragments / 2; ++i) {
      const uint8_t* const chunk = row + ((2 * i) ^ swizzle) * 16;
#pragma unroll
      for (int n = 0; n < kTiles / 2; ++n) {
        if (n >= (kGroups > 0 ? kGroups : groups)) continue;
        uint32_t b[4];
        load_matrices(b, chunk + n * (16 * kChunksPerStep * 16));
        const uint32_t left[2] = {b[0], b[1]}, right[2] = {b[2], b[3]};
        mma_f16(acc[2 * n], a[first + i], left);
        mma_f16(acc[2 * n + 1], a[first + i], right);
      }
    }
  }

  HRUN_HD void operator()() const {
    const int64_t first_token = static_cast<int64_t>(block_x() % token_blocks) * kBlockTokens;
    const int64_t own_tile = static_cast<int64_t>(block_x() / token_blocks) * kWarps + warp();
    const int64_t tile_number = own_tile < layout.n_tiles
                                    ? own_tile
                                    : layout.n_tiles - 1;  // all warps meet at the barriers
    const uint8_t* const tile = w + layout.first_tile + tile_number * layout.tile_bytes;
    const int64_t first_block = static_cast<int64_t>(block_y()) * blocks_per_split;
    const int64_t end_block =
        first_block + blocks_per_split < n_blocks ? first_block + blocks_per_split : n_blocks;
    const int64_t end_step = 2 * end_block;
    const int64_t tokens_left = n_tokens - first_token;
    const int groups =
        tokens_left >= kBlockTokens ? kBlockTokens / 16 : static_cast<int>((tokens_left + 15) / 16);

    const uint16_t* const x_part = x + (first_token + thread() / kChunksPerStep) * x_stride +
                                   thread() % kChunksPerStep * kChunk;

    float acc[kTiles][4] = {};
    Staged staged;
    if (first_block < layout.n_blocks) load(tile, first_block, staged);
    const TransformFragments h = transform_fragments();
    int64_t step = 2 * first_block;
    int slot = 0;
    for (int i = 0; i < kStages - 1; ++i) {
      if (step + i < end_step) copy_stage(x_part, groups, step + i, i);
      commit_copies();
    }
    // The stage `step` is there, and all have left the one before it.
    const auto begin_stage = [&] {
      wait_copies<kStages - 2>();
      sync_block();
      const int free_slot = slot == 0 ? kStages - 1 : slot - 1;
      if (step + kStages - 1 < end_step) copy_stage(x_part, groups, step + kStages - 1, free_slot);
      commit_copies();
    };
    const auto end_stage = [&] {
      ++step;
      slot = slot == kStages - 1 ? 0 : slot + 1;
    };

    const bool decodes_late = warp() >= kWarps / 2;
    for (int64_t b = first_block; b < end_block; ++b) {
      if (!decodes_late) begin_stage();
      uint32_t a[kFragments][4];
      if (b < layout.n_blocks) {
        Codes::decode(staged.words, staged.integer_scales, a);
        transform_tile(a, h, staged.scale);
        if (b + 1 < end_block && b + 1 < layout.n_blocks) load(tile, b + 1, staged);
      } else {
        load_tail(tile, a);
      }
      if (decodes_late) begin_stage();
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        if (half == 1) begin_stage();
        const uint8_t* const stage = shared() + static_cast<size_t>(slot) * kStageBytes;
        if (groups == kBlockTokens / 16)
          multiply<kBlockTokens / 16>(a, half * kFragments / 2, stage, groups, acc);
        else if (groups == 1)
          multiply<1>(a, half * kFragments / 2, stage, groups, acc);
        else
          multiply<0>(a, half * kFragments / 2, stage, groups, acc);
        end_stage();
      }
    }
    if (own_tile < layout.n_tiles) store(own_tile * kTileRows, first_token, acc);
  }

  HRUN_HD void store(int64_t first_row, int64_t first_token, const float (&acc)[kTiles][4]) const {
    float* const out = y + block_y() * split_stride;
    const auto* const row_scale = reinterpret_cast<const float*>(w);
    const int group = lane() / 4, quad = lane() % 4;
    const int64_t row[2] = {first_row + group, first_row + group + 8};
    const float scale[2] = {row_scale[row[0]], row_scale[row[1]]};
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int64_t token = first_token + 8 * n + 2 * quad + i % 2;
        if (token < n_tokens && row[i / 2] < rows)
          out[token * y_stride + row[i / 2]] = acc[n][i] * scale[i / 2] * token_scale[token];
      }
  }
};

// The parts of a product whose columns were split, in their order.
struct Join {
  static constexpr int kThreads = 256, kBlocks = 4;
  static constexpr const char* kName = "matmul_weight_domain: sums";
  const float* parts;
  int n_parts;
  int64_t rows, part_stride;
  float* y;
  int64_t y_stride;
  HRUN_HD void operator()() const {
    const int64_t token = block_y(), row = static_cast<int64_t>(block_x()) * kThreads + thread();
    if (row >= rows) return;
    float sum = 0;
    for (int p = 0; p < n_parts; ++p) sum += parts[p * part_stride + token * rows + row];
    y[token * y_stride + row] = sum;
  }
};

// The way a product is cut up.  Only the shape of the matrix decides it, so that its result is the
// same on every device, and a token's result does not depend on how many tokens there are.
struct Cut {
  int64_t stride, n_blocks, row_blocks, token_blocks, blocks_per_split, n_splits;
  static constexpr int64_t kEnoughBlocks = 128;  // of threads, to keep a large device busy
  Cut(int64_t rows, int64_t cols, int64_t n_tokens) {
    stride = round_up(cols, kTileCols);
    n_blocks = stride / kTileCols;
    row_blocks = (rows + kBlockRows - 1) / kBlockRows;
    token_blocks = (n_tokens + kBlockTokens - 1) / kBlockTokens;
    const int64_t unsplit = std::max<int64_t>(row_blocks, 1);
    const int64_t wanted = std::min((kEnoughBlocks + unsplit - 1) / unsplit, n_blocks);
    blocks_per_split = (n_blocks + wanted - 1) / wanted;
    n_splits = (n_blocks + blocks_per_split - 1) / blocks_per_split;
  }
  size_t x_bytes(int64_t n_tokens) const {
    return static_cast<size_t>(round_up(n_tokens, 16) * stride) * 2;
  }
  size_t scale_bytes(int64_t n_tokens) const {
    return static_cast<size_t>(round_up(n_tokens * 4, 256));
  }
  size_t part_bytes(int64_t rows, int64_t n_tokens) const {
    return n_splits > 1 ? static_cast<size_t>(n_splits * rows * n_tokens) * 4 : 0;
  }
};

template <class F>
void multiply(Gpu& gpu, const uint8_t* packed, int64_t rows, int64_t cols, FloatView x, FloatView y,
              void* scratch) {
  const Cut cut(rows, cols, x.rows);
  auto* const halves = static_cast<uint16_t*>(scratch);
  auto* const token_scale =
      reinterpret_cast<float*>(static_cast<uint8_t*>(scratch) + cut.x_bytes(x.rows));
  auto* const parts = reinterpret_cast<float*>(static_cast<uint8_t*>(scratch) +
                                               cut.x_bytes(x.rows) + cut.scale_bytes(x.rows));

  constexpr bool kSigned = F::kInputForm == InputForm::kRotatedSigned;
  gpu.launch(Halve<TileCodes<F>::kConsecutive>{x.data, x.stride, x.rows, cols, cut.stride, kSigned,
                                               halves, token_scale},
             Grid{static_cast<int>(round_up(x.rows, 16))}, 256 / kWarp * 4);

  Multiply<F> k{};
  k.w = packed;
  k.layout = TileLayout::of<F>(rows, cols);
  k.rows = rows;
  k.n_tokens = x.rows;
  k.x = halves;
  k.x_stride = cut.stride;
  k.token_scale = token_scale;
  k.token_blocks = static_cast<int>(cut.token_blocks);
  k.blocks_per_split = static_cast<int>(cut.blocks_per_split);
  k.n_blocks = cut.n_blocks;
  const bool split = cut.n_splits > 1;
  k.y = split ? parts : y.data;
  k.y_stride = split ? rows : y.stride;
  k.split_stride = split ? rows * x.rows : 0;
  gpu.launch(
      k, Grid{static_cast<int>(cut.row_blocks * cut.token_blocks), static_cast<int>(cut.n_splits)},
      Multiply<F>::kSharedBytes);
  if (split)
    gpu.launch(Join{parts, static_cast<int>(cut.n_splits), rows, k.split_stride, y.data, y.stride},
               Grid{static_cast<int>((rows + Join::kThreads - 1) / Join::kThreads),
                    static_cast<int>(x.rows)});
}

}  // namespace

size_t weight_domain_scratch_bytes(FormatId, int64_t rows, int64_t cols, int64_t n_tokens) {
  const Cut cut(rows, cols, n_tokens);
  return cut.x_bytes(n_tokens) + cut.scale_bytes(n_tokens) + cut.part_bytes(rows, n_tokens);
}

void matmul_weight_domain(Gpu& gpu, FormatId format, const uint8_t* packed, int64_t rows,
                          int64_t cols, FloatView x, FloatView y, void* scratch) {
  if (x.rows == 0) return;
  const bool known = TileFormats::visit(
      format, [&]<class F>() { multiply<F>(gpu, packed, rows, cols, x, y, scratch); });
  if (!known) throw ArgumentError("format id {} has no kernel in the weight domain", format);
}

}  // namespace hrun::gpu
