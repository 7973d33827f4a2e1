// The layers' keys and values of each position, in the memory of a backend.
//
// A cache has pages of kPagePositions positions.  A page holds its positions' keys and values of
// all layers of the cache, in whatever layout the backend's kernels want; only the backend knows
// it.  Which sequence has which pages is the caller's business (RowSpan::pages).
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/host_device.h"
#include "base/kv_page.h"

namespace hrun {

// The form in which keys, or values, are stored: as they are, or in rotated codes
// (formats/cache_codes.h).
enum class CacheType : uint8_t { f16, f32, rtq8, rtq5, rtq4, rtq3, rtq2 };

// The bits of a code; 0 if values are stored as they are.
HRUN_HD constexpr int cache_code_bits(CacheType type) {
  switch (type) {
    case CacheType::rtq8:
      return 8;
    case CacheType::rtq5:
      return 5;
    case CacheType::rtq4:
      return 4;
    case CacheType::rtq3:
      return 3;
    case CacheType::rtq2:
      return 2;
    default:
      return 0;
  }
}
HRUN_HD constexpr bool is_coded(CacheType type) { return cache_code_bits(type) != 0; }

// The names "f16", "f32", "rtq8", ... in the order of CacheType, for choices and messages.
std::span<const std::string_view> cache_type_names();
std::string_view cache_type_name(CacheType type);
// Takes these names, and those that other programs have for caches of about as many bits: "q8_0" is
// rtq8.  Throws ArgumentError that names the possible ones.
CacheType cache_type_named(std::string_view name);

// The bytes that one position of one head takes in a page.  Of coded values the last `n_plain` stay
// fp16.
size_t cache_position_bytes(CacheType type, int64_t dim, int64_t n_plain = 0);

struct CacheLayer {
  int n_kv_heads = 0;
  int k_dim = 0;  // per head
  int v_dim = 0;
  CacheType k_type = CacheType::f16;
  CacheType v_type = CacheType::f16;
  // So many of a key's last values stay fp16 where the others are codes: an error in the turned
  // part of latent attention is the same in all heads.
  int k_plain = 0;

  int k_coded() const { return k_dim - k_plain; }  // values that are codes if k_type is coded
  bool is_coded() const { return hrun::is_coded(k_type) || hrun::is_coded(v_type); }
};

// Throws UnsupportedModelError if the layer has codes, and its heads have no codes on any backend.
void require_codes(const CacheLayer& layer);

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
  bool is_coded() const {
    return std::any_of(plan_.layers.begin(), plan_.layers.end(),
                       [](const CacheLayer& layer) { return layer.is_coded(); });
  }
  // Can positions be written to the page from here on?  Codes are made of a whole page of rows,
  // which are dropped some time after; then a page can only be written from its beginning.
  virtual bool keeps_rows(int32_t /*page*/) const { return true; }
  // Says that nobody goes on in the middle of the page, so that its rows may be dropped.
  virtual void drop_rows(int32_t /*page*/) {}
  // Copies the first n_positions of page `from`, in every layer, to page `to`.
  void copy_page(int32_t from, int32_t to, int64_t n_positions);

 private:
  virtual void do_copy_page(int32_t from, int32_t to, int64_t n_positions) = 0;

  CachePlan plan_;
};

// One layer of a cache.
struct CacheSlot {
  DeviceCache* cache = nullptr;
  size_t index = 0;

  const CacheLayer& layer() const { return cache->layer(index); }
};

}  // namespace hrun
