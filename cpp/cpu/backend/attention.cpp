// Keys and values on the CPU, and attention over them: how the work is shared out.
#include <algorithm>

#include "backend/alibi.h"
#include "cpu/backend/parallel.h"
#include "cpu/backend/cpu_cache.h"
#include "formats/cache_codes.h"

namespace hrun {
namespace {

// Puts values[i] into column `position` of [kLanes positions][dim][position].
template <class T>
void put_column(const T* values, int dim, int64_t position, uint8_t* block) {
  T* const to = reinterpret_cast<T*>(block) + position / kLanes * kLanes * dim + position % kLanes;
  for (int i = 0; i < dim; ++i) to[i * kLanes] = values[i];
}

}  // namespace

std::unique_ptr<DeviceCache> CpuBackend::do_make_cache(const CachePlan& plan,
                                                       std::string_view purpose) {
  return std::make_unique<CpuCache>(plan, purpose);
}

void CpuBackend::do_kv_append(const CacheSlot& cache, FloatView k, FloatView v, const Batch& batch,
                              const KeyContext& keys) {
  const Turn turn(*this, Operation::kv_append);
  const CacheLayer& layer = cache.layer();
  // One thread writes a head's part of a page: neighbouring positions share cache lines.
  append_parts_.clear();
  for (const RowSpan& span : batch.spans)
    for (int64_t page = span.first_position / kPagePositions;
         page * kPagePositions < span.end_position(); ++page)
      append_parts_.push_back({&span, page});
  if (layer.is_coded()) return append_coded(cache, k, v, batch, keys);
  const CpuCache::Heads heads = on_cpu(cache).heads(cache.index);
  const size_t page_bytes = cache.cache->page_bytes();
  const int64_t per_part = std::min<int64_t>(k.rows, kPagePositions);
  parallel(static_cast<int64_t>(append_parts_.size()) * layer.n_kv_heads,
           per_part * (layer.k_dim + layer.v_dim), [&](int64_t i, int worker) {
             const AppendPart& part = append_parts_[static_cast<size_t>(i / layer.n_kv_heads)];
             const int64_t head = i % layer.n_kv_heads;
             const size_t at = static_cast<size_t>(part.page_id()) * page_bytes +
                               static_cast<size_t>(head) * heads.head_stride;
             store_rows(layer, k, v, part, head, worker, heads.keys + at, heads.values + at);
           });
}

// Copies the part's keys and values of a head to the place of its page's.
void CpuBackend::store_rows(const CacheLayer& layer, const FloatView& k, const FloatView& v,
                            const AppendPart& part, int64_t head, int worker, uint8_t* keys,
                            uint8_t* values) {
  auto* const halves = worker_scratch_[static_cast<size_t>(worker)].get<uint16_t>(
      static_cast<size_t>(layer.k_dim), "a key");
  const bool short_keys = cache_format(layer.k_type) == F16::kId;
  const bool short_values = cache_format(layer.v_type) == F16::kId;
  for (int64_t p = part.first(); p < part.end(); ++p) {
    const int64_t row = part.row(p), place = p % kPagePositions;
    const float* const key = k.row(row) + head * layer.k_dim;
    const float* const value = v.row(row) + head * layer.v_dim;
    if (short_keys) {
      kernels_.to_fp16(key, layer.k_dim, halves);
      put_column(halves, layer.k_dim, place, keys);
    } else {
      put_column(key, layer.k_dim, place, keys);
    }
    const auto offset = static_cast<size_t>(place * layer.v_dim);
    if (short_values)
      kernels_.to_fp16(value, layer.v_dim, reinterpret_cast<uint16_t*>(values) + offset);
    else
      std::copy(value, value + layer.v_dim, reinterpret_cast<float*>(values) + offset);
  }
}

void CpuBackend::do_attention(FloatView q, const CacheSlot& cache, const Batch& batch,
                              const AttentionShape& shape, FloatView out) {
  const Turn turn(*this, Operation::attention);
  const CacheLayer& layer = cache.layer();
  const bool coded = layer.is_coded();
  const auto kernel = kernels_.attention(cache_format(layer.k_type), cache_format(layer.v_type));
  const CpuCache::Heads heads = on_cpu(cache).heads(cache.index);
  const size_t page_bytes = cache.cache->page_bytes();
  const int n_kv_heads = layer.n_kv_heads, group = shape.n_heads / n_kv_heads;
  const float* const sinks = shape.sinks ? on_cpu(*shape.sinks).vector.data() : nullptr;
  alibi_slopes_.clear();
  for (int head = 0; shape.max_alibi_bias > 0 && head < shape.n_heads; ++head)
    alibi_slopes_.push_back(alibi_slope(head, shape.n_heads, shape.max_alibi_bias));
  // The block in which the window of the token at this position begins.
  const auto first_block_of = [&](int64_t position) {
    const int64_t before = shape.causal ? shape.window - 1 : shape.window / 2;
    return shape.window > 0 ? std::max<int64_t>(0, position - before) / kAttentionBlock : 0;
  };
  // The positions that the token at this one sees end here.
  const auto end_of = [&](const RowSpan& span, int64_t position) {
    if (shape.causal) return position + 1;
    return shape.window > 0 ? std::min(span.end_position(), position + 1 + shape.window / 2)
                            : span.end_position();
  };
  const auto task_of = [&](const AttentionPiece& piece) {
    const int64_t head = piece.kv_head * group, row = piece.span->first_row + piece.first_row;
    const size_t at = static_cast<size_t>(piece.kv_head) * heads.head_stride;
    return AttentionTask{
        .q = {q.row(row) + head * layer.k_dim, piece.n_rows, group * layer.k_dim, q.stride},
        .out = {out.row(row) + head * layer.v_dim, piece.n_rows, group * layer.v_dim, out.stride},
        .n_heads = group,
        .k = heads.keys + at,
        .v = heads.values + at,
        .pages = piece.span->pages.data(),
        .page_bytes = page_bytes,
        .k_dim = layer.k_dim,
        .v_dim = layer.v_dim,
        .first_position = piece.span->first_position + piece.first_row,
        .whole = shape.causal ? 0 : piece.span->end_position(),
        .scale = shape.scale,
        .window = shape.window,
        .soft_cap = shape.soft_cap,
        .sinks = sinks ? sinks + head : nullptr,
        .slopes = shape.max_alibi_bias > 0 ? alibi_slopes_.data() + head : nullptr,
        .first_block = piece.first_block,
        .n_blocks = piece.n_blocks,
    };
  };

  // Some rows go together, so that a page is converted once for all their heads.  Over codes, all
  // of the rows are in one block.
  constexpr int64_t kQueriesTogether = 64, kBlocksTogether = 4;
  auto& pieces = attention_pieces_;
  pieces.clear();
  int64_t total = 0;
  for (const RowSpan& span : batch.spans) {
    const int64_t together = std::clamp<int64_t>(kQueriesTogether / group, 1, span.n_rows);
    // Late rows see more positions.  They go first, so that no thread ends up alone with a long
    // task.
    for (int64_t end = span.n_rows, first; end > 0; end = first) {
      const int64_t last = span.first_position + end - 1;
      const int64_t block =
          coded
              ? std::max<int64_t>(0, last / kAttentionBlock * kAttentionBlock - span.first_position)
              : 0;
      first = block + (end - 1 - block) / together * together;
      for (int64_t head = 0; head < n_kv_heads; ++head) {
        AttentionPiece piece{&span, head, first, end - first, 0, 0, 0};
        const int64_t position = span.first_position + first;
        piece.first_block = first_block_of(position);
        piece.n_blocks =
            (end_of(span, position + piece.n_rows - 1) + kAttentionBlock - 1) / kAttentionBlock -
            piece.first_block;
        piece.cost =
            piece.n_blocks * kAttentionBlock * (layer.k_dim + layer.v_dim) * group * piece.n_rows;
        total += piece.cost;
        pieces.push_back(piece);
      }
    }
  }

  if (batch.spans.size() > 1)  // the longest first, of all sequences
    std::stable_sort(pieces.begin(), pieces.end(),
                     [](const auto& a, const auto& b) { return a.cost > b.cost; });

  // A piece that would keep one thread busy while the others wait is cut by its positions, and the
  // results of its parts are joined.
  auto& splits = attention_splits_;
  splits.clear();
  int64_t partial_floats = 0, prepared_floats = 0;
  const int64_t n_more = coded ? 1 : 0;  // the exact positions are an entry too
  // The floats of a head's queries, which are prepared once for all parts.
  const auto prepared_of = [&](const AttentionPiece& piece) -> int64_t {
    if (!is_coded(layer.k_type)) return 0;
    const CodedAttentionTask task =
        coded_task(cache, piece.span->pages, piece.kv_head, shape.rope, task_of(piece));
    return static_cast<int64_t>(task.query_floats()) * task.task.n_queries();
  };
  if (n_threads() > 1 && shape.causal) {
    const size_t n_whole = pieces.size();
    for (size_t i = 0; i < n_whole; ++i) {
      const AttentionPiece piece = pieces[i];
      if (piece.n_rows != piece.span->n_rows || piece.n_blocks < 2 * kBlocksTogether ||
          piece.cost * 2 * n_threads() <= total)
        continue;
      const int64_t stride = piece.n_rows * group * (2 + layer.v_dim);
      if (piece.kv_head == 0) {
        splits.push_back(
            {piece.span, piece.first_block, piece.n_blocks, partial_floats, prepared_floats});
        prepared_floats += n_kv_heads * prepared_of(piece);
        partial_floats += n_kv_heads * (piece.n_blocks + n_more) * stride;
      }
      for (int64_t done = 0; done < piece.n_blocks; done += kBlocksTogether) {
        AttentionPiece part = piece;
        part.first_block = piece.first_block + done;
        part.n_blocks = std::min(kBlocksTogether, piece.n_blocks - done);
        part.cost = piece.cost * part.n_blocks / piece.n_blocks;
        part.prepared = splits.back().prepared + piece.kv_head * prepared_of(piece);
        part.partial =
            splits.back().partial + (piece.kv_head * (piece.n_blocks + n_more) + done) * stride;
        if (done == 0)
          pieces[i] = part;
        else
          pieces.push_back(part);
      }
    }
  }
  float* const partial = partial_floats > 0
                             ? partial_.get<float>(static_cast<size_t>(partial_floats),
                                                   "the attention of a long context")
                             : nullptr;

  float* const prepared = prepared_floats > 0
                              ? prepared_.get<float>(static_cast<size_t>(prepared_floats),
                                                     "the queries of a long context")
                              : nullptr;
  if (prepared)
    parallel(static_cast<int64_t>(splits.size()) * n_kv_heads, 16 * group * layer.k_dim,
             [&](int64_t i, int worker) {
               const SplitSpan& split = splits[static_cast<size_t>(i / n_kv_heads)];
               const AttentionPiece piece{split.span,        i % n_kv_heads, 0, split.span->n_rows,
                                          split.first_block, split.n_blocks, 0};
               CodedAttentionTask task =
                   coded_task(cache, split.span->pages, piece.kv_head, shape.rope, task_of(piece));
               task.prepared = prepared + split.prepared + piece.kv_head * prepared_of(piece);
               kernels_.prepare_coded_queries(
                   task, worker_scratch_[static_cast<size_t>(worker)].get<float>(
                             static_cast<size_t>(layer.k_dim), "the queries of a head"));
             });

  const auto n_pieces = static_cast<int64_t>(pieces.size());
  const int64_t mean_cost = total / std::max<int64_t>(n_pieces, 1);
  const int64_t chunk = tasks_together(n_pieces, mean_cost);
  parallel(n_pieces, mean_cost, [&](int64_t i, int worker) {
    const AttentionPiece& piece = pieces[static_cast<size_t>(i)];
    AttentionTask task = task_of(piece);
    if (piece.partial >= 0) {
      task.partial = partial + piece.partial;
    } else if (piece.n_rows == 1) {
      // The piece that this thread reads next, if the others are as fast.
      const int64_t next = (i + 1) % chunk != 0 ? i + 1 : i + 1 + chunk * (n_threads() - 1);
      if (next < n_pieces && pieces[static_cast<size_t>(next)].span == piece.span)
        task.to_next = (pieces[static_cast<size_t>(next)].kv_head - piece.kv_head) *
                       static_cast<ptrdiff_t>(heads.head_stride);
    }
    Scratch& scratch = worker_scratch_[static_cast<size_t>(worker)];
    constexpr std::string_view kWhat = "the queries of a head";
    if (coded) {
      CodedAttentionTask over_codes =
          coded_task(cache, piece.span->pages, piece.kv_head, shape.rope, task);
      if (piece.partial >= 0 && prepared) over_codes.prepared = prepared + piece.prepared;
      const CodedBlocks read = kernels_.attention_coded(
          over_codes, scratch.get<float>(over_codes.scratch_floats(), kWhat));
      coded_keys_read_.fetch_add(read.keys, std::memory_order_relaxed);
      coded_values_read_.fetch_add(read.values, std::memory_order_relaxed);
    } else {
      kernel(task, scratch.get<float>(task.scratch_floats(), kWhat));
    }
  });

  for (const SplitSpan& split : splits) {
    const int64_t n_queries = split.span->n_rows * group, stride = n_queries * (2 + layer.v_dim);
    parallel(n_kv_heads * n_queries, split.n_blocks * layer.v_dim, [&](int64_t i, int worker) {
      const int64_t query = i % n_queries, head = i / n_queries;
      const AttentionTask task = task_of({split.span, head, 0, split.span->n_rows, 0, 0, 0});
      const int64_t position = split.span->first_position + query / group;
      const int64_t first = first_block_of(position);
      const float* const all = partial + split.partial + head * (split.n_blocks + n_more) * stride +
                               query * task.partial_floats();
      const float* const found = all + (first - split.first_block) * stride;
      const int64_t n_blocks = position / kAttentionBlock + 1 - first;
      const float* const sink = task.sinks ? task.sinks + query % group : nullptr;
      float* const to = task.out_of(static_cast<int>(query));
      if (coded) {
        const bool sees_exact =
            position >= kAttentionBlock && task.first_visible(query / group) < kExactPositions;
        kernels_.join_attention_coded(
            found, n_blocks - 1, sees_exact ? all + split.n_blocks * stride : nullptr, stride,
            layer.v_dim, is_coded(layer.v_type), sink,
            worker_scratch_[static_cast<size_t>(worker)].get<float>(
                static_cast<size_t>(layer.v_dim), "the values of a query"),
            to);
      } else {
        kernels_.join_attention(found, n_blocks, stride, layer.v_dim, sink, to);
      }
    });
  }
}

}  // namespace hrun
