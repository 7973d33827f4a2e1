// Products with many tokens where the device has products of warpgroups (warpgroup.h).
//
// Activations come through a ring of three stages in shared memory by asynchronous copies, from
// where the tensor cores read them.  Each warp has a row tile, whose chunks come through a ring of
// its own by bulk copies and are decoded once, for all tokens of the block.
//
// One barrier of the block stands in the work on 256 columns: behind it all have left the stage
// that is filled next.
#pragma once

#include "cuda/device/tile_of_products.h"
#include "cuda/device/warpgroup_chunks.h"

namespace hrun::gpu {

template <class F, bool kSliced = false>
struct MatmulWarpgroups : TileOfProducts<F, kSliced, true> {
  using Base = TileOfProducts<F, kSliced, true>;
  using Base::kColumnTiles, Base::kTiles, Base::kTokens, Base::kThreads, Base::kStageBytes,
      Base::kStages;
  using Base::rows, Base::chunks, Base::x, Base::own;
  using typename Base::Chunk, typename Base::Decoder, typename Base::Own, typename Base::Scales;
  static constexpr const char* kName = kSliced ? "matmul_warpgroups, slices" : "matmul_warpgroups";
  static constexpr int kBarriersAt = Base::kOwnAt + static_cast<int>(sizeof(Own));
  static constexpr size_t kSharedBytes = kBarriersAt + kTiles * kStages * sizeof(uint64_t);
  static_assert(kSharedBytes <= 227 * 1024, "what a block of threads may have");

  struct View : Base::StageView {
    static constexpr int kPanelBytes = kTokens * 128;  // 128 columns of all tokens
    HRUN_HD ProductColumns columns(int s) const {
      return product_columns(this->stage + s / 4 * kPanelBytes).at(s % 4 * 32);
    }
    HRUN_HD Words4 sums_of_groups(int token) const {
      return *reinterpret_cast<const Words4*>(this->stage + Base::kGroupSumsAt + 16 * token);
    }
  };

  // A thread's share of the activations: two pieces of sixteen columns, 128 columns apart, of every
  // 32nd token.  In place of a token that does not exist another is taken, for columns of products
  // that are never read.
  struct Copies {
    static constexpr int kStep = kThreads / 8;  // tokens
    static constexpr int kOfThread = kTokens / kStep;
    const int8_t* from;
    int row[kOfThread];  // bytes from there on
    int to;

    HRUN_HD Copies(const QuantizedRows& x, int64_t first_row, int64_t n_tokens) {
      const int token = thread() / 8, piece = thread() % 8;
      from = ordered_codes<Packed<F>::kTransposed>(x) + first_row * x.stride + 16 * piece;
      to = swizzled_piece(token, piece);
#pragma unroll
      for (int i = 0; i < kOfThread; ++i) {
        const int64_t t = token + kStep * i;
        row[i] = static_cast<int>((t < n_tokens ? t : n_tokens - 1) * x.stride);
      }
    }
    HRUN_HD void begin(uint8_t* stage, int c) const {
      const int8_t* const chunk = from + static_cast<int64_t>(c) * kChunkColumns;
#pragma unroll
      for (int i = 0; i < kOfThread; ++i)
#pragma unroll
        for (int panel = 0; panel < 2; ++panel)
          copy_async(stage + to + kStep * i * 128 + panel * View::kPanelBytes,
                     chunk + row[i] + panel * 128);
    }
  };

  // Goes through the chunks in the order of their slots.
  struct Walk {
    int slots, chunks;
    int slot, c;
    HRUN_HD bool slot_ends() const { return c + slots >= chunks; }
    HRUN_HD bool is_over() const { return slot == slots; }
    HRUN_HD void step() {
      c += slots;
      if (c >= chunks) c = ++slot;
    }
  };

  HRUN_HD void operator()() const {
    if constexpr (kHasWarpgroups) multiply();
  }

  HRUN_HD void multiply() const {
    if constexpr (kSliced)
      if (!this->find_own()) return;
    const int64_t first_tile = static_cast<int64_t>(block_x()) * kTiles,
                  first_token = static_cast<int64_t>(block_y()) * kTokens;
    const Own mine = own();
    const typename Decoder::Constants constants;
    float sums[1][kColumnTiles][4] = {};

    // Where there is no row tile for the warp, the last one is taken.
    const int64_t last_tile = (rows - 1) / kTileRows, tile = first_tile + warp();
    const uint8_t* const own_weights =
        mine.weights + (tile < last_tile ? tile : last_tile) * chunks * kChunkBytes<F>;
    auto* const barriers = reinterpret_cast<uint64_t*>(shared() + kBarriersAt) + warp() * kStages;
    if (lane() == 0)
      for (int i = 0; i < kStages; ++i) make_bulk_barrier(barriers + i);
    sync_warp();
    const auto chunk_in = [&](uint8_t* stage) {
      return stage + Base::kChunksAt + warp() * kChunkBytes<F>;
    };
    const Copies copies(x, mine.input_row + first_token, mine.n_tokens - first_token);
    Walk now{sum_slots(chunks), chunks, 0, 0}, to_copy = now;
    const auto begin = [&](int place) {
      if (!to_copy.is_over()) {
        uint8_t* const stage = shared() + place * kStageBytes;
        copies.begin(stage, to_copy.c);
        if (is_elected())
          copy_bulk(chunk_in(stage), own_weights + static_cast<int64_t>(to_copy.c) * kChunkBytes<F>,
                    kChunkBytes<F>, barriers + place);
        to_copy.step();
      }
      commit_copies();
    };
    for (int i = 0; i < kStages - 1; ++i) begin(i);
    Scales scales = this->load_scales(first_token, 0);
    int place = 0, phase = 0;
    while (!now.is_over()) {
      uint8_t* const stage = shared() + place * kStageBytes;
      this->store_scales(stage, scales);
      wait_copies<kStages - 2>();
      show_to_products();
      sync_block();
      begin(place == 0 ? kStages - 1 : place - 1);
      const bool slot_ends = now.slot_ends(), first_slot = now.slot == 0;
      now.step();
      if (!now.is_over()) scales = this->load_scales(first_token, now.c);
      wait_bulk(barriers + place, phase);
      Chunk chunk;
      chunk.load(chunk_in(stage),
                 [](const uint8_t* p) { return *reinterpret_cast<const Words4*>(p); });
      multiply_by_warpgroup<F, Decoder>(constants, chunk, View{{stage, 0}}, sums[0]);
      if (slot_ends) this->add_slot(first_slot, first_tile, first_token, 0, warp(), sums);
      if (++place == kStages) place = 0, phase ^= 1;
    }
  }
};

}  // namespace hrun::gpu
