// Keys and values in device memory (KVPages has their layout).
#pragma once

#include "backend/page_buffers.h"
#include "cuda/cuda_backend.h"

namespace hrun::gpu {

class CudaCache final : public DeviceCache {
 public:
  // Throws OutOfMemoryError, UnsupportedModelError.
  CudaCache(CudaBackend& backend, const CachePlan& plan, std::string_view purpose);
  ~CudaCache() override;
  CudaCache(const CudaCache&) = delete;
  CudaCache& operator=(const CudaCache&) = delete;

  size_t page_bytes() const override { return page_bytes_; }
  bool keeps_rows(int32_t page) const override { return !coded_ || beside_.rows.find(page); }
  void drop_rows(int32_t page) override;
  KVPages pages(size_t layer) const;

  // Call this before the rows of a batch are written to a cache with codes.  It makes the memory
  // that lies beside its pages, and the table by which the device finds it.  Not while a pass is
  // recorded.  Throws ArgumentError where rows before them are gone, OutOfMemoryError.
  void open_pages(const Batch& batch);

 private:
  void do_copy_page(int32_t from, int32_t to, int64_t n_positions) override;
  void put_beside(int32_t page);

  CudaBackend& backend_;
  std::vector<size_t> offsets_;  // of the keys of each layer in a page, and its values
  std::vector<CodedLayer> coded_layers_;
  size_t page_bytes_ = 0;
  bool coded_ = false;
  std::unique_ptr<Memory> memory_;
  BesidePages beside_;
  std::unique_ptr<Memory> table_;            // BesidePage of each page
  std::vector<BesidePage> table_on_device_;  // what it has
};

inline CudaCache& on_device(const CacheSlot& slot) {
  if (auto* const own = dynamic_cast<CudaCache*>(slot.cache)) return *own;
  throw ArgumentError("a cache of another backend was given to CUDA");
}

inline KVPages pages_of(const CacheSlot& slot) { return on_device(slot).pages(slot.index); }

}  // namespace hrun::gpu
