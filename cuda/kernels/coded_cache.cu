// Keys and values become codes: the values that block 0 of a sequence decides, and the full pages.
#include "cuda/kernels/coded_cache.h"

#include <algorithm>

#include "base/error.h"
#include "cuda/device/attention_coded.h"
#include "cuda/device/cache_encode.h"

namespace hrun::gpu {
namespace {

// A block of threads has a head of a span that begins a sequence: squares of its queries, and when
// the page is full the mean of keys, the balance and the exact positions
// (cpp/cpu/backend/coded_cache.cpp, in its order).
struct BeginSequences {
  static constexpr int kThreads = 128, kBlocks = 1;
  static constexpr const char* kName = "the beginning of coded keys";
  CodedPlace place;
  BatchOnDevice batch;
  TurnOfKeys turn;
  FloatView q;  // heads of k_dim
  int group;    // of a kv head; 0: queries are not known
  KeyTables tables;

  HRUN_HD void operator()() const {
    const SpanOnDevice span = batch.spans[block_x()];
    const int head = block_y(), left = kBlockPositions - span.first_position;
    if (left <= 0) return;
    const int32_t page = batch.pages(block_x())[0];
    const int dim = place.cache.k_dim, n_rows = span.n_rows < left ? span.n_rows : left;
    float* const squares = place.squares(page, head);
    for (int at = thread(); at < n_rows * dim; at += kThreads) {
      const int row = at / dim, i = at % dim;
      float sum = group > 0 ? 0.0f : 1.0f;
      for (int h = head * group; h < (head + 1) * group; ++h) {
        const float x = q.row(span.first_row + row)[static_cast<int64_t>(h) * dim + i];
        sum += x * x;
      }
      squares[(span.first_position + row) * dim + i] = sum;
    }
    if (n_rows < left) return;
    sync_block();
    decide(page, head, squares);
  }

  HRUN_HD void decide(int32_t page, int head, const float* squares) const {
    const KVPages& cache = place.cache;
    const int dim = cache.k_dim;
    const uint8_t* const keys = place.key_rows(page, head);
    const BeginningOfKeys to = place.beginning(page, head);
    auto* const sums = reinterpret_cast<float*>(shared());  // mean, k^2, q^2 of pairs or alone
    float *const k2 = sums + dim, *const q2 = k2 + dim;
    constexpr float kCount = kBlockPositions - kExactPositions;
    const auto key = [&](int p, int i) { return plain_value(keys, cache.k_type, p * dim + i); };
    for (int i = thread(); i < dim; i += kThreads) {
      float sum = 0;
      if (!turn.turns(i)) {
        for (int p = kExactPositions; p < kBlockPositions; ++p) sum += key(p, i);
        sums[i] = sum / kCount;
      } else {
        const TurnOfKeys::Pair pair = turn.pair_of(i);
        const int half = turn.n_rot / 2;
        for (int p = kExactPositions; p < kBlockPositions; ++p) {
          const float c = turn.cos[p * half + pair.number], s = turn.sin[p * half + pair.number],
                      x = key(p, i), y = key(p, pair.other);
          sum += pair.is_first ? c * x + s * y : c * x - s * y;
        }
        const float stretch = turn.cos[pair.number] * turn.cos[pair.number];
        sums[i] = sum / kCount / stretch;  // the table may stretch what it turns
      }
      if (tables.mean) sums[i] = tables.mean[head * dim + i];
      to.mean[i] = sums[i];
    }
    for (int i = thread(); i < kExactPositions * dim; i += kThreads)
      copy_plain(cache.k_type, keys, to.exact_keys, i);
    const uint8_t* const values = place.value_rows(page, head);
    for (int i = thread(); i < kExactPositions * cache.v_dim; i += kThreads)
      copy_plain(cache.v_type, values, to.exact_values, i);
    sync_block();
    for (int i = thread(); i < dim; i += kThreads) {
      const float centre = turn.centre(sums, 0, i);
      float k_sum = 0, q_sum = 0;
      for (int p = kExactPositions; p < kBlockPositions; ++p) {
        const float x = key(p, i) - centre;
        k_sum += x * x;
        q_sum += squares[p * dim + i];
      }
      k2[i] = k_sum, q2[i] = q_sum;
    }
    sync_block();
    const auto of_pair = [&](const float* of, int i) {
      return turn.turns(i) ? (of[i] + of[turn.pair_of(i).other]) / 2 : of[i];
    };
    float k_mean = 0, q_mean = 0;
    for (int i = 0; i < dim; ++i) k_mean += of_pair(k2, i), q_mean += of_pair(q2, i);
    k_mean /= static_cast<float>(dim), q_mean /= static_cast<float>(dim);
    constexpr float kLeast = 0.01f;  // of the mean
    for (int i = thread(); i < dim; i += kThreads) {
      const float ratio = (of_pair(q2, i) + kLeast * q_mean) / (of_pair(k2, i) + kLeast * k_mean);
      const float root = square_root(square_root(ratio));
      const float found = group > 0 && root > 1e-6f && root < 1e6f ? root : 1.0f;
      to.balance[i] = tables.balance ? tables.balance[head * dim + i] : found;
    }
  }
  static HRUN_HD void copy_plain(CacheType type, const uint8_t* from, uint8_t* to, int i) {
    if (type == CacheType::f32)
      reinterpret_cast<uint32_t*>(to)[i] = reinterpret_cast<const uint32_t*>(from)[i];
    else
      reinterpret_cast<uint16_t*>(to)[i] = reinterpret_cast<const uint16_t*>(from)[i];
  }
};

// A warp has some positions of the keys or values of a head in a page that is full now, one
// position to a thread.  A thread needs no other.
struct CodePages {
  static constexpr int kThreads = kWarp, kBlocks = 1;
  static constexpr const char* kName = "keys and values become codes";
  CodedPlace place;
  BatchOnDevice batch;
  TurnOfKeys turn;
  CacheLevelBytes k_levels, v_levels;
  int n_positions;  // of a block of threads, at most a warp's

