#include "cuda/cuda_cache.h"

#include "cuda/cuda_backend_parts.h"

namespace hrun::gpu {

CudaCache::CudaCache(CudaBackend& backend, const CachePlan& plan, std::string_view purpose)
    : DeviceCache(plan), backend_(backend) {
  checks::cache_plan(plan);
  for (const CacheLayer& layer : plan.layers)
    if (layer.is_coded())
      throw UnsupportedModelError(
          "a GPU keeps keys and values as they are, not in codes; possible there: f16, f32");
  const auto add = [&](CacheType type, int n_heads, int dim) {
    offsets_.push_back(page_bytes_);
    const size_t values = static_cast<size_t>(n_heads) * static_cast<size_t>(dim) * kPagePositions;
    page_bytes_ += (values * (type == CacheType::f16 ? 2 : 4) + 255) & ~size_t{255};
  };
  for (const CacheLayer& layer : plan.layers) {
    add(layer.k_type, layer.n_kv_heads, layer.k_dim);
    add(layer.v_type, layer.n_kv_heads, layer.v_dim);
  }
  size_t all = 0;
  if (__builtin_mul_overflow(page_bytes_, static_cast<size_t>(plan.n_pages), &all))
    throw OutOfMemoryError("{}: {} pages of {} bytes are more than the address space", purpose,
                           plan.n_pages, page_bytes_);
  memory_ = std::make_unique<Memory>(backend_.gpu_, all, purpose);
}

KVPages CudaCache::pages(size_t l) const {
  const CacheLayer& layer = this->layer(l);
  auto* const base = static_cast<uint8_t*>(memory_->data);
  return {base + offsets_[2 * l],
          base + offsets_[2 * l + 1],
          layer.k_type,
          layer.v_type,
          static_cast<int64_t>(page_bytes_),
          layer.n_kv_heads,
          layer.k_dim,
          layer.v_dim};
}

void CudaCache::copy_page(int32_t from, int32_t to, int64_t n_positions) {
  checks::copy_page(*this, from, to, n_positions);
  if (n_positions == 0) return;
  const CudaBackend::Turn turn(backend_);
  auto* const base = static_cast<uint8_t*>(memory_->data);
  backend_.gpu_.copy(base + static_cast<size_t>(to) * page_bytes_,
                     base + static_cast<size_t>(from) * page_bytes_, page_bytes_);
}

}  // namespace hrun::gpu
