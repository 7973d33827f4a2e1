// Products with few tokens: weights pass once from memory to the tensor cores, as fast as memory
// gives them.
//
// A warp takes every kth chunk of a row tile (k: sum_slots()), loads one while it works on the one
// before, and keeps fp32 sums; the warps of a row tile are in one block of threads and add their
// sums in order. Where there are many row tiles a block goes on to the next, whose first chunks are
// under way when it comes there.  Where there are few, each has a block of its own, so that more
// multiprocessors work.  Activations come through tiles of shared memory of the warp's own, so that
// there is one barrier of the block per row tile.
//
// Where the device has bulk copies (kBulk), chunks come through a ring of shared memory of the
// warp's own: more bytes are under way, and no register waits for them.
//
// Up to 8 tokens each look-up table is a product of its own (rtq_decoder.h): the tensor cores are
// idle anyway.
#pragma once

#include <algorithm>

#include "cuda/device/activations.h"
#include "cuda/device/decoder.h"
#include "cuda/device/prepare.h"
#include "cuda/kernels/matmul.h"

namespace hrun::gpu {

template <class F, int kTokens, bool kSliced = false, bool kBulk = false>
struct MatmulStream {
  static constexpr int kWarps = 8;
  static constexpr int kThreads = kWarps * kWarp,
                       kBlocks = kTokens > 8 || Packed<F>::kLoads > 4 ? 1 : 2;
  static constexpr const char* kName = kSliced ? "matmul_stream, slices" : "matmul_stream";
  static constexpr bool kIsSliced = kSliced;
  static constexpr bool kWaits = true;  // for the kernels before: weights are loaded earlier
  static constexpr int kColumnTiles = kTokens / 8;  // of C fragments

  using Decoder = DecoderOf<F, (kColumnTiles > 1)>;
  using Chunk = typename Decoder::Chunk;
  using Tile = ActivationTile<Packed<F>::kTransposed, kTokens, kScalesPerChunk<F>>;
  static constexpr int kSums = kTokens * kTileRows;  // of a warp
  static constexpr int kSumsAt = kWarps * 2 * Tile::kBytes;
  static constexpr int kReadyAt = kSumsAt + 2 * kWarps * kSums * static_cast<int>(sizeof(float));
  static constexpr int kMostGroups = 16;  // of a block of threads
  static constexpr int kSmallBytes =
      kReadyAt + (kTokens > 8 || kSliced ? 0 : (1 + kMostGroups) * static_cast<int>(sizeof(int)));
  // The chunks of a warp that are under way while it works on another: 48 KiB of a multiprocessor.
  static constexpr int kRing = Packed<F>::kLoads < (kBlocks == 1 ? 5 : 3) ? 4 : 2;
  static constexpr int kRingAt = (kSmallBytes + 127) / 128 * 128,
                       kRingBytes = kRing * kChunkBytes<F>,  // of a warp
      kBarriersAt = kRingAt + kWarps * kRingBytes;
  static constexpr size_t kSharedBytes =
      kBulk ? kBarriersAt + kWarps * kRing * static_cast<int>(sizeof(uint64_t)) : kSmallBytes;

  struct Part {
    const uint8_t* weights;
    int64_t rows;
    float* y;
    int64_t y_stride;
    float* add;  // or null
    int64_t add_stride;
    int first_group;
    size_t slice_bytes;  // see PackedProduct
    int64_t slice_y;
  };
  Part parts[kPackedProducts];
  int n_parts;
  SlicePieces pieces;    // where sliced: a z of the grid is a piece of a part
  int chunks;            // per row tile
  int tiles_per_group;   // 1, 2, 4 or 8: row tiles that a block of threads works on at a time, its
                         // warps shared out among them; a warp may have no chunk
  int n_groups;          // of all parts
  int groups_per_block;  // of threads, one after the other
  QuantizedRows x;
  PrepareTask prepared;  // the end (MatmulEnd): with a norm, with a gate, or none, without x
  int* counters;