  static int positions_at_once(int dim) { return dim <= 256 ? kWarp : kWarp / 2; }
  static size_t shared_bytes(int dim) {
    return sizeof(CacheLevelBytes) + static_cast<size_t>(dim) * sizeof(float) *
                                         static_cast<size_t>(1 + 2 * positions_at_once(dim));
  }

  // Grid: x over pages; y over kv heads, keys and values, positions.
  HRUN_HD void operator()() const {
    const auto completed = [](const SpanOnDevice& span) {
      return (span.first_position + span.n_rows) / kBlockPositions -
             span.first_position / kBlockPositions;
    };
    const SpanItem item = find_item(batch, block_x(), completed);
    if (item.span < 0) return;
    const KVPages& cache = place.cache;
    const int n_parts = kBlockPositions / n_positions, first = block_y() % n_parts * n_positions,
              head = block_y() / n_parts % cache.n_kv_heads;
    const bool keys = block_y() / n_parts < cache.n_kv_heads;
    const CacheType type = keys ? cache.k_type : cache.v_type;
    const int row_dim = keys ? cache.k_dim : cache.v_dim;
    const int number = batch.spans[item.span].first_position / kBlockPositions + item.item;
    const int32_t* const pages = batch.pages(item.span);
    const uint8_t* const rows =
        keys ? place.key_rows(pages[number], head) : place.value_rows(pages[number], head);
    uint8_t* const to =
        keys ? place.key_block(pages[number], head) : place.value_block(pages[number], head);
    if (!is_coded(type)) {
      const int64_t at = plain_bytes(type, first * row_dim),
                    n = plain_bytes(type, n_positions * row_dim);
      for (int64_t i = lane() * 4; i < n; i += kWarp * 4)
        *reinterpret_cast<uint32_t*>(to + at + i) =
            *reinterpret_cast<const uint32_t*>(rows + at + i);
      return;
    }
    const int dim = keys ? cache.k_coded() : cache.v_dim;
    auto* const table = reinterpret_cast<int8_t*>(shared());
    auto* const centre = reinterpret_cast<float*>(table + sizeof(CacheLevelBytes));
    float* const z = centre + dim;
    const CacheLevelBytes& levels = keys ? k_levels : v_levels;
    table[lane()] = levels.v[lane()];
    table[lane() + kWarp] = levels.v[lane() + kWarp];
    const BeginningOfKeys beginning = place.beginning(pages[0], head);
    if (keys)
      for (int i = lane(); i < dim; i += kWarp) centre[i] = turn.centre(beginning.mean, number, i);
    sync_warp();
    if (lane() >= n_positions) return;
    const int position = first + lane();
    float* const column = z + lane();
    for (int i = 0; i < dim; ++i) {
      const float x = plain_value(rows, type, position * row_dim + i);
      column[i * n_positions] = keys ? (x - centre[i]) * beginning.balance[i] : x;
    }
    rotate_column(column, n_positions, dim);
    const CodedBlock shape{type, dim};
    CodeWriter writer(to, shape, position);
    const CodeColumn of{column, reinterpret_cast<uint32_t*>(z + dim * n_positions) + lane(),
                        n_positions, dim, table};
    uint16_t scale = 0;
    switch (type) {
      case CacheType::rtq8:
        scale = code_bytes(of, writer);
        break;
      case CacheType::rtq5:
        scale = code_trellis<5>(of, keys, writer);
        break;
      case CacheType::rtq4:
        scale = code_trellis<4>(of, keys, writer);
        break;
      case CacheType::rtq3:
        scale = code_trellis<3>(of, keys, writer);
        break;
      default:
        scale = code_trellis<2>(of, keys, writer);
        break;
    }
    reinterpret_cast<uint16_t*>(to + shape.scales_at())[position] = scale;
    const int n_plain = row_dim - dim;
    auto* const plain = reinterpret_cast<uint16_t*>(to + shape.bytes()) + position * n_plain;
    const auto* const row = reinterpret_cast<const uint16_t*>(rows) + position * row_dim + dim;
    for (int i = 0; i < n_plain; ++i) plain[i] = row[i];
  }
};

}  // namespace

void require_coded_layer(const Gpu& gpu, const CacheLayer& layer) {
  const auto types = [&] {
    return message("a cache of {} and {}", cache_type_name(layer.k_type),
                   cache_type_name(layer.v_type));
  };
  require_codes(layer);
  if (std::max(layer.k_dim, layer.v_dim) > CodedAttention::kMaxDim)
    throw UnsupportedModelError(
        "{} on a GPU needs heads of at most {} values; these have {} and {}", types(),
        CodedAttention::kMaxDim, layer.k_dim, layer.v_dim);
  const size_t needed = std::max(CodePages::shared_bytes(std::max(layer.k_dim, layer.v_dim)),
                                 CodedAttention::shared_bytes(layer.k_dim, layer.v_dim));
  if (needed > gpu.info().block_shared_bytes)
    throw UnsupportedModelError(
        "{} with heads of {} and {} values needs {} bytes of shared memory per block of threads; "
        "{} has {}",
        types(), layer.k_dim, layer.v_dim, needed, gpu.info().name, gpu.info().block_shared_bytes);
}

void code_pages(Gpu& gpu, const KVPages& cache, const BatchOnDevice& batch,
                std::span<const SpanBound> bounds, const KeyContext& keys, const KeyTables& tables,
                bool begins, bool completes) {
  const TurnOfKeys turn = turn_of_keys(keys.rope);
  const CodedPlace place{cache};
  if (begins)
    gpu.launch(BeginSequences{place, batch, turn, keys.q,
                              keys.n_heads > 0 ? keys.n_heads / cache.n_kv_heads : 0, tables},
               Grid{batch.n_spans, cache.n_kv_heads},
               3 * sizeof(float) * static_cast<size_t>(cache.k_dim));
  if (!completes) return;
  int64_t n_pages = 0;
  for (const SpanBound& span : bounds) n_pages += span.n_rows / kBlockPositions + 1;
  const int dim = std::max(cache.k_dim, cache.v_dim), at_once = CodePages::positions_at_once(dim);
  gpu.launch(CodePages{place, batch, turn, cache_levels(cache.k_type), cache_levels(cache.v_type),
                       at_once},
             Grid{static_cast<int>(n_pages), 2 * cache.n_kv_heads * (kBlockPositions / at_once)},
             CodePages::shared_bytes(dim));
}

void launch_coded_attention(Gpu& gpu, const AttentionTask& task, const KVPages& cache,
                            const Rope* rope, int64_t blocks) {
  gpu.launch(CodedAttention{{task},
                            {cache},
                            turn_of_keys(rope),
                            cache_levels(cache.k_type),
                            cache_levels(cache.v_type)},
             Grid{static_cast<int>(blocks * (task.n_heads / task.group))},
             CodedAttention::shared_bytes(cache.k_dim, cache.v_dim));
}

}  // namespace hrun::gpu
