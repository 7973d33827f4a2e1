#include "gguf/value.h"

#include <array>

namespace hrun::gguf {
namespace {

struct TypeRow {
  std::string_view name;
  uint64_t bytes;
};
constexpr std::array<TypeRow, kTypeCount> kTypes = {{
    {"u8", 1},
    {"i8", 1},
    {"u16", 2},
    {"i16", 2},
    {"u32", 4},
    {"i32", 4},
    {"f32", 4},
    {"bool", 1},
    {"string", 8},
    {"array", 12},
    {"u64", 8},
    {"i64", 8},
    {"f64", 8},
}};

template <class T, class Wide>
std::optional<Value> widen(ByteSpan& bytes) {
  const std::optional<T> value = bytes.read<T>();
  if (!value) return std::nullopt;
  return Value(static_cast<Wide>(*value));
}

}  // namespace

std::string_view type_name(Type type) {
  const auto id = static_cast<uint32_t>(type);
  return id < kTypeCount ? kTypes[id].name : "unknown";
}

std::optional<Type> find_type(std::string_view name) {
  for (uint32_t id = 0; id < kTypeCount; ++id)
    if (kTypes[id].name == name) return static_cast<Type>(id);
  return std::nullopt;
}

uint64_t type_bytes(Type type) { return kTypes[static_cast<uint32_t>(type)].bytes; }

std::optional<std::string_view> read_string(ByteSpan& bytes) {
  const std::optional<uint64_t> length = bytes.read<uint64_t>();
  if (!length) return std::nullopt;
  const std::optional<ByteSpan::Bytes> text = bytes.take(*length);
  if (!text) return std::nullopt;
  return as_text(*text);
}

std::optional<Value> read_scalar(ByteSpan& bytes, Type type) {
  switch (type) {
    case Type::u8:
      return widen<uint8_t, uint64_t>(bytes);
    case Type::i8:
      return widen<int8_t, int64_t>(bytes);
    case Type::u16:
      return widen<uint16_t, uint64_t>(bytes);
    case Type::i16:
      return widen<int16_t, int64_t>(bytes);
    case Type::u32:
      return widen<uint32_t, uint64_t>(bytes);
    case Type::i32:
      return widen<int32_t, int64_t>(bytes);
    case Type::u64:
      return widen<uint64_t, uint64_t>(bytes);
    case Type::i64:
      return widen<int64_t, int64_t>(bytes);
    case Type::f32:
      return widen<float, double>(bytes);
    case Type::f64:
      return widen<double, double>(bytes);
    case Type::boolean:
      return widen<uint8_t, bool>(bytes);
    case Type::string:
      if (const auto text = read_string(bytes)) return Value(*text);
      return std::nullopt;
    case Type::array:
      return std::nullopt;
  }
  return std::nullopt;
}

}  // namespace hrun::gguf
