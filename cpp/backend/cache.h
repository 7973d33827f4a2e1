// What the layers of a model keep of each position, in the memory of a backend.
//
// A cache has pages of kPagePositions positions.  A page holds its positions' keys and values of
// all layers of the cache, in whatever layout the backend's kernels want; only the backend knows
// it.  Which sequence has which pages is the caller's business (RowSpan::pages).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/kv_page.h"

namespace hrun {

// How keys, or values, are stored.
enum class CacheType : uint8_t { f16, f32 };

// "f16", "f32": in the order of CacheType, for choices and messages.
std::span<const std::string_view> cache_type_names();
std::string_view cache_type_name(CacheType type);
// Throws ArgumentError that names the possible ones.
CacheType cache_type_named(std::string_view name);

struct CacheLayer {
  int n_kv_heads = 0;
  int k_dim = 0;  // per head
  int v_dim = 0;
  CacheType k_type = CacheType::f16;
  CacheType v_type = CacheType::f16;
};

struct CachePlan {
  std::vector<CacheLayer> layers;
  int64_t n_pages = 0;
};

class DeviceCache {
 public:
  explicit DeviceCache(CachePlan plan) : plan_(std::move(plan)) {}
  virtual ~DeviceCache() = default;

  const CachePlan& plan() const { return plan_; }
  const CacheLayer& layer(size_t l) const { return plan_.layers[l]; }
  int64_t n_pages() const { return plan_.n_pages; }
  virtual size_t page_bytes() const = 0;
  size_t bytes() const { return page_bytes() * static_cast<size_t>(n_pages()); }
  // Copies the first n_positions of page `from`, in every layer, to page `to`.
  virtual void copy_page(int32_t from, int32_t to, int64_t n_positions) = 0;

 private:
  CachePlan plan_;
};

// One layer of a cache.
struct CacheSlot {
  DeviceCache* cache = nullptr;
  size_t index = 0;

  const CacheLayer& layer() const { return cache->layer(index); }
};

}  // namespace hrun
