#include "cpu/backend/cpu_cache.h"

#include <cstring>

#include "backend/checks.h"
#include "cpu/kernel_table.h"
#include "cpu/memory.h"
#include "formats/cache_codes.h"
#include "formats/list.h"

namespace hrun {
namespace {

size_t round_up_64(size_t bytes) { return (bytes + 63) & ~size_t{63}; }

}  // namespace

FormatId cache_format(CacheType type) { return type == CacheType::f32 ? F32::kId : F16::kId; }
size_t row_bytes(CacheType type, int dim) {
  return cache_position_bytes(hrun::is_coded(type) ? CacheType::f16 : type, dim);
}

CpuCache::CpuCache(const CachePlan& plan, std::string_view purpose) : DeviceCache(plan) {
  // Steps of 64 bytes keep rows aligned for vector loads.
  const auto rows = [](CacheType type, int dim) {
    return round_up_64(row_bytes(type, dim) * kPagePositions);
  };
  const auto bytes = [&](CacheType type, int dim, int n_plain) {
    if (!hrun::is_coded(type)) return rows(type, dim);
    return cache_position_bytes(type, dim, n_plain) * kPagePositions;
  };
  size_t rows_bytes = 0, beginning_bytes = 0, squares_bytes = 0;
  for (const CacheLayer& layer : plan.layers) {
    const auto n_heads = static_cast<size_t>(layer.n_kv_heads);
    require_codes(layer);
    Place place{};
    place.offset = page_bytes_;
    place.key_bytes = bytes(layer.k_type, layer.k_dim, layer.k_plain);
    place.value_bytes = bytes(layer.v_type, layer.v_dim, 0);
    page_bytes_ += (place.key_bytes + place.value_bytes) * n_heads;
    if (layer.is_coded()) {
      coded_ = true;
      place.rows_offset = rows_bytes;
      place.row_key_bytes = rows(layer.k_type, layer.k_dim);
      place.row_value_bytes = rows(layer.v_type, layer.v_dim);
      rows_bytes += (place.row_key_bytes + place.row_value_bytes) * n_heads;
      place.beginning_offset = beginning_bytes;
      place.beginning_bytes = round_up_64(kExactPositions * (row_bytes(layer.k_type, layer.k_dim) +
                                                             row_bytes(layer.v_type, layer.v_dim)) +
                                          2 * sizeof(float) * static_cast<size_t>(layer.k_dim));
      beginning_bytes += place.beginning_bytes * n_heads;
      place.squares_offset = squares_bytes;
      squares_bytes += sizeof(float) * kPagePositions * static_cast<size_t>(layer.k_dim) * n_heads;
    }
    places_.push_back(place);
  }
  size_t all = 0;
  if (__builtin_mul_overflow(page_bytes_, static_cast<size_t>(plan.n_pages), &all))
    throw OutOfMemoryError("{}: {} pages of {} bytes are more than the address space", purpose,
                           plan.n_pages, page_bytes_);
  // Pages are used from the first one on, so huge pages of the system pay.
  memory_ = allocate_host(all, purpose, Pages::huge);
  if (!coded_) return;
  const auto buffers = [&](size_t size) {
    return PageBuffers(
        size, plan.n_pages,
        [](size_t n) {
          return allocate_host(n, "keys and values that are not coded yet", Pages::small);
        },
        [](void* to, const void* from, size_t n) { std::memcpy(to, from, n); });
  };
  beside_ = {buffers(rows_bytes), buffers(beginning_bytes), buffers(squares_bytes)};
}

CpuCache::Rows CpuCache::rows(size_t layer, int64_t head, int32_t page) const {
  const Place& place = places_[layer];
  uint8_t* const keys = beside_.rows.find(page) + place.rows_offset +
                        static_cast<size_t>(head) * (place.row_key_bytes + place.row_value_bytes);
  return {keys, keys + place.row_key_bytes};
}

CpuCache::Beginning CpuCache::beginning(size_t layer, int64_t head, int32_t page) const {
  const Place& place = places_[layer];
  const CacheLayer& plan = this->layer(layer);
  uint8_t* const at = beside_.beginnings.find(page) + place.beginning_offset +
                      static_cast<size_t>(head) * place.beginning_bytes;
  auto* const mean = reinterpret_cast<float*>(at);  // numbers first: they are aligned
  float* const balance = mean + plan.k_dim;
  auto* const keys = reinterpret_cast<uint8_t*>(balance + plan.k_dim);
  return {keys, keys + kExactPositions * row_bytes(plan.k_type, plan.k_dim), mean, balance};
}

float* CpuCache::query_squares(size_t layer, int64_t head, int32_t page) const {
  auto* const all =
      reinterpret_cast<float*>(beside_.squares.find(page) + places_[layer].squares_offset);
  return all + head * kPagePositions * this->layer(layer).k_dim;
}

void CpuCache::drop_rows(int32_t page) {
  if (coded_) beside_.drop(page);
}

void CpuCache::do_copy_page(int32_t from, int32_t to, int64_t /*n_positions*/) {
  // A few positions lie scattered over the keys of every head: the whole page is one copy.
  auto* const base = static_cast<uint8_t*>(memory_->data);
  std::memcpy(base + static_cast<size_t>(to) * page_bytes_,
              base + static_cast<size_t>(from) * page_bytes_, page_bytes_);
  if (coded_) beside_.copy(from, to);
}

}  // namespace hrun
