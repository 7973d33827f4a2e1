// The parser: header, metadata, tensor table, extents, in file order, without recursion.  Every
// count is compared with the bytes that are left before anything is allocated for it.
#include <algorithm>
#include <numeric>

#include "base/byte_span.h"
#include "base/error.h"
#include "base/utf8.h"
#include "formats/list.h"
#include "gguf/lookalikes.h"
#include "gguf/ggml_ids.h"
#include "gguf/state.h"

namespace hrun::gguf {
namespace {

constexpr uint32_t kMagic = 0x46554747;  // "GGUF"
constexpr uint64_t kMinEntryBytes = 8 + 1 + 4 + 1;
constexpr uint64_t kMinTensorBytes = 8 + 1 + 4 + 8 + 4 + 8;
// Smallest storage of any format is above one bit per weight, so a tensor of more values than bits
// cannot be there.
constexpr uint64_t kMaxValuesPerByte = 8;

constexpr uint32_t kQ1_0 = 41;  // GGML's meaning of the id ...
constexpr FormatId kItq3S =
    kOwnFormats + 1;  // ... and that of the public ITQ3_S fork, under our id
constexpr uint64_t kQ1_0Values = 128, kQ1_0Bytes = 18;  // fp16 scale and 128 bits

class Parser {
 public:
  explicit Parser(File::State& state) : state_(state), in_(state.bytes) {}

  void run() {
    header();
    for (uint64_t i = 0; i < n_entries_; ++i) entry(i);
    index_entries();
    read_alignment();
    for (uint64_t i = 0; i < n_tensors_; ++i) tensor(i);
    index_tensors();
    place_tensors();
  }

 private:
  template <class... Args>
  [[noreturn]] void fail(std::string_view pattern, const Args&... args) const {
    throw ModelFileError("cannot load '{}': {}", printable(state_.path, kShownPathBytes),
                         message(pattern, args...));
  }
  template <class... Args>
  [[noreturn]] void unsupported(std::string_view pattern, const Args&... args) const {
    throw UnsupportedModelError("cannot load '{}': {}", printable(state_.path, kShownPathBytes),
                                message(pattern, args...));
  }
  [[noreturn]] void fail_truncated(const std::string& where) const {
    fail("the file ends at byte {} inside {}; the download may be incomplete", in_.size(), where);
  }

  // Says where the parser is, for messages; it is only built when something is wrong.
  std::string entry_name(uint64_t i) const {
    return current_.empty() ? message("metadata {} of {}", i, n_entries_)
                            : message("metadata {} ('{}')", i, printable(current_));
  }
  std::string tensor_name(uint64_t i) const {
    return current_.empty() ? message("tensor {} of {}", i, n_tensors_)
                            : message("tensor {} of {} ('{}')", i, n_tensors_, printable(current_));
  }

  template <class T>
  T read(auto&& where) {
    if (const std::optional<T> value = in_.read<T>()) return *value;
    fail_truncated(where());
  }

  void header();
  void entry(uint64_t i);
  Value scalar(uint64_t i, Type type);
  Value array(uint64_t i);
  std::string_view text(uint64_t length, std::string_view what, auto&& where);
  void index_entries();
  void read_alignment();
  void tensor(uint64_t i);
  void index_tensors();
  void place_tensors();
  bool is_itq3s_fork(const std::vector<uint32_t>& by_offset) const;
  void size_tensor(TensorInfo& tensor, bool fork) const;
  std::string shape(const TensorInfo& tensor) const;

