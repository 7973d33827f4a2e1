// Keys and values in device memory (KVPages has their layout).
#pragma once

#include "cuda/cuda_backend.h"

namespace hrun::gpu {

class CudaCache final : public DeviceCache {
 public:
  // Throws OutOfMemoryError.
  CudaCache(CudaBackend& backend, const CachePlan& plan, std::string_view purpose);

  size_t page_bytes() const override { return page_bytes_; }
  void copy_page(int32_t from, int32_t to, int64_t n_positions) override;
  KVPages pages(size_t layer) const;

 private:
  CudaBackend& backend_;
  std::vector<size_t> offsets_;  // of the keys of each layer in a page, and its values
  size_t page_bytes_ = 0;
  std::unique_ptr<Memory> memory_;
};

inline KVPages pages_of(const CacheSlot& slot) {
  if (const auto* own = dynamic_cast<const CudaCache*>(slot.cache)) return own->pages(slot.index);
  throw ArgumentError("a cache of another backend was given to CUDA");
}

}  // namespace hrun::gpu
