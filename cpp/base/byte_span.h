// The one way to read bytes that someone else wrote: a span with a position, where every access is
// checked and no arithmetic can wrap.  Nothing here throws; the caller knows what it was reading
// and says so.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <optional>
#include <span>
#include <string_view>
#include <type_traits>

namespace hrun {

static_assert(std::endian::native == std::endian::little,
              "files are read in place, as little-endian");

inline std::optional<uint64_t> checked_add(uint64_t a, uint64_t b) {
  uint64_t sum;
  if (__builtin_add_overflow(a, b, &sum)) return std::nullopt;
  return sum;
}

inline std::optional<uint64_t> checked_mul(uint64_t a, uint64_t b) {
  uint64_t product;
  if (__builtin_mul_overflow(a, b, &product)) return std::nullopt;
  return product;
}

// The next multiple of `alignment`, a power of two.
inline std::optional<uint64_t> checked_align(uint64_t value, uint64_t alignment) {
  const std::optional<uint64_t> sum = checked_add(value, alignment - 1);
  if (!sum) return std::nullopt;
  return *sum & ~(alignment - 1);
}

class ByteSpan {
 public:
  using Bytes = std::span<const uint8_t>;

  explicit ByteSpan(Bytes bytes) : bytes_(bytes) {}

  uint64_t size() const { return bytes_.size(); }
  uint64_t position() const { return position_; }
  uint64_t remaining() const { return bytes_.size() - position_; }

  // The next `count` bytes, or nothing (and the position stays) where they are not all there.
  std::optional<Bytes> take(uint64_t count) {
    if (count > remaining()) return std::nullopt;
    const Bytes taken = bytes_.subspan(position_, count);
    position_ += count;
    return taken;
  }

  template <class T>
  std::optional<T> read() {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool>);
    const std::optional<Bytes> bytes = take(sizeof(T));
    if (!bytes) return std::nullopt;
    T value;
    std::memcpy(&value, bytes->data(), sizeof value);
    return value;
  }

  // Bytes [offset, offset + count) wherever the position is.
  std::optional<Bytes> at(uint64_t offset, uint64_t count) const {
    if (offset > bytes_.size() || count > bytes_.size() - offset) return std::nullopt;
    return bytes_.subspan(offset, count);
  }

  template <class T>
  std::optional<T> read_at(uint64_t offset) const {
    const std::optional<Bytes> bytes = at(offset, sizeof(T));
    if (!bytes) return std::nullopt;
    return ByteSpan(*bytes).read<T>();
  }

 private:
  Bytes bytes_;
  size_t position_ = 0;
};

inline std::string_view as_text(ByteSpan::Bytes bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace hrun