  File::State& state_;
  ByteSpan in_;
  uint64_t n_entries_ = 0, n_tensors_ = 0;
  std::string_view current_;  // key or tensor name, once it is known
};

void Parser::header() {
  const auto where = [] { return std::string("the header"); };
  if (in_.size() == 0) fail("the file is empty");
  if (in_.size() < 4)
    fail("the file is {} bytes long, too short for a GGUF header ({} bytes)", in_.size(),
         kHeaderBytes);
  if (read<uint32_t>(where) != kMagic) fail("{}", describe_lookalike(state_.bytes));
  state_.version = read<uint32_t>(where);
  if (state_.version != 0 && (state_.version & 0xffffu) == 0)
    unsupported(
        "this is a big-endian GGUF file (version {} with its bytes reversed, at byte 4); expected "
        "little-endian: "
        "convert the model again for a little-endian machine",
        __builtin_bswap32(state_.version));
  if (state_.version == 0) fail("GGUF version 0 (at byte 4) does not exist, expected 2 or 3");
  if (state_.version == 1)
    unsupported(
        "GGUF version 1 (at byte 4) is not supported, expected 2 or 3; convert the original model "
        "again");
  if (state_.version > 3)
    unsupported("GGUF version {} (at byte 4) is newer than this hrun, which reads 2 and 3",
                state_.version);
  n_tensors_ = read<uint64_t>(where);
  n_entries_ = read<uint64_t>(where);
  if (n_tensors_ > in_.remaining() / kMinTensorBytes)
    fail("tensor count {} (at byte 8) cannot fit in a file of {} bytes", n_tensors_, in_.size());
  if (n_entries_ > in_.remaining() / kMinEntryBytes)
    fail("metadata count {} (at byte 16) cannot fit in a file of {} bytes", n_entries_, in_.size());
}

std::string_view Parser::text(uint64_t length, std::string_view what, auto&& where) {
  const uint64_t at = in_.position();
  if (const auto bytes = in_.take(length)) return as_text(*bytes);
  fail(
      "{}: {} of {} bytes at byte {} runs past the end of the file ({} bytes); the download may be "
      "incomplete",
      where(), what, length, at, in_.size());
}

void Parser::entry(uint64_t i) {
  current_ = {};
  const auto where = [&] { return entry_name(i); };
  const uint64_t at = in_.position();
  const auto length = read<uint64_t>(where);
  if (length == 0) fail("metadata {}: empty key at byte {}", i, at);
  // A length beyond the file says more about it than one beyond the limit.
  if (length > kMaxKeyBytes && length <= in_.remaining())
    fail("metadata {}: key at byte {} is {} bytes long, limit {}", i, at, length, kMaxKeyBytes);
  const std::string_view key = text(length, "key", where);
  if (key.find('\0') != std::string_view::npos)
    fail("metadata {}: key '{}' at byte {} contains a zero byte", i, printable(key), at);
  if (!is_utf8(key))
    fail("metadata {}: key '{}' at byte {} is not valid UTF-8", i, printable(key), at);
  current_ = key;

  const uint64_t type_at = in_.position();
  const auto type = read<uint32_t>(where);
  if (type >= kTypeCount)
    fail("key '{}': unknown value type {} at byte {}, must be 0 to {}", printable(key), type,
         type_at, kTypeCount - 1);
  const auto known = static_cast<Type>(type);
  Value value = known == Type::array ? array(i) : scalar(i, known);
  state_.entries.push_back({key, known, std::move(value)});
}

Value Parser::scalar(uint64_t i, Type type) {
  const auto where = [&] { return entry_name(i); };
  const uint64_t at = in_.position();
  if (type == Type::string) {
    const auto length = read<uint64_t>(where);
    const std::string_view value = text(length, "string", where);
    if (const size_t zero = value.find('\0'); zero != std::string_view::npos)
      fail("key '{}': the string contains a zero byte at byte {}", printable(current_),
           at + 8 + zero);
    return value;
  }
  if (type == Type::boolean) {
    const auto byte = read<uint8_t>(where);
    if (byte > 1)
      fail("key '{}': boolean at byte {} is {}, must be 0 or 1", printable(current_), at,
           unsigned{byte});
    return byte != 0;
  }
  if (const std::optional<Value> value = read_scalar(in_, type)) return *value;
  fail_truncated(where());
}

Value Parser::array(uint64_t i) {
  const auto where = [&] { return entry_name(i); };
  const uint64_t at = in_.position();
  const auto element_id = read<uint32_t>(where);
  if (element_id >= kTypeCount)
    fail("key '{}': unknown array element type {} at byte {}, must be 0 to {}", printable(current_),
         element_id, at, kTypeCount - 1);
  const auto element = static_cast<Type>(element_id);
  if (element == Type::array)
    unsupported(
        "key '{}': nested arrays (at byte {}) are not supported, expected an array of numbers, "
        "bools or strings",
        printable(current_), at);
  const auto size = read<uint64_t>(where);
  const uint64_t begin = in_.position();
  const std::optional<uint64_t> least = checked_mul(size, type_bytes(element));
  if (!least || *least > in_.remaining())
    fail(
        "key '{}': array of {} {} at byte {} cannot fit in the remaining {} bytes; the download "
        "may be incomplete",
        printable(current_), size, type_name(element), at, in_.remaining());
  if (element == Type::string) {
    for (uint64_t k = 0; k < size; ++k) {
      const auto length = in_.read<uint64_t>();
      if (!length) fail_truncated(message("{}, string {} of {}", entry_name(i), k, size));
      text(*length, "string",
           [&] { return message("{}, string {} of {}", entry_name(i), k, size); });
    }
  } else {
    in_.take(*least);
    if (element == Type::boolean)
      for (uint64_t k = 0; k < size; ++k)
        if (const uint8_t byte = in_.read_at<uint8_t>(begin + k).value_or(0); byte > 1)
          fail("key '{}': boolean {} at byte {} is {}, must be 0 or 1", printable(current_), k,
               begin + k, unsigned{byte});
  }
  return Array(element, size, state_.bytes.subspan(begin, in_.position() - begin));
}

void Parser::index_entries() {
  auto& order = state_.entries_by_key;
  order.resize(state_.entries.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto key = [&](uint32_t i) { return state_.entries[i].key; };
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return std::pair(key(a), a) < std::pair(key(b), b); });
  for (size_t k = 1; k < order.size(); ++k)
    if (key(order[k - 1]) == key(order[k]))
      fail("key '{}' appears twice (metadata {} and {})", printable(key(order[k])), order[k - 1],
           order[k]);
}

void Parser::read_alignment() {
  for (const Entry& e : state_.entries) {
    if (e.key != kAlignmentKey) continue;
    if (e.type != Type::u32)
      fail("key '{}' has type {}, must be u32", kAlignmentKey, type_name(e.type));
    const uint64_t value = std::get<uint64_t>(e.value);
    if (value == 0 || value > kMaxAlignment || (value & (value - 1)) != 0)
      fail("key '{}' is {}, must be a power of two, at most {}", kAlignmentKey, value,
           kMaxAlignment);
    state_.alignment = static_cast<uint32_t>(value);
  }
}

void Parser::tensor(uint64_t i) {
  current_ = {};
  const auto where = [&] { return tensor_name(i); };
  const uint64_t at = in_.position();
  const auto length = read<uint64_t>(where);
  if (length == 0) fail("tensor {}: empty name at byte {}", i, at);
  if (length > kMaxNameBytes && length <= in_.remaining())
    fail("tensor {}: name at byte {} is {} bytes long, limit {}", i, at, length, kMaxNameBytes);
  const std::string_view name = text(length, "name", where);
  for (const char c : name)
    if (const auto byte = static_cast<uint8_t>(c); byte < 0x20 || byte == 0x7f)
      fail("tensor {}: name '{}' at byte {} contains the control byte {}", i, printable(name), at,
           unsigned{byte});
  if (!is_utf8(name))
    fail("tensor {}: name '{}' at byte {} is not valid UTF-8", i, printable(name), at);
  current_ = name;

  TensorInfo info{};
  info.name = name;
  const auto n_dims = read<uint32_t>(where);
  if (n_dims == 0 || n_dims > kMaxDims)
    fail("tensor '{}': {} dimensions, must be 1 to {}", printable(name), n_dims, kMaxDims);
  info.n_dims = static_cast<int>(n_dims);
  std::fill(std::begin(info.dims), std::end(info.dims), 1u);
  for (uint32_t d = 0; d < n_dims; ++d) {
    info.dims[d] = read<uint64_t>(where);
    if (info.dims[d] > static_cast<uint64_t>(INT64_MAX))
      fail("tensor '{}': dimension {} is {}, limit {}", printable(name), d, info.dims[d],
           INT64_MAX);
  }
  info.file_format = read<uint32_t>(where);
  info.format = info.file_format;
  info.offset = read<uint64_t>(where);  // relative to the data section until place_tensors()
  state_.tensors.push_back(info);
}

void Parser::index_tensors() {
  auto& order = state_.tensors_by_name;
  order.resize(state_.tensors.size());
  std::iota(order.begin(), order.end(), 0u);
  const auto name = [&](uint32_t i) { return state_.tensors[i].name; };
  std::sort(order.begin(), order.end(),
            [&](uint32_t a, uint32_t b) { return std::pair(name(a), a) < std::pair(name(b), b); });
  for (size_t k = 1; k < order.size(); ++k)
    if (name(order[k - 1]) == name(order[k]))
      fail("tensor '{}' appears twice (tensors {} and {})", printable(name(order[k])), order[k - 1],
           order[k]);
}

std::string Parser::shape(const TensorInfo& tensor) const {
  std::string out = "[";
  for (int d = 0; d < tensor.n_dims; ++d) out += message("{}{}", d ? ", " : "", tensor.dims[d]);
  return out + "]";
}

// Id 41 is Q1_0 in GGML and ITQ3_S in the public fork.  Tensors lie one after the other, so the
// distance to the next one tells which; behind the last one there may be other bytes.  Where
// padding hides the difference, it is GGML's.
bool Parser::is_itq3s_fork(const std::vector<uint32_t>& by_offset) const {
  const FormatInfo* fork = find_format(kItq3S);
  if (!fork) return false;
  bool any = false, as_fork = true, as_ggml = true, last_is_exact = false;
  for (size_t k = 0; k < by_offset.size(); ++k) {
    const TensorInfo& t = state_.tensors[by_offset[k]];
    if (t.file_format != kQ1_0) continue;
    any = true;
    uint64_t values = 1;
    for (const uint64_t dim : t.dims) values = checked_mul(values, dim).value_or(UINT64_MAX);
    const bool last = k + 1 == by_offset.size();
    const uint64_t data_bytes = in_.size() - std::min(in_.size(), state_.data_begin);
    const uint64_t end = last ? data_bytes : state_.tensors[by_offset[k + 1]].offset;
    const uint64_t room = end - std::min(end, t.offset);
    const auto padded = [&](uint64_t block_values,
                            uint64_t block_bytes) -> std::optional<uint64_t> {
      if (t.dims[0] % block_values != 0) return std::nullopt;
      const auto bytes = checked_mul(values / block_values, block_bytes);
      return bytes && last ? bytes : bytes ? checked_align(*bytes, state_.alignment) : std::nullopt;
    };
    const auto fork_bytes = padded(static_cast<uint64_t>(fork->block_values), fork->block_bytes);
    const auto ggml_bytes = padded(kQ1_0Values, kQ1_0Bytes);
    as_fork = as_fork && fork_bytes && (last ? *fork_bytes <= room : *fork_bytes == room);
    as_ggml = as_ggml && ggml_bytes && (last ? *ggml_bytes <= room : *ggml_bytes == room);
    if (last) last_is_exact = fork_bytes && room - std::min(room, *fork_bytes) < state_.alignment;
  }
  return any && as_fork && (!as_ggml || last_is_exact);
}

void Parser::size_tensor(TensorInfo& t, bool fork) const {
  if (fork && t.file_format == kQ1_0) t.format = kItq3S;
  const std::string name = printable(t.name);
  const FormatInfo* info = find_format(t.format);
  if (!info) {
    const UnreadFormat unread = find_unread_format(t.format);
    if (unread.kind == UnreadFormat::Kind::removed)
      fail("tensor '{}': format {} ({}) was removed from GGUF; convert the original model again",
           name, t.format, unread.name);
    if (unread.kind == UnreadFormat::Kind::known)
      unsupported("tensor '{}': format {} ({}) cannot be read by this hrun; it reads {}", name,
                  t.format, unread.name, format_names());
    fail(
        "tensor '{}': unknown format {}, perhaps of a fork of llama.cpp; take another file of the "
        "model, or convert the original; hrun reads {}",
        name, t.format, format_names());
  }
  uint64_t values = 1;
  const bool empty = std::find(std::begin(t.dims), std::end(t.dims), 0u) != std::end(t.dims);
  for (const uint64_t dim : t.dims) {
    const auto product = checked_mul(values, empty ? 0 : dim);
    if (!product || *product > static_cast<uint64_t>(INT64_MAX))
      fail("tensor '{}': shape {} is too large", name, shape(t));
    values = *product;
  }
  if (empty) {
    t.bytes = 0;
    return;
  }
  if (values / kMaxValuesPerByte > in_.size())
    fail(
        "tensor '{}': shape {} is too large for a file of {} bytes; the download may be incomplete",
        name, shape(t), in_.size());
  const auto cols = static_cast<int64_t>(t.dims[0]);
  if (!info->row_ok(cols))
    fail("tensor '{}': row of {} values does not fit format {}, whose blocks hold {}", name, cols,
         info->name, info->block_values);
  // values <= 8 * file size, so neither this product nor row_bytes() can wrap; checked all the
  // same.
  const auto bytes = checked_mul(info->row_bytes(cols), values / t.dims[0]);
  if (!bytes) fail("tensor '{}': shape {} is too large", name, shape(t));
  t.bytes = *bytes;
}

void Parser::place_tensors() {
  state_.data_begin = checked_align(in_.position(), state_.alignment).value_or(in_.size());
  state_.data_end = state_.data_begin;
  std::vector<uint32_t> by_offset(state_.tensors.size());
  std::iota(by_offset.begin(), by_offset.end(), 0u);
  std::stable_sort(by_offset.begin(), by_offset.end(), [&](uint32_t a, uint32_t b) {
    return state_.tensors[a].offset < state_.tensors[b].offset;
  });
  const bool fork = is_itq3s_fork(by_offset);
  for (TensorInfo& t : state_.tensors) {
    size_tensor(t, fork);
    const std::string_view name = t.name;
    if (t.offset % state_.alignment != 0)
      fail("tensor '{}': data offset {} is not a multiple of {} (general.alignment)",
           printable(name), t.offset, state_.alignment);
    const auto begin = checked_add(state_.data_begin, t.offset);
    const auto end = begin ? checked_add(*begin, t.bytes) : std::nullopt;
    if (!begin ||
        (t.bytes == 0 ? *begin > checked_align(in_.size(), state_.alignment) : *begin > in_.size()))
      fail(
          "tensor '{}': data offset {} is outside the file ({} bytes); the download may be "
          "incomplete",
          printable(name), t.offset, in_.size());
    if (!end || (*end > in_.size() && t.bytes != 0))
      fail(
          "tensor '{}': its {} bytes of data start at byte {} and end after the file, which has {} "
          "bytes; the download "
          "may be incomplete, get it again",
          printable(name), t.bytes, *begin, in_.size());
    t.offset = *begin;
    state_.data_end = std::max(state_.data_end, *end);
  }
  const TensorInfo* previous = nullptr;
  for (const uint32_t i : by_offset) {
    const TensorInfo& t = state_.tensors[i];
    if (t.bytes == 0) continue;
    if (previous && t.offset < previous->offset + previous->bytes)
      fail("tensors '{}' (bytes {} to {}) and '{}' (from byte {}) overlap",
           printable(previous->name), previous->offset, previous->offset + previous->bytes,
           printable(t.name), t.offset);
    previous = &t;
  }
}

}  // namespace

void parse_file(File::State& state) { Parser(state).run(); }

}  // namespace hrun::gguf
