#include "backend/page_buffers.h"

#include "backend/checks.h"

namespace hrun {

uint8_t* PageBuffers::open(int32_t page) {
  auto& buffer = of_page_[static_cast<size_t>(page)];
  if (!buffer) {
    if (free_.empty()) {
      buffer = make_(bytes_);
      ++n_made_;
    } else {
      buffer = std::move(free_.back());
      free_.pop_back();
    }
  }
  return static_cast<uint8_t*>(buffer->data);
}

void PageBuffers::close(int32_t page) {
  auto& buffer = of_page_[static_cast<size_t>(page)];
  if (buffer) free_.push_back(std::move(buffer));
}

void PageBuffers::copy(int32_t from, int32_t to) {
  if (find(from))
    copy_(open(to), find(from), bytes_);
  else
    close(to);
}

void BesidePages::open(std::span<const int32_t> pages, int64_t first, int64_t end) {
  const auto page = [&](int64_t i) { return pages[static_cast<size_t>(i)]; };
  const int64_t index = first / kPagePositions,
                end_index = (end + kPagePositions - 1) / kPagePositions;
  require((first % kPagePositions == 0 || rows.find(page(index))) &&
              (index == 0 || beginnings.find(page(0))),
          "kv_append", "rows before the first that were not dropped");
  // A draft that is refused may still cut into the page before.
  for (int64_t i = index - 2; i >= 0 && rows.find(page(i)); --i) drop(page(i));
  for (int64_t i = index; i < end_index; ++i) {
    rows.open(page(i));
    if (i == 0) {
      beginnings.open(page(i));
      squares.open(page(i));
    } else {
      beginnings.close(page(i));
      squares.close(page(i));
    }
  }
}

void BesidePages::drop(int32_t page) {
  rows.close(page);
  squares.close(page);
}

void BesidePages::copy(int32_t from, int32_t to) {
  rows.copy(from, to);
  beginnings.copy(from, to);
  squares.copy(from, to);
}

}  // namespace hrun
