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

KVCache::KVCache(const Model& model, int64_t n_ctx, std::string_view k_format, std::string_view v_format) {
  const HyperParams& p = model.params();
  const FormatInfo& k = require_kv_format(k_format);
  const FormatInfo& v = require_kv_format(v_format);
  size_t k_bytes = 0, v_bytes = 0, layer = 0, total = 0;
  const auto product = [](size_t a, size_t b, size_t& out) { return __builtin_mul_overflow(a, b, &out); };
  const size_t positions = static_cast<size_t>(p.n_kv_heads) * static_cast<size_t>(n_ctx);
  // 64-byte steps keep each layer's rows aligned for vector loads.
  if (product(positions, k.row_bytes(p.k_dim), k_bytes) || product(positions, v.row_bytes(p.v_dim), v_bytes) ||
      __builtin_add_overflow(k_bytes, v_bytes, &layer) || __builtin_add_overflow(layer, size_t{128}, &layer) ||
      product(layer, static_cast<size_t>(p.n_layers), total))
    throw OutOfMemoryError("a KV cache of {} positions is larger than the address space", n_ctx);
  k_bytes = (k_bytes + 63) & ~size_t{63};
  v_bytes = (v_bytes + 63) & ~size_t{63};
  const std::string purpose = format("the KV cache of {} positions; a smaller context (-c) needs less", n_ctx);
  uint8_t* base = nullptr;
  for (int64_t l = 0; l < p.n_layers; ++l) {
    if (l == 0 || model.device_of(l) != model.device_of(l - 1)) {  // a buffer for the layers of this device
      int64_t count = 0;
      while (l + count < p.n_layers && model.device_of(l + count) == model.device_of(l)) ++count;
      buffers_.push_back(model.backend(model.device_of(l)).allocate((k_bytes + v_bytes) * static_cast<size_t>(count), purpose));
      bytes_ += buffers_.back()->bytes;
      base = static_cast<uint8_t*>(buffers_.back()->data);
    }
    KVLayer view;
    view.k = base;
    view.v = base + k_bytes;
    base += k_bytes + v_bytes;
    view.k_format = k.id;
    view.v_format = v.id;
    view.capacity = n_ctx;
    view.n_kv_heads = static_cast<int>(p.n_kv_heads);
    view.k_dim = static_cast<int>(p.k_dim);
    view.v_dim = static_cast<int>(p.v_dim);
    layers_.push_back(view);
  }
}

}  // namespace hrun
