#include "backend/cache.h"

#include "base/error.h"

namespace hrun {
namespace {

constexpr std::string_view kNames[] = {"f16", "f32"};
static_assert(std::size(kNames) == static_cast<size_t>(CacheType::f32) + 1);

}  // namespace

std::span<const std::string_view> cache_type_names() { return kNames; }

std::string_view cache_type_name(CacheType type) { return kNames[static_cast<size_t>(type)]; }

CacheType cache_type_named(std::string_view name) {
  std::string known;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<CacheType>(i);
    known += (i ? ", " : "") + std::string(kNames[i]);
  }
  throw ArgumentError("a KV cache cannot hold '{}'; possible: {}", printable(name), known);
}

}  // namespace hrun