  HRUN_HD void operator()() const {
    if constexpr (kBulk && !kHasBulkCopies) {
      return;
    } else if constexpr (kTokens > 8 || kSliced) {
      multiply();
    } else {
      if (thread() == 0) *ready() = 0;
      multiply();
      if (prepared.norm) prepare_rows();
      if (prepared.gate) prepare_columns();
    }
  }

  // The part and the piece of this block, where sliced.
  HRUN_HD SlicePiece piece() const { return pieces.at(block_z() / n_parts, kTokens); }

  HRUN_HD void multiply() const {
    const int slot = warp() / tiles_per_group, slots = kWarps / tiles_per_group;
    const int64_t first_token = static_cast<int64_t>(block_y()) * kTokens;
    const int rest =
        static_cast<int>(x.n_tokens - first_token < kTokens ? x.n_tokens - first_token : kTokens);
    SlicePiece own{};
    if constexpr (kSliced) {
      wait_for_kernels();  // one of them made the runs
      own = piece();
      if (own.n == 0) return;
    }
    const int n_tokens = kSliced ? own.n : rest;
    int group = block_x() * groups_per_block;
    const int end = group + groups_per_block < n_groups ? group + groups_per_block : n_groups;
    float sums[1][kColumnTiles][4] = {};
    if (slot >= chunks) {
      if constexpr (!kSliced) wait_for_kernels();
      for (; group < end; ++group) finish(group, first_token, n_tokens, sums);
      return;
    }

    const typename Decoder::Constants constants;
    const uint8_t* next = first_chunk(group, slot);  // of weights to load
    int next_group = group, next_chunk = slot;
    const auto step = [&] {
      next += slots * kChunkBytes<F>;
      next_chunk += slots;
      if (next_chunk < chunks) return;
      next_chunk = slot;
      if (++next_group < end) next = first_chunk(next_group, slot);
    };
    Tile activations(x, kSliced ? own.input_row : first_token, n_tokens);
    int c = slot;
    const auto take_activations = [&](uint8_t* x_tile) {
      activations.store(x_tile);
      sync_warp();
      c = c + slots < chunks ? c + slots : slot;
      activations.load(c);
    };
    const auto multiply_one = [&](const Chunk(&chunk)[1], const uint8_t* x_tile) {
      multiply_chunks<F, Decoder>(constants, chunk, typename Tile::View{x_tile}, sums);
    };
    const auto end_of_chunk = [&] {
      if (c != slot) return;
      finish(group, first_token, n_tokens, sums);
      ++group;
    };
    uint8_t* const memory = shared() + warp() * 2 * Tile::kBytes;
    if constexpr (kBulk) {
      uint8_t* const ring = shared() + kRingAt + warp() * kRingBytes;
      auto* const barriers = reinterpret_cast<uint64_t*>(shared() + kBarriersAt) + warp() * kRing;
      const auto begin = [&](int place) {
        if (next_group >= end) return;
        if (is_elected())
          copy_bulk(ring + place * kChunkBytes<F>, next, kChunkBytes<F>, barriers + place);
        step();
      };
      if (lane() == 0)
        for (int i = 0; i < kRing; ++i) make_bulk_barrier(barriers + i);
      sync_warp();
      for (int i = 0; i < kRing; ++i) begin(i);
      if constexpr (!kSliced) wait_for_kernels();
      activations.load(slot);
      for (int phase = 0; group < end; phase ^= 1) {
#pragma unroll
        for (int place = 0; place < kRing; ++place) {
          if (place > 0 && group >= end) break;
          uint8_t* const x_tile = memory + place % 2 * Tile::kBytes;
          take_activations(x_tile);
          wait_bulk(barriers + place, phase);
          Chunk chunk[1];
          chunk[0].load(ring + place * kChunkBytes<F>,
                        [](const uint8_t* p) { return *reinterpret_cast<const Words4*>(p); });
          sync_warp();
          begin(place);
          multiply_one(chunk, x_tile);
          end_of_chunk();
        }
      }
    } else {
      Chunk w[2][1];
      const auto load = [&](Chunk(&chunk)[1]) {
        if (next_group >= end) return;
        chunk[0].load(
            next, [](const uint8_t* p) { return load_once(reinterpret_cast<const Words4*>(p)); });
        step();
      };
      const auto work = [&](Chunk(&chunk)[1], uint8_t* x_tile) {
        take_activations(x_tile);
        multiply_one(chunk, x_tile);
        load(chunk);
        end_of_chunk();
      };
      load(w[0]);
      load(w[1]);
      if constexpr (!kSliced) wait_for_kernels();
      activations.load(slot);
      while (group < end) {
        work(w[0], memory);
        if (group < end) work(w[1], memory + Tile::kBytes);
      }
    }
  }

