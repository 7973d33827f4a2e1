#include "runtime/kv_cache.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "formats/list.h"

namespace hrun {
namespace {

using KvFormats = FormatList<F16, F32>;

constexpr std::string_view kNames[] = {F16::kName, F32::kName};
static_assert(std::size(kNames) == KvFormats::kSize);

const FormatInfo& require_kv_format(std::string_view name) {
  const FormatInfo* f = find_format(name);
  if (!f || !KvFormats::visit(f->id, []<class F>() {}))
    throw ArgumentError("a KV cache cannot hold '{}'; possible: f16, f32", printable(name));
  return *f;
}

}  // namespace

std::span<const std::string_view> kv_format_names() { return kNames; }

KVCache::KVCache(const Model& model, int64_t n_ctx, std::string_view k_format,
                 std::string_view v_format) {
  const HyperParams& p = model.params();
  const FormatInfo& k = require_kv_format(k_format);
  const FormatInfo& v = require_kv_format(v_format);
  size_t all = 0;
  const auto product = [](size_t a, size_t b, size_t& out) {
    return __builtin_mul_overflow(a, b, &out);
  };
  if (product(static_cast<size_t>(n_ctx) + kCacheBlock,
              k.row_bytes(p.k_dim) + v.row_bytes(p.v_dim) + 128, all) ||
      product(all, static_cast<size_t>(p.n_kv_heads), all) ||
      product(all, static_cast<size_t>(p.n_layers), all))
    throw OutOfMemoryError("a KV cache of {} positions is larger than the address space", n_ctx);
  const std::string purpose =
      format("the KV cache of {} positions; a smaller context (-c) needs less", n_ctx);
  for (int64_t first = 0, end = 0; first < p.n_layers; first = end) {
    while (end < p.n_layers && model.device_of(end) == model.device_of(first))
      ++end;  // a buffer for the layers of this device
    Backend& backend = model.backend(model.device_of(first));
    const bool in_blocks = backend.cache_in_blocks();
    const int64_t capacity =
        in_blocks ? (n_ctx + kCacheBlock - 1) / kCacheBlock * kCacheBlock : n_ctx;
    // Of a layer: of a head in a block, whose keys and values lie together as they are read; or of
    // all.  64-byte steps keep rows aligned for vector loads.
    const auto positions = static_cast<size_t>(in_blocks ? kCacheBlock : p.n_kv_heads * capacity);
    const size_t k_bytes = (positions * k.row_bytes(p.k_dim) + 63) & ~size_t{63};
    const size_t v_bytes = (positions * v.row_bytes(p.v_dim) + 63) & ~size_t{63};
    const size_t layer_bytes =
        (k_bytes + v_bytes) * static_cast<size_t>(in_blocks ? p.n_kv_heads : 1);
    const size_t block_bytes = layer_bytes * static_cast<size_t>(end - first);
    buffers_.push_back(backend.allocate(
        in_blocks ? block_bytes * static_cast<size_t>(capacity / kCacheBlock) : block_bytes,
        purpose));
    bytes_ += buffers_.back()->bytes;
    auto* base = static_cast<uint8_t*>(buffers_.back()->data);
    for (int64_t l = first; l < end; ++l, base += layer_bytes) {
      KVLayer view;
      view.k = base;
      view.v = base + k_bytes;
      view.k_format = k.id;
      view.v_format = v.id;
      view.capacity = capacity;
      view.n_kv_heads = static_cast<int>(p.n_kv_heads);
      view.k_dim = static_cast<int>(p.k_dim);
      view.v_dim = static_cast<int>(p.v_dim);
      view.block_stride = in_blocks ? block_bytes : 0;
      view.head_stride = in_blocks ? k_bytes + v_bytes : 0;
      layers_.push_back(view);
    }
  }
}

}  // namespace hrun
