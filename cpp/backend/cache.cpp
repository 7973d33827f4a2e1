#include "backend/cache.h"

#include <utility>

#include "base/error.h"

namespace hrun {
namespace {

constexpr std::string_view kNames[] = {"f16", "f32", "rtq8", "rtq5", "rtq4", "rtq3", "rtq2"};
static_assert(std::size(kNames) == static_cast<size_t>(CacheType::rtq2) + 1);

// Names that other programs give to caches of about as many bits.
constexpr std::pair<std::string_view, CacheType> kWishes[] = {
    {"q8_0", CacheType::rtq8}, {"q5_0", CacheType::rtq5}, {"q5_1", CacheType::rtq5},
    {"q4_0", CacheType::rtq4}, {"q4_1", CacheType::rtq4}, {"iq4_nl", CacheType::rtq4}};

}  // namespace

std::span<const std::string_view> cache_type_names() { return kNames; }

std::string_view cache_type_name(CacheType type) { return kNames[static_cast<size_t>(type)]; }

CacheType cache_type_named(std::string_view name) {
  std::string known;
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (kNames[i] == name) return static_cast<CacheType>(i);
    known += (i ? ", " : "") + std::string(kNames[i]);
  }
  for (const auto& [wish, type] : kWishes)
    if (wish == name) return type;
  throw ArgumentError("a KV cache cannot hold '{}'; possible: {}", printable(name), known);
}

size_t cache_position_bytes(CacheType type, int64_t dim, int64_t n_plain) {
  const auto values = static_cast<size_t>(dim);
  if (type == CacheType::f32) return values * sizeof(float);
  if (type == CacheType::f16) return values * sizeof(uint16_t);
  const auto plain = static_cast<size_t>(n_plain);
  return (values - plain) * static_cast<size_t>(cache_code_bits(type)) / 8 +
         (1 + plain) * sizeof(uint16_t);
}

void require_codes(const CacheLayer& layer) {
  constexpr int kUnit = 16;
  if (layer.is_coded() &&
      (layer.k_dim % kUnit != 0 || layer.v_dim % kUnit != 0 || layer.k_plain % kUnit != 0))
    throw UnsupportedModelError(
        "a cache of {} and {} needs heads of a multiple of {} values; these have {} and {}{}",
        cache_type_name(layer.k_type), cache_type_name(layer.v_type), kUnit, layer.k_dim,
        layer.v_dim, layer.k_plain > 0 ? message(", of which {} are no codes", layer.k_plain) : "");
}

}  // namespace hrun