  HRUN_HD Part part_of(int group) const {
    if constexpr (kSliced) {
      Part part = parts[block_z() % n_parts];
      const SlicePiece own = piece();
      part.weights += static_cast<size_t>(own.slice) * part.slice_bytes;
      part.y += own.slice * part.slice_y + own.row * part.y_stride;
      return part;
    }
    Part part = parts[0];
#pragma unroll
    for (int i = 1; i < static_cast<int>(kPackedProducts); ++i)
      if (i < n_parts && group >= parts[i].first_group) part = parts[i];
    return part;
  }

  // The first chunk of this warp in a group.  Where there is no row tile for the warp, the chunk of
  // another row tile is taken.
  HRUN_HD const uint8_t* first_chunk(int group, int slot) const {
    const Part part = part_of(group);
    const int64_t tile =
        static_cast<int64_t>(group - part.first_group) * tiles_per_group + warp() % tiles_per_group;
    const int64_t last = (part.rows - 1) / kTileRows;
    return part.weights + ((tile < last ? tile : last) * chunks + slot) * kChunkBytes<F>;
  }

  // Adds and stores the sums of the group's warps, and makes them zero.  Groups use two places in
  // turn, so that one barrier stands between the writes to one place and the reads from it.
  HRUN_HD void finish(int group, int64_t first_token, int n_tokens,
                      float (&sums)[1][kColumnTiles][4]) const {
    auto* const place = reinterpret_cast<float*>(shared() + kSumsAt) +
                        group % 2 * kWarps * kSums;  // [warp][token][row]
#pragma unroll
    for (int n = 0; n < kColumnTiles; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int row = lane() / 4 + 8 * (i / 2), token = 8 * n + 2 * (lane() % 4) + i % 2;
        place[warp() * kSums + token * kTileRows + row] = sums[0][n][i];
        sums[0][n][i] = 0;
      }
    sync_block();
    const Part part = part_of(group);
    for (int at = thread(); at < n_tokens * kTileRows * tiles_per_group; at += kThreads) {
      const int t = at / kTileRows % tiles_per_group, token = at / kTileRows / tiles_per_group;
      const int64_t row =
          (static_cast<int64_t>(group - part.first_group) * tiles_per_group + t) * kTileRows +
          at % kTileRows;
      if (row >= part.rows) continue;
      float sum = 0;
      for (int w = t; w < kWarps; w += tiles_per_group)
        sum += place[w * kSums + token * kTileRows + at % kTileRows];
      part.y[(first_token + token) * part.y_stride + row] = sum;
      if (part.add) {
        float& to = part.add[(first_token + token) * part.add_stride + row];
        to = to + sum;
      }
    }
    if constexpr (kTokens <= 8 && !kSliced)
      if (prepared.gate && warp() == 0) count_columns(group, part);
  }

  // The 256s of columns that are there since this block stored its row tiles: how many there are,
  // and which ones.
  HRUN_HD static int* ready() { return reinterpret_cast<int*>(shared() + kReadyAt); }

