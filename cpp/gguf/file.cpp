#include "gguf/file.h"

#include <algorithm>

#include "base/error.h"
#include "formats/list.h"
#include "gguf/pieces.h"
#include "gguf/state.h"

namespace hrun::gguf {
namespace {

// Describes the type and, for short values, the value itself, for messages: "u32 7", "string 'x'",
// "array<i32> of 3".
std::string describe(const Entry& entry) {
  return std::visit(
      [&](const auto& value) -> std::string {
        using T = std::decay_t<decltype(value)>;
        if constexpr (std::is_same_v<T, Array>)
          return message("array<{}> of {}", type_name(value.element()), value.size());
        else if constexpr (std::is_same_v<T, std::string_view>)
          return message("string '{}'", printable(value, 64));
        else if constexpr (std::is_same_v<T, bool>)
          return value ? "bool true" : "bool false";
        else
          return message("{} {}", type_name(entry.type), value);
      },
      entry.value);
}

}  // namespace

File::File(std::unique_ptr<State> state) : state_(std::move(state)) {}
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;
File::~File() = default;

File File::parse(std::span<const uint8_t> data, std::string path) {
  auto state = std::make_unique<State>();
  state->path = std::move(path);
  state->bytes = data;
  parse_file(*state);
  return File(std::move(state));
}

File File::open(const std::string& path) {
  auto state = std::make_unique<State>();
  state->path = path;
  state->map = MappedFile::open(path);
  state->bytes = state->map->bytes();
  File file(std::move(state));
  try {
    parse_file(*file.state_);
  } catch (const ModelFileError& fault) {
    file.check_readable();  // or it would say what is wrong with zeros
    if (const std::string piece = describe_piece(path); !piece.empty())
      throw ModelFileError("{}; {}", fault.what(), piece);
    throw;
  }
  file.check_readable();
  return file;
}

const std::string& File::path() const { return state_->path; }
uint32_t File::version() const { return state_->version; }
uint32_t File::alignment() const { return state_->alignment; }
std::span<const Entry> File::metadata() const { return state_->entries; }
std::span<const TensorInfo> File::tensors() const { return state_->tensors; }
uint64_t File::file_bytes() const { return state_->bytes.size(); }
uint64_t File::unused_bytes() const {
  const uint64_t end = checked_align(state_->data_end, state_->alignment).value_or(file_bytes());
  return end < file_bytes() ? file_bytes() - end : 0;
}

const Entry* File::find(std::string_view key) const {
  const auto& order = state_->entries_by_key;
  const auto at =
      std::lower_bound(order.begin(), order.end(), key,
                       [&](uint32_t i, std::string_view k) { return state_->entries[i].key < k; });
  if (at == order.end() || state_->entries[*at].key != key) return nullptr;
  return &state_->entries[*at];
}

const TensorInfo* File::find_tensor(std::string_view name) const {
  const auto& order = state_->tensors_by_name;
  const auto at =
      std::lower_bound(order.begin(), order.end(), name,
                       [&](uint32_t i, std::string_view n) { return state_->tensors[i].name < n; });
  if (at == order.end() || state_->tensors[*at].name != name) return nullptr;
  return &state_->tensors[*at];
}

std::span<const uint8_t> File::data(const TensorInfo& tensor) const {
  if (tensor.bytes == 0) return {};
  if (tensor.part > 0) {
    TensorInfo there = tensor;
    there.part = 0;
    return state_->parts[tensor.part - 1].data(there);
  }
  const auto bytes = ByteSpan(state_->bytes).at(tensor.offset, tensor.bytes);
  if (!bytes) fail("tensor '{}': not a tensor of this file", printable(tensor.name));
  return *bytes;
}

void File::release_pages(const TensorInfo& tensor) const {
  if (tensor.part > 0) {
    TensorInfo there = tensor;
    there.part = 0;
    return state_->parts[tensor.part - 1].release_pages(there);
  }
  if (state_->map) state_->map->release_pages(tensor.offset, tensor.bytes);
}

void File::check_readable() const {
  if (state_->map)
    if (const auto from = state_->map->unreadable_from())
      fail(
          "its {} bytes cannot be read any more from byte {} on: it was cut short, or its disk "
          "failed",
          file_bytes(), *from);
  for (const File& part : state_->parts) part.check_readable();
}

TensorView File::view(const TensorInfo& tensor) const {
  TensorView view;
  view.format = tensor.format;
  view.name = tensor.name;
  view.cols = static_cast<int64_t>(tensor.dims[0]);
  view.rows = 1;
  // A size of 0 anywhere makes the product meaningless (and could make it wrap); the parser bounded
  // all others.
  const bool empty =
      std::find(std::begin(tensor.dims), std::end(tensor.dims), 0u) != std::end(tensor.dims);
  for (int d = 1; d < tensor.n_dims; ++d)
    view.rows = empty ? 0 : view.rows * static_cast<int64_t>(tensor.dims[d]);
  if (empty) view.rows = 0;
  view.row_bytes = view.rows > 0 ? tensor.bytes / static_cast<uint64_t>(view.rows) : 0;
  view.data = data(tensor).data();
  return view;
}

void File::throw_model_file_error(const std::string& what) const {
  throw ModelFileError("cannot load '{}': {}", printable(state_->path, kShownPathBytes), what);
}

const Entry& File::require(std::string_view key) const {
  if (const Entry* entry = find(key)) return *entry;
  fail("key '{}' is missing", printable(key));
}

uint64_t File::get_uint(std::string_view key) const {
  const Entry& entry = require(key);
  if (const auto* value = std::get_if<uint64_t>(&entry.value)) return *value;
  if (const auto* value = std::get_if<int64_t>(&entry.value); value && *value >= 0)
    return static_cast<uint64_t>(*value);
  fail("key '{}' is {}, must be an unsigned integer", printable(key), describe(entry));
}

uint64_t File::get_uint_or(std::string_view key, uint64_t fallback) const {
  return find(key) ? get_uint(key) : fallback;
}

double File::get_float(std::string_view key) const {
  const Entry& entry = require(key);
  if (const auto* value = std::get_if<double>(&entry.value)) return *value;
  if (const auto* value = std::get_if<uint64_t>(&entry.value)) return static_cast<double>(*value);
  if (const auto* value = std::get_if<int64_t>(&entry.value)) return static_cast<double>(*value);
  fail("key '{}' is {}, must be a number", printable(key), describe(entry));
}

double File::get_float_or(std::string_view key, double fallback) const {
  return find(key) ? get_float(key) : fallback;
}

bool File::get_bool_or(std::string_view key, bool fallback) const {
  const Entry* entry = find(key);
  if (!entry) return fallback;
  if (const auto* value = std::get_if<bool>(&entry->value)) return *value;
  fail("key '{}' is {}, must be a bool", printable(key), describe(*entry));
}

std::string_view File::get_string(std::string_view key) const {
  const Entry& entry = require(key);
  if (const auto* value = std::get_if<std::string_view>(&entry.value)) return *value;
  fail("key '{}' is {}, must be a string", printable(key), describe(entry));
}

std::optional<std::string_view> File::find_string(std::string_view key) const {
  if (!find(key)) return std::nullopt;
  return get_string(key);
}

const Array& File::get_array(std::string_view key) const {
  const Entry& entry = require(key);
  if (const auto* value = std::get_if<Array>(&entry.value)) return *value;
  fail("key '{}' is {}, must be an array", printable(key), describe(entry));
}

const Array& File::get_array(std::string_view key, Type element) const {
  const Array& array = get_array(key);
  if (array.element() == element) return array;
  fail("key '{}' is array<{}>, must be array<{}>", printable(key), type_name(array.element()),
       type_name(element));
}

std::vector<std::string_view> File::get_strings(std::string_view key) const {
  const Array& array = get_array(key, Type::string);
  std::vector<std::string_view> out;
  out.reserve(array.size());  // at least 8 bytes of the file each
  array.for_each_string([&](std::string_view text) { out.push_back(text); });
  return out;
}

}  // namespace hrun::gguf
