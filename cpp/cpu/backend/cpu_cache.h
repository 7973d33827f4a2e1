// Keys and values on the CPU: where they lie in a page.
//
// A page holds the layers one after the other.  Each layer has, head by head, the keys as [16
// positions][k_dim][position], as the attention kernels want them (kernels/attention.h), and then
// the values as [position][v_dim].  Coded keys and values are codes and scales instead
// (kernels/cache_codes.h), which are made when the page is full.  Until then, and until the
// sequence is two pages further, the rows of the page lie beside it in the layout of a page without
// codes.  A page that begins a sequence also keeps the data with which the codes after it are read.
#pragma once

#include "backend/backend.h"
#include "backend/cache.h"
#include "backend/page_buffers.h"

namespace hrun {

class CpuCache final : public DeviceCache {
 public:
  // Throws OutOfMemoryError, UnsupportedModelError.
  CpuCache(const CachePlan& plan, std::string_view purpose);

  size_t page_bytes() const override { return page_bytes_; }
  bool keeps_rows(int32_t page) const override { return !coded_ || beside_.rows.find(page); }
  void drop_rows(int32_t page) override;

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

  // The rows of one head, in a layer with codes.
  struct Rows {
    uint8_t* keys;
    uint8_t* values;
  };
  Rows rows(size_t layer, int64_t head, int32_t page) const;
  // The data with which the codes of a sequence are read.  It lies beside the sequence's first
  // page: the exact positions, the mean of the keys before they were turned, and the balance.
  struct Beginning {
    uint8_t* exact_keys;    // [kExactPositions][k_dim]
    uint8_t* exact_values;  // [kExactPositions][v_dim]
    float* mean;            // [k_dim]
    float* balance;         // [k_dim]
  };
  Beginning beginning(size_t layer, int64_t head, int32_t page) const;
  // Squares of the queries that read a position of the first page, [position][k_dim].  They are
  // summed over the queries of a kv head.
  float* query_squares(size_t layer, int64_t head, int32_t page) const;

  // Call this before positions [first, end) of a sequence are written, in the first layer.  Throws
  // ArgumentError where the rows before them are gone, OutOfMemoryError.
  void open_pages(std::span<const int32_t> pages, int64_t first, int64_t end) {
    beside_.open(pages, first, end);
  }
  // The number of blocks that became codes, in all layers and heads, counting keys and values.
  int64_t n_coded_blocks() const { return n_coded_blocks_; }
  void count_coded_blocks(int64_t n) { n_coded_blocks_ += n; }
  // The bytes that lie beside the pages.
  size_t open_bytes() const { return beside_.bytes(); }

 private:
  void do_copy_page(int32_t from, int32_t to, int64_t n_positions) override;
  struct Place {
    size_t offset;     // of the layer in a page
    size_t key_bytes;  // of a head
    size_t value_bytes;
    // Offsets and sizes of the data beside pages.
    size_t rows_offset, row_key_bytes, row_value_bytes;
    size_t beginning_offset, beginning_bytes;
    size_t squares_offset;
  };
  std::vector<Place> places_;
  size_t page_bytes_ = 0;
  bool coded_ = false;
  int64_t n_coded_blocks_ = 0;
  std::unique_ptr<DeviceBuffer> memory_;
  BesidePages beside_;
};

inline const CpuCache& on_cpu(const CacheSlot& slot) {
  return static_cast<const CpuCache&>(*slot.cache);
}

// The weight format in which the kernels read rows of a type of cache: fp16 where they become
// codes.
FormatId cache_format(CacheType type);
// The size of a row of dim values in that format.
size_t row_bytes(CacheType type, int dim);

}  // namespace hrun