  // The warp that has stored this row tile of one of two products calls this.
  HRUN_HD void count_columns(int group, const Part& part) const {
    fence();
    sync_warp();
    if (lane() != 0) return;
    const int per_chunk = kChunkColumns / kTileRows / tiles_per_group;
    const int groups = parts[1].first_group;  // of each
    const int chunk = (group - part.first_group) / per_chunk, left = groups - chunk * per_chunk;
    if (count_up(counters + chunk) + 1 != 2 * (left < per_chunk ? left : per_chunk)) return;
    counters[chunk] = 0;
    ready()[++*ready()] = chunk;
  }
  HRUN_HD void prepare_columns() const {
    sync_block();
    fence();
    const PrepareRow<false, true> row{prepared};
    for (int i = warp(); i < *ready(); i += kWarps)
      for (int64_t token = 0; token < x.n_tokens; ++token)
        row.block(token, static_cast<int64_t>(ready()[1 + i]) * kChunkColumns, 1);
  }

  // The block of threads that ends last does this.
  HRUN_HD void prepare_rows() const {
    auto* const sums = reinterpret_cast<float*>(shared() + kSumsAt);
    auto* const last = reinterpret_cast<int*>(sums + kNormWarps);
    fence();
    sync_block();
    if (thread() == 0) *last = count_up(counters) + 1 == grid_x();
    sync_block();
    if (!*last) return;
    fence();
    if (thread() == 0) *counters = 0;
    const PrepareRow<true, true> row{prepared};
    for (int64_t token = 0; token < x.n_tokens; ++token) row.template row<kWarps>(token, sums);
  }
};

// The number of groups per block of threads: as many as keep the multiprocessors equally busy, if
// there are enough for two blocks on each.  A block's start counts as half a group.
inline int groups_per_block(int64_t n_groups, int multiprocessors, int most) {
  const int64_t n = multiprocessors > 0 ? multiprocessors : 1;
  int64_t best = 1, best_cost = 0;
  for (int64_t r = 1; r <= most; ++r) {
    const int64_t blocks = (n_groups + r - 1) / r, cost = (blocks + n - 1) / n * (2 * r + 1);
    if (r > 1 && (blocks < 2 * n || cost >= best_cost)) continue;
    best = r, best_cost = cost;
  }
  return static_cast<int>(best);
}

// The way row tiles are shared out among blocks of threads.  It changes no bit.
struct StreamPlan {
  int tiles_per_group, n_groups, groups_per_block;
  int first_group[kPackedProducts];
  int blocks() const { return (n_groups + groups_per_block - 1) / groups_per_block; }
};

// rows: of each matrix.  pieces: where they are sliced, how many there are; else 0, and the
// matrices follow one another.  most_tiles: of a group.
inline StreamPlan plan_stream(std::span<const int64_t> rows, int64_t chunks, int64_t pieces,
                              int most_tiles, int multiprocessors, int most_groups) {
  StreamPlan plan{};
  const auto share_out = [&](int tiles) {
    plan.tiles_per_group = tiles, plan.n_groups = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      const int64_t rows_per_group = int64_t{kTileRows} * tiles;
      const auto groups = static_cast<int>((rows[i] + rows_per_group - 1) / rows_per_group);
      plan.first_group[i] = pieces > 0 ? 0 : plan.n_groups;
      plan.n_groups = pieces > 0 ? std::max(groups, plan.n_groups) : plan.n_groups + groups;
    }
    return plan.n_groups * (pieces > 0 ? pieces * static_cast<int64_t>(rows.size()) : 1);
  };
  int tiles = std::min(most_row_tiles(chunks), most_tiles);
  while (share_out(tiles) < multiprocessors && tiles > 1) tiles /= 2;
  plan.groups_per_block = groups_per_block(plan.n_groups, multiprocessors, most_groups);
  return plan;
}

