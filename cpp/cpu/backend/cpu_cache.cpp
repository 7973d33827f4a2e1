#include "cpu/backend/cpu_cache.h"

#include <cstring>

#include "backend/checks.h"
#include "cpu/memory.h"
#include "formats/list.h"

namespace hrun {

FormatId cache_format(CacheType type) {
  switch (type) {
    case CacheType::f16:
      return F16::kId;
    case CacheType::f32:
      return F32::kId;
  }
  throw UnsupportedModelError("the CPU keeps no keys and values as type {}",
                              static_cast<int>(type));
}

CpuCache::CpuCache(const CachePlan& plan, std::string_view purpose) : DeviceCache(plan) {
  checks::cache_plan(plan);
  // Steps of 64 bytes keep rows aligned for vector loads.
  const auto bytes = [](CacheType type, int dim) {
    const size_t all = find_format(cache_format(type))->row_bytes(dim) * kPagePositions;
    return (all + 63) & ~size_t{63};
  };
  for (const CacheLayer& layer : plan.layers) {
    const Place place{page_bytes_, bytes(layer.k_type, layer.k_dim),
                      bytes(layer.v_type, layer.v_dim)};
    places_.push_back(place);
    page_bytes_ += (place.key_bytes + place.value_bytes) * static_cast<size_t>(layer.n_kv_heads);
  }
  size_t all = 0;
  if (__builtin_mul_overflow(page_bytes_, static_cast<size_t>(plan.n_pages), &all))
    throw OutOfMemoryError("{}: {} pages of {} bytes are more than the address space", purpose,
                           plan.n_pages, page_bytes_);
  // Pages are used from the first one on, so huge pages of the system pay.
  memory_ = allocate_host(all, purpose, Pages::huge);
}

void CpuCache::copy_page(int32_t from, int32_t to, int64_t n_positions) {
  checks::copy_page(*this, from, to, n_positions);
  // A few positions lie scattered over the keys of every head: the whole page is one copy.
  if (n_positions == 0) return;
  auto* const base = static_cast<uint8_t*>(memory_->data);
  std::memcpy(base + static_cast<size_t>(to) * page_bytes_,
              base + static_cast<size_t>(from) * page_bytes_, page_bytes_);
}

}  // namespace hrun
