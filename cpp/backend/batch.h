// The rows of a pass: the sequence that each belongs to, and the place where that sequence keeps
// its keys and values.
#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "base/kv_page.h"

namespace hrun {

// Consecutive rows of one sequence at consecutive positions.
struct RowSpan {
  int64_t first_row;
  int64_t n_rows;          // at least 1
  int64_t first_position;  // of first_row
  std::span<const int32_t>
      pages;           // page i has the positions 64 i to 64 i + 63, up to the last row's
  int32_t state = -1;  // slot of its recurrent state, where the model has one
  // Where there is such a slot, the state before the pass is in it.  The rows before `kept_at` go
  // on there, the rows from there on in `state`; so it keeps the state between them.
  int32_t kept = -1;
  int64_t kept_at = 0;
  int32_t log_row = -1;  // of the first row's record in the redo log; -1: there are no records

  int64_t end_position() const { return first_position + n_rows; }
};

// A view of rows that somebody else owns.  The spans cover all rows, in order.
struct Batch {
  std::span<const int32_t> tokens;     // of each row; may be empty where nothing is looked up
  std::span<const int32_t> positions;  // of each row
  std::span<const RowSpan> spans;
  std::span<const int32_t> types = {};  // of each row's token; empty: all are 0

  int64_t n_rows() const { return static_cast<int64_t>(positions.size()); }
  int64_t end_position() const {  // the largest
    int64_t end = 0;
    for (const RowSpan& span : spans) end = span.end_position() > end ? span.end_position() : end;
    return end;
  }
};

// Collects rows, one span after the other.
class BatchRows {
 public:
  // `pages` must stay where it is as long as the batch is used.
  void add(std::span<const int32_t> tokens, int64_t first_position, std::span<const int32_t> pages,
           int32_t state = -1) {
    add_positions(static_cast<int64_t>(tokens.size()), first_position, pages, state);
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }
  // Adds rows without tokens, for passes in which nothing is looked up.
  void add_positions(int64_t n, int64_t first_position, std::span<const int32_t> pages,
                     int32_t state = -1) {
    if (n == 0) return;
    spans_.push_back({n_rows(), n, first_position, pages, state});
    for (int64_t i = 0; i < n; ++i) positions_.push_back(static_cast<int32_t>(first_position + i));
  }
  // The span that was added last.
  RowSpan& last() { return spans_.back(); }
  void clear() { tokens_.clear(), positions_.clear(), spans_.clear(); }
  Batch batch() const { return {tokens_, positions_, spans_}; }
  int64_t n_rows() const { return static_cast<int64_t>(positions_.size()); }

 private:
  std::vector<int32_t> tokens_, positions_;
  std::vector<RowSpan> spans_;
};

// The page table of a sequence that has the pages 0, 1, 2, ... to itself.
inline std::vector<int32_t> consecutive_pages(int64_t n_positions) {
  std::vector<int32_t> pages(
      static_cast<size_t>((n_positions + kPagePositions - 1) / kPagePositions));
  std::iota(pages.begin(), pages.end(), 0);
  return pages;
}

}  // namespace hrun
