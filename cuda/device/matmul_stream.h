// Products with few tokens: weights pass once from memory to the tensor cores, as fast as memory gives them.
//
// A warp takes every kth chunk of a row tile, loads one while it works on the one before, and keeps fp32 sums; the warps of
// a row tile are in one block of threads and add their sums in order.  Activations come through a tile of shared memory of
// the warp's own, so that the only barriers are the warp's.
//
// Up to 8 tokens each look-up table is a product of its own (rtq_decoder.h): the tensor cores are idle anyway.
#pragma once

#include "cuda/device/activations.h"
#include "cuda/device/decoder.h"
#include "cuda/kernels/matmul.h"

namespace hrun::gpu {

template <class F, int kTokens>
struct MatmulStream {
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarp, kBlocks = kTokens > 8 || Packed<F>::kLoads > 4 ? 1 : 2;
  static constexpr const char* kName = "matmul_stream";
  static constexpr int kColumnTiles = kTokens / 8;  // of C fragments

  using Decoder = DecoderOf<F, (kColumnTiles > 1)>;
  using Chunk = typename Decoder::Chunk;
  using Tile = ActivationTile<Packed<F>::kTransposed, kTokens, kScalesPerChunk<F>>;
  static constexpr size_t kSharedBytes = kWarps * 2 * Tile::kBytes;
  static_assert(Tile::kBytes >= kTokens * kTileRows * 4, "the sums of a warp take the place of its tiles");

  struct Part {
    const uint8_t* weights;
    int64_t rows;
    float* y;
    int64_t y_stride;
    int first_block;  // of threads
  };
  Part parts[kPackedProducts];
  int n_parts;
  int chunks;           // per row tile
  int tiles_per_block;  // 1, 2, 4 or 8: row tiles of a block of threads, the warps shared out among them
  QuantizedRows x;

  HRUN_HD void operator()() const {
    Part part = parts[0];
#pragma unroll
    for (int i = 1; i < static_cast<int>(kPackedProducts); ++i)
      if (i < n_parts && block_x() >= parts[i].first_block) part = parts[i];
    const int64_t first_tile = static_cast<int64_t>(block_x() - part.first_block) * tiles_per_block;
    const int64_t tile = first_tile + warp() % tiles_per_block;
    const int slot = warp() / tiles_per_block, slots = kWarps / tiles_per_block;
    const int64_t first_token = static_cast<int64_t>(block_y()) * kTokens;
    const int n_tokens = x.n_tokens - first_token < kTokens ? static_cast<int>(x.n_tokens - first_token) : kTokens;
    uint8_t* const memory = shared() + warp() * 2 * Tile::kBytes;

    float sums[1][kColumnTiles][4] = {};
    if (tile * kTileRows < part.rows) add_chunks(part.weights + tile * chunks * kChunkBytes<F>, slot, slots, first_token, n_tokens, memory, sums);

    // The sums of slot s for row tile t: [token][row] in the memory of warp s * tiles_per_block + t.
    sync_warp();
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = lane() / 4 + 8 * (i / 2), token = 8 * n + 2 * (lane() % 4) + i % 2;
        reinterpret_cast<float*>(memory)[token * kTileRows + row] = sums[0][n][i];
      }
    sync_block();
    for (int at = thread(); at < n_tokens * kTileRows * tiles_per_block; at += kThreads) {
      const int t = at / kTileRows % tiles_per_block, token = at / kTileRows / tiles_per_block;
      const int64_t row = (first_tile + t) * kTileRows + at % kTileRows;
      if (row >= part.rows) continue;
      float sum = 0;
      for (int s = 0; s < slots; ++s)
        sum += reinterpret_cast<const float*>(shared() + (s * tiles_per_block + t) * 2 * Tile::kBytes)[token * kTileRows + at % kTileRows];
      part.y[(first_token + token) * part.y_stride + row] = sum;
    }
  }

  HRUN_HD void add_chunks(const uint8_t* row_tile, int slot, int slots, int64_t first_token, int n_tokens, uint8_t* memory,
                          float (&sums)[1][kColumnTiles][4]) const {
    const uint8_t* next = row_tile + static_cast<int64_t>(slot) * kChunkBytes<F>;
    const int64_t step = static_cast<int64_t>(slots) * kChunkBytes<F>;
    const typename Decoder::Constants constants;
    Chunk w[2][1];
    Tile activations(x, first_token, n_tokens, slot);
    const auto load = [&](Chunk (&chunk)[1], int c) {
      if (c < chunks) chunk[0].load(next, [](const uint8_t* p) { return load_once(reinterpret_cast<const Words4*>(p)); });
      next += step;
    };
    const auto work = [&](Chunk (&chunk)[1], int c, uint8_t* x_tile) {
      activations.store(x_tile);
      sync_warp();
      if (c + slots < chunks) activations.load(c + slots, slots);
      multiply_chunks<F, Decoder>(constants, chunk, typename Tile::View{x_tile}, sums);
      load(chunk, c + 2 * slots);
    };
    load(w[0], slot);
    load(w[1], slot + slots);
    if (slot < chunks) activations.load(slot, slots);
    for (int c = slot; c < chunks; c += 2 * slots) {
      work(w[0], c, memory);
      if (c + slots < chunks) work(w[1], c + slots, memory + Tile::kBytes);
    }
  }
};

template <class F, int kTokens>
void launch_stream(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x) {
  using Kernel = MatmulStream<F, kTokens>;
  Kernel k{};
  k.n_parts = static_cast<int>(parts.size());
  k.chunks = static_cast<int>(n_chunks<F>(x.cols));
  k.x = x;
  int64_t tiles = 0;
  for (const PackedProduct& part : parts) tiles += (part.w.rows + kTileRows - 1) / kTileRows;
  // Row tiles that share a block of threads share activations in L1; warps without a chunk are of no use.
  k.tiles_per_block = x.n_tokens > 8 ? 4 : x.n_tokens > 4 ? 2 : 1;
  while (k.tiles_per_block > 1 && tiles / k.tiles_per_block < 2 * gpu.info().multiprocessors) k.tiles_per_block /= 2;
  while (Kernel::kWarps / k.tiles_per_block > k.chunks && k.tiles_per_block < Kernel::kWarps) k.tiles_per_block *= 2;
  int64_t blocks = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    const PackedProduct& part = parts[i];
    k.parts[i] = {part.w.data, part.w.rows, part.y.data, part.y.stride, static_cast<int>(blocks)};
    const int64_t rows_per_block = kTileRows * k.tiles_per_block;
    blocks += (part.w.rows + rows_per_block - 1) / rows_per_block;
  }
  gpu.launch(k, Grid{static_cast<int>(blocks), static_cast<int>((x.n_tokens + kTokens - 1) / kTokens)}, Kernel::kSharedBytes);
}

}  // namespace hrun::gpu
