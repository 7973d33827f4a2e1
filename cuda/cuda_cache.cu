#include "cuda/cuda_cache.h"

#include <cstring>

#include "cuda/cuda_backend_parts.h"
#include "cuda/kernels/coded_cache.h"
#include "formats/cache_codes.h"

namespace hrun::gpu {

CudaCache::CudaCache(CudaBackend& backend, const CachePlan& plan, std::string_view purpose)
    : DeviceCache(plan), backend_(backend) {
  const auto round_up = [](size_t bytes) { return (bytes + 255) & ~size_t{255}; };
  const auto add = [&](CacheType type, int n_heads, int dim, int n_plain) {
    offsets_.push_back(page_bytes_);
    page_bytes_ += round_up(static_cast<size_t>(n_heads) * kPagePositions *
                            cache_position_bytes(type, dim, n_plain));
  };
  size_t rows = 0, beginnings = 0, squares = 0;
  for (const CacheLayer& layer : plan.layers) {
    add(layer.k_type, layer.n_kv_heads, layer.k_dim, layer.k_plain);
    add(layer.v_type, layer.n_kv_heads, layer.v_dim, 0);
    CodedLayer& coded = coded_layers_.emplace_back();
    if (!layer.is_coded()) continue;
    require_coded_layer(backend_.gpu_, layer);
    coded_ = true;
    const auto n_heads = static_cast<size_t>(layer.n_kv_heads),
               k_dim = static_cast<size_t>(layer.k_dim);
    const auto row_bytes = [](CacheType type, int dim) {
      return cache_position_bytes(hrun::is_coded(type) ? CacheType::f16 : type, dim);
    };
    const size_t k_row = row_bytes(layer.k_type, layer.k_dim),
                 v_row = row_bytes(layer.v_type, layer.v_dim);
    coded.k_rows = static_cast<int64_t>(rows);
    rows += round_up(n_heads * kPagePositions * k_row);
    coded.v_rows = static_cast<int64_t>(rows);
    rows += round_up(n_heads * kPagePositions * v_row);
    coded.beginning = static_cast<int64_t>(beginnings);
    coded.beginning_bytes = static_cast<int64_t>(
        round_up(2 * sizeof(float) * k_dim + kExactPositions * (k_row + v_row)));
    beginnings += n_heads * static_cast<size_t>(coded.beginning_bytes);
    coded.squares = static_cast<int64_t>(squares);
    squares += n_heads * kPagePositions * k_dim * sizeof(float);
  }
  size_t all = 0;
  if (__builtin_mul_overflow(page_bytes_, static_cast<size_t>(plan.n_pages), &all))
    throw OutOfMemoryError("{}: {} pages of {} bytes are more than the address space", purpose,
                           plan.n_pages, page_bytes_);
  memory_ = std::make_unique<Memory>(backend_.gpu_, all, purpose);
  if (!coded_) return;
  const auto buffers = [&](size_t bytes) {
    return PageBuffers(
        bytes, plan.n_pages,
        [&gpu = backend_.gpu_](size_t n) -> std::unique_ptr<DeviceBuffer> {
          return std::make_unique<Memory>(gpu, n, "keys and values that are not coded yet");
        },
        [&gpu = backend_.gpu_](void* to, const void* from, size_t n) { gpu.copy(to, from, n); });
  };
  beside_ = {buffers(rows), buffers(beginnings), buffers(squares)};
  table_on_device_.resize(static_cast<size_t>(plan.n_pages));
  table_ = std::make_unique<Memory>(backend_.gpu_, table_on_device_.size() * sizeof(BesidePage),
                                    "the table of a coded cache");
  ++backend_.n_coded_caches_;
}

CudaCache::~CudaCache() {
  if (coded_) backend_.forget(*this);
}

void CudaCache::put_beside(int32_t page) {
  const BesidePage now{beside_.rows.find(page), beside_.beginnings.find(page),
                       beside_.squares.find(page)};
  BesidePage& there = table_on_device_[static_cast<size_t>(page)];
  if (std::memcmp(&there, &now, sizeof now) == 0) return;
  there = now;
  backend_.gpu_.write(static_cast<BesidePage*>(table_->data) + page, &there, sizeof there);
}

void CudaCache::open_pages(const Batch& batch) {
  for (const RowSpan& span : batch.spans) {
    beside_.open(span.pages, span.first_position, span.end_position());
    put_beside(span.pages[0]);
    for (int64_t i = span.first_position / kPagePositions; i * kPagePositions < span.end_position();
         ++i)
      put_beside(span.pages[static_cast<size_t>(i)]);
  }
}

void CudaCache::drop_rows(int32_t page) {
  if (!coded_) return;
  const CudaBackend::Turn turn(backend_);
  beside_.drop(page);
}

KVPages CudaCache::pages(size_t l) const {
  const CacheLayer& layer = this->layer(l);
  CodedLayer coded = coded_layers_[l];
  if (layer.is_coded()) coded.beside = static_cast<const BesidePage*>(table_->data);
  auto* const base = static_cast<uint8_t*>(memory_->data);
  return {base + offsets_[2 * l],
          base + offsets_[2 * l + 1],
          layer.k_type,
          layer.v_type,
          static_cast<int64_t>(page_bytes_),
          layer.n_kv_heads,
          layer.k_dim,
          layer.v_dim,
          coded,
          layer.k_plain};
}

void CudaCache::do_copy_page(int32_t from, int32_t to, int64_t /*n_positions*/) {
  const CudaBackend::Turn turn(backend_);
  auto* const base = static_cast<uint8_t*>(memory_->data);
  backend_.gpu_.copy(base + static_cast<size_t>(to) * page_bytes_,
                     base + static_cast<size_t>(from) * page_bytes_, page_bytes_);
  if (!coded_) return;
  beside_.copy(from, to);
  put_beside(to);
}

}  // namespace hrun::gpu
