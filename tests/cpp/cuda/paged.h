// A layer's keys and values in pages that lie in a drawn order, for the tests of device code.
#pragma once

#include <algorithm>
#include <cstring>
#include <numeric>

#include "cases.h"
#include "cuda/kernels/attention.h"

namespace hrun::gpu {

inline size_t value_bytes(CacheType type) { return type == CacheType::f16 ? 2 : 4; }

// Converts values to the form that the cache has.
inline std::vector<uint8_t> as_cache(CacheType type, const std::vector<float>& values) {
  std::vector<uint8_t> bytes(values.size() * value_bytes(type));
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t half = fp32_to_fp16(values[i]);
    if (type == CacheType::f16)
      memcpy(&bytes[2 * i], &half, 2);
    else
      memcpy(&bytes[4 * i], &values[i], 4);
  }
  return bytes;
}

class PagedCache {
 public:
  // k, v: [kv_head][capacity][dim] as the cache has them; values beyond that are 0xff, a NaN.
  PagedCache(Gpu& gpu, CacheType k_type, CacheType v_type, int n_kv_heads, int k_dim, int v_dim,
             int64_t capacity, const std::vector<uint8_t>& k, const std::vector<uint8_t>& v,
             uint64_t seed = 1)
      : capacity_(capacity),
        order_(drawn_order(capacity, seed)),
        pages_(gpu, order_),
        k_bytes_(part_bytes(k_type, n_kv_heads, k_dim)),
        page_bytes_(k_bytes_ + part_bytes(v_type, n_kv_heads, v_dim)),
        memory_(gpu, image(k_type, v_type, n_kv_heads, k_dim, v_dim, k, v)) {
    layer = {memory_.get(),
             memory_.get() + k_bytes_,
             k_type,
             v_type,
             static_cast<int64_t>(page_bytes_),
             n_kv_heads,
             k_dim,
             v_dim};
  }

  KVPages layer;
  const int32_t* pages() const { return pages_.get(); }
  // Keys and values as the constructor takes them.
  std::vector<uint8_t> keys() const { return plane(0, layer.k_type, layer.k_dim); }
  std::vector<uint8_t> values() const { return plane(k_bytes_, layer.v_type, layer.v_dim); }

 private:
  static std::vector<int32_t> drawn_order(int64_t capacity, uint64_t seed) {
    std::vector<int32_t> order(
        static_cast<size_t>((capacity + kPagePositions - 1) / kPagePositions));
    std::iota(order.begin(), order.end(), 0);
    Random random(seed);
    for (size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[static_cast<size_t>(random.below(static_cast<int>(i)))]);
    return order;
  }
  static size_t part_bytes(CacheType type, int n_heads, int dim) {
    const size_t bytes = static_cast<size_t>(n_heads * dim) * kPagePositions * value_bytes(type);
    return (bytes + 255) & ~size_t{255};
  }
  // Calls fn with the place where each position of a head lies, and with its place in a plane.
  template <class Function>
  void for_each_row(size_t first, CacheType type, int n_heads, int dim, Function&& fn) const {
    const size_t row = static_cast<size_t>(dim) * value_bytes(type);
    for (int64_t head = 0; head < n_heads; ++head)
      for (int64_t p = 0; p < capacity_; ++p)
        fn(static_cast<size_t>(order_[static_cast<size_t>(p / kPagePositions)]) * page_bytes_ +
               first + static_cast<size_t>(head * kPagePositions + p % kPagePositions) * row,
           static_cast<size_t>(head * capacity_ + p) * row, row);
  }
  std::vector<uint8_t> image(CacheType k_type, CacheType v_type, int n_heads, int k_dim, int v_dim,
                             const std::vector<uint8_t>& k, const std::vector<uint8_t>& v) const {
    std::vector<uint8_t> bytes(page_bytes_ * order_.size(), 0xff);
    for_each_row(0, k_type, n_heads, k_dim,
                 [&](size_t at, size_t from, size_t row) { memcpy(&bytes[at], &k[from], row); });
    for_each_row(k_bytes_, v_type, n_heads, v_dim,
                 [&](size_t at, size_t from, size_t row) { memcpy(&bytes[at], &v[from], row); });
    return bytes;
  }
  std::vector<uint8_t> plane(size_t first, CacheType type, int dim) const {
    const std::vector<uint8_t> bytes = memory_.read();
    std::vector<uint8_t> out(static_cast<size_t>(layer.n_kv_heads * capacity_ * dim) *
                             value_bytes(type));
    for_each_row(first, type, layer.n_kv_heads, dim,
                 [&](size_t at, size_t to, size_t row) { memcpy(&out[to], &bytes[at], row); });
    return out;
  }

  int64_t capacity_;
  std::vector<int32_t> order_;
  OnDevice<int32_t> pages_;
  size_t k_bytes_, page_bytes_;
  OnDevice<uint8_t> memory_;
};

// Spans {rows, first position}, one after the other, of sequences with page tables of `table`
// pages.
class SpansOnDevice {
 public:
  struct Span {
    int64_t n_rows, first_position;
  };
  SpansOnDevice(Gpu& gpu, const std::vector<Span>& given, const int32_t* tables, int table = 0)
      : spans(gpu, records(given)),
        positions(gpu, numbers(given, true)),
        span_of_row(gpu, numbers(given, false)) {
    batch = {
        spans.get(), positions.get(), span_of_row.get(), tables, static_cast<int>(given.size()),
        table};
    for (const Span& span : given)
      bounds.push_back({span.n_rows, span.first_position + span.n_rows});
  }

  OnDevice<SpanOnDevice> spans;
  OnDevice<int32_t> positions, span_of_row;
  BatchOnDevice batch;
  std::vector<SpanBound> bounds;

 private:
  static std::vector<SpanOnDevice> records(const std::vector<Span>& given) {
    std::vector<SpanOnDevice> out;
    int32_t row = 0;
    for (const Span& span : given) {
      out.push_back(
          {row, static_cast<int32_t>(span.n_rows), static_cast<int32_t>(span.first_position), 0});
      row += static_cast<int32_t>(span.n_rows);
    }
    return out;
  }
  static std::vector<int32_t> numbers(const std::vector<Span>& given, bool of_positions) {
    std::vector<int32_t> out;
    for (size_t s = 0; s < given.size(); ++s)
      for (int64_t i = 0; i < given[s].n_rows; ++i)
        out.push_back(static_cast<int32_t>(of_positions ? given[s].first_position + i
                                                        : static_cast<int64_t>(s)));
    return out;
  }
};

inline std::vector<int32_t> positions_from(int64_t first, int64_t n) {
  std::vector<int32_t> positions(static_cast<size_t>(n));
  std::iota(positions.begin(), positions.end(), static_cast<int32_t>(first));
  return positions;
}

}  // namespace hrun::gpu
