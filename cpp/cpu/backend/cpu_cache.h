// Keys and values on the CPU: where they lie in a page.
//
// A page holds the layers one after the other, and of each, head by head, the keys as
// [16 positions][k_dim][position], as the attention kernels want them (attention.h), and then the
// values as [position][v_dim].
#pragma once

#include "backend/cache.h"
#include "backend/backend.h"

namespace hrun {

class CpuCache final : public DeviceCache {
 public:
  // Throws OutOfMemoryError.
  CpuCache(const CachePlan& plan, std::string_view purpose);

  size_t page_bytes() const override { return page_bytes_; }
  void copy_page(int32_t from, int32_t to, int64_t n_positions) override;

  // Keys and values of a head of a layer in page 0; page p is p * page_bytes() further.
  struct Heads {
    uint8_t* keys;
    uint8_t* values;
    size_t head_stride;
  };
  Heads heads(size_t layer) const {
    const Place& place = places_[layer];
    auto* const keys = static_cast<uint8_t*>(memory_->data) + place.offset;
    return {keys, keys + place.key_bytes, place.key_bytes + place.value_bytes};
  }

 private:
  struct Place {
    size_t offset;     // of the layer in a page
    size_t key_bytes;  // of a head
    size_t value_bytes;
  };
  std::vector<Place> places_;
  size_t page_bytes_ = 0;
  std::unique_ptr<DeviceBuffer> memory_;
};

inline const CpuCache& on_cpu(const CacheSlot& slot) {
  return static_cast<const CpuCache&>(*slot.cache);
}

// The weight format in which the kernels read a type of cache.
FormatId cache_format(CacheType type);

}  // namespace hrun
