// A GGUF metadata value as a view into the mapped file.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "base/byte_span.h"

namespace hrun::gguf {

enum class Type : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};
inline constexpr uint32_t kTypeCount = 13;

std::string_view type_name(Type type);                 // "u8", "bool", "string", ...
std::optional<Type> find_type(std::string_view name);  // the inverse
uint64_t type_bytes(Type type);  // of a number or boolean; 8 (the length) of a string

constexpr bool is_unsigned(Type t) {
  return t == Type::u8 || t == Type::u16 || t == Type::u32 || t == Type::u64;
}
constexpr bool is_signed(Type t) {
  return t == Type::i8 || t == Type::i16 || t == Type::i32 || t == Type::i64;
}
constexpr bool is_float(Type t) { return t == Type::f32 || t == Type::f64; }

class Array;
using Value = std::variant<uint64_t, int64_t, double, bool, std::string_view, Array>;

// An array stays in the file's bytes, which were validated; elements are decoded on demand.
class Array {
 public:
  Array(Type element, uint64_t size, std::span<const uint8_t> bytes)
      : element_(element), size_(size), bytes_(bytes) {}
  Type element() const { return element_; }
  uint64_t size() const { return size_; }
  std::span<const uint8_t> bytes() const {
    return bytes_;
  }  // strings: length-prefixed, back to back

  // Calls f(value) for each element in order, with the Value alternative of the element's type.
  template <class Function>
  void for_each(Function&& f) const;
  // The same for an array of strings, without the variant: f(std::string_view).
  template <class Function>
  void for_each_string(Function&& f) const;

 private:
  Type element_;
  uint64_t size_;
  std::span<const uint8_t> bytes_;
};

struct Entry {
  std::string_view key;
  Type type;
  Value value;
};

// Decodes one number, boolean or string; nothing where the bytes end first.  A boolean is true
// unless its byte is 0.
std::optional<Value> read_scalar(ByteSpan& bytes, Type type);
std::optional<std::string_view> read_string(ByteSpan& bytes);

template <class Function>
void Array::for_each(Function&& f) const {
  ByteSpan rest(bytes_);
  for (uint64_t i = 0; i < size_; ++i) {
    const std::optional<Value> value = read_scalar(rest, element_);
    if (!value) return;
    f(*value);
  }
}

template <class Function>
void Array::for_each_string(Function&& f) const {
  if (element_ != Type::string) return;
  ByteSpan rest(bytes_);
  for (uint64_t i = 0; i < size_; ++i) {
    const std::optional<std::string_view> text = read_string(rest);
    if (!text) return;
    f(*text);
  }
}

}  // namespace hrun::gguf