// Fills in all but x and the pieces, of which there are so many (0: it is not sliced).
template <class Kernel, class F>
Kernel stream_kernel(Gpu& gpu, std::span<const PackedProduct> parts, int64_t cols, int64_t pieces,
                     int most_tiles) {
  Kernel k{};
  k.n_parts = static_cast<int>(parts.size());
  k.chunks = static_cast<int>(n_chunks<F>(cols));
  int64_t rows[kPackedProducts];
  for (size_t i = 0; i < parts.size(); ++i) rows[i] = parts[i].w.rows;
  const StreamPlan plan = plan_stream({rows, parts.size()}, k.chunks, pieces, most_tiles,
                                      gpu.info().multiprocessors, Kernel::kMostGroups);
  k.tiles_per_group = plan.tiles_per_group;
  k.n_groups = plan.n_groups;
  k.groups_per_block = plan.groups_per_block;
  for (size_t i = 0; i < parts.size(); ++i) {
    const PackedProduct& part = parts[i];
    k.parts[i] = {part.w.data,         part.w.rows,      part.y.data,
                  part.y.stride,       part.add.data,    part.add.stride,
                  plan.first_group[i], part.slice_bytes, part.slice_y};
  }
  return k;
}

template <class F, int kTokens, bool kBulk>
void launch_stream(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                   const MatmulEnd* end) {
  using Kernel = MatmulStream<F, kTokens, false, kBulk>;
  const int most_tiles = end && end->from.gate ? most_gated_tiles(x.n_tokens) : Kernel::kWarps;
  auto k = stream_kernel<Kernel, F>(gpu, parts, x.cols, 0, most_tiles);
  k.x = x;
  if (end) {
    k.prepared = prepare_task(end->from, end->kind, end->to, {});
    k.counters = end->counters;
  }
  const int blocks = (k.n_groups + k.groups_per_block - 1) / k.groups_per_block;
  gpu.launch(k, Grid{blocks, static_cast<int>((x.n_tokens + kTokens - 1) / kTokens)},
             Kernel::kSharedBytes);
}

template <class F, int kTokens, bool kBulk>
void launch_stream_slices(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                          const SliceTask& task) {
  using Kernel = MatmulStream<F, kTokens, true, kBulk>;
  const SlicePieces pieces = few_pieces(task);
  const int n = n_pieces(pieces, task.n_few_runs, kTokens);
  auto k = stream_kernel<Kernel, F>(gpu, parts, x.cols, n, Kernel::kWarps);
  k.x = x;
  k.pieces = pieces;
  const int blocks = (k.n_groups + k.groups_per_block - 1) / k.groups_per_block;
  gpu.launch(k, Grid{blocks, 1, n * k.n_parts}, Kernel::kSharedBytes);
}

// Says whether the device has bulk copies, and room for their rings.
template <class F, int kTokens, bool kSliced>
bool can_copy_in_bulk(const Gpu& gpu) {
  using Kernel = MatmulStream<F, kTokens, kSliced, true>;
  return gpu.info().bulk_copies &&
         gpu.info().block_shared_bytes >= Kernel::kBlocks * Kernel::kSharedBytes;
}
template <class F, int kTokens>
void launch_few(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                const MatmulEnd* end) {
  can_copy_in_bulk<F, kTokens, false>(gpu) ? launch_stream<F, kTokens, true>(gpu, parts, x, end)
                                           : launch_stream<F, kTokens, false>(gpu, parts, x, end);
}
template <class F, int kTokens>
void launch_few_slices(Gpu& gpu, std::span<const PackedProduct> parts, const QuantizedRows& x,
                       const SliceTask& task) {
  can_copy_in_bulk<F, kTokens, true>(gpu)
      ? launch_stream_slices<F, kTokens, true>(gpu, parts, x, task)
      : launch_stream_slices<F, kTokens, false>(gpu, parts, x, task);
}

}  // namespace hrun::gpu
