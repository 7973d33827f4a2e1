// A GGUF metadata value as a view into the mapped file.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

namespace hrun::gguf {

enum class Type : uint32_t {
  u8 = 0, i8 = 1, u16 = 2, i16 = 3, u32 = 4, i32 = 5, f32 = 6, boolean = 7, string = 8, array = 9, u64 = 10, i64 = 11, f64 = 12,
};
std::string_view type_name(Type type);

// An array stays in the file's bytes; at() and the iteration helpers decode on demand.  All bytes were validated.
class Array {
 public:
  Array(Type element, uint64_t size, std::span<const uint8_t> bytes) : element_(element), size_(size), bytes_(bytes) {}
  Type element() const { return element_; }
  uint64_t size() const { return size_; }
  std::span<const uint8_t> bytes() const { return bytes_; }

 private:
  Type element_;
  uint64_t size_;
  std::span<const uint8_t> bytes_;  // strings: length-prefixed, back to back
};

using Value = std::variant<uint64_t, int64_t, double, bool, std::string_view, Array>;

struct Entry {
  std::string_view key;
  Type type;
  Value value;
};

}  // namespace hrun::gguf
