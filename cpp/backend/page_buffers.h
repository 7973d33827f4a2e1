// Buffers that lie beside the pages of a coded cache, in the memory of a backend.
//
// Codes are made of a whole page of rows.  Until then, and until the sequence is two pages further,
// a page has a buffer for its rows.  A page that begins a sequence also has one for what the codes
// after it are read with, and one for the squares of the queries, of which the balance is made.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "backend/backend.h"

namespace hrun {

// Buffers of one size that some pages have.
class PageBuffers {
 public:
  using Make = std::function<std::unique_ptr<DeviceBuffer>(size_t bytes)>;
  using Copy = std::function<void(void* to, const void* from, size_t bytes)>;

  PageBuffers() = default;
  // make: throws OutOfMemoryError.
  PageBuffers(size_t bytes, int64_t n_pages, Make make, Copy copy)
      : bytes_(bytes),
        make_(std::move(make)),
        copy_(std::move(copy)),
        of_page_(static_cast<size_t>(n_pages)) {}

  // Null if the page has none.
  uint8_t* find(int32_t page) const {
    const auto& buffer = of_page_[static_cast<size_t>(page)];
    return buffer ? static_cast<uint8_t*>(buffer->data) : nullptr;
  }
  // Throws OutOfMemoryError.
  uint8_t* open(int32_t page);
  void close(int32_t page);
  // Copies the contents of `from`'s buffer to `to`'s, or closes `to`'s buffer where `from` has
  // none.
  void copy(int32_t from, int32_t to);
  size_t bytes() const { return bytes_ * static_cast<size_t>(n_made_); }  // of all, in use or not

 private:
  size_t bytes_ = 0;
  Make make_;
  Copy copy_;
  std::vector<std::unique_ptr<DeviceBuffer>> of_page_, free_;
  int64_t n_made_ = 0;
};

struct BesidePages {
  PageBuffers rows, beginnings, squares;

  // Opens the buffers before positions [first, end) of a sequence are written.  Throws
  // ArgumentError where the rows before them are gone, OutOfMemoryError.
  void open(std::span<const int32_t> pages, int64_t first, int64_t end);
  // Says that nobody goes on in the middle of the page.
  void drop(int32_t page);
  void copy(int32_t from, int32_t to);
  size_t bytes() const { return rows.bytes() + beginnings.bytes() + squares.bytes(); }
};

}  // namespace hrun
