#include "gguf/writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <limits>
#include <system_error>

#include "base/error.h"
#include "base/utf8.h"
#include "formats/list.h"
#include "gguf/state.h"

namespace hrun::gguf {
namespace {

template <class T>
void append(std::vector<uint8_t>& out, T value) {
  const auto* bytes = reinterpret_cast<const uint8_t*>(&value);
  out.insert(out.end(), bytes, bytes + sizeof value);
}

void append_text(std::vector<uint8_t>& out, std::string_view text) {
  append<uint64_t>(out, text.size());
  out.insert(out.end(), text.begin(), text.end());
}

template <class T>
bool append_integer(std::vector<uint8_t>& out, const Value& value) {
  using Limits = std::numeric_limits<T>;
  if (const auto* u = std::get_if<uint64_t>(&value)) {
    if (*u > static_cast<uint64_t>(Limits::max())) return false;
    append(out, static_cast<T>(*u));
    return true;
  }
  if (const auto* i = std::get_if<int64_t>(&value)) {
    if (*i < 0 ? std::is_unsigned_v<T> || *i < static_cast<int64_t>(Limits::min())
               : static_cast<uint64_t>(*i) > static_cast<uint64_t>(Limits::max()))
      return false;
    append(out, static_cast<T>(*i));
    return true;
  }
  return false;
}

template <class T>
bool append_float(std::vector<uint8_t>& out, const Value& value) {
  if (const auto* d = std::get_if<double>(&value)) return append(out, static_cast<T>(*d)), true;
  if (const auto* u = std::get_if<uint64_t>(&value)) return append(out, static_cast<T>(*u)), true;
  if (const auto* i = std::get_if<int64_t>(&value)) return append(out, static_cast<T>(*i)), true;
  return false;
}

bool append_value(std::vector<uint8_t>& out, Type type, const Value& value) {
  switch (type) {
    case Type::u8:
      return append_integer<uint8_t>(out, value);
    case Type::i8:
      return append_integer<int8_t>(out, value);
    case Type::u16:
      return append_integer<uint16_t>(out, value);
    case Type::i16:
      return append_integer<int16_t>(out, value);
    case Type::u32:
      return append_integer<uint32_t>(out, value);
    case Type::i32:
      return append_integer<int32_t>(out, value);
    case Type::u64:
      return append_integer<uint64_t>(out, value);
    case Type::i64:
      return append_integer<int64_t>(out, value);
    case Type::f32:
      return append_float<float>(out, value);
    case Type::f64:
      return append_float<double>(out, value);
    case Type::boolean:
      if (const auto* b = std::get_if<bool>(&value)) return append<uint8_t>(out, *b), true;
      return false;
    case Type::string:
      if (const auto* s = std::get_if<std::string_view>(&value)) return append_text(out, *s), true;
      return false;
    case Type::array:
      return false;
  }
  return false;
}

}  // namespace

void append_scalar(std::vector<uint8_t>& out, Type type, const Value& value, std::string_view key) {
  if (!append_value(out, type, value))
    throw ArgumentError("key '{}': the value does not fit type {}", printable(key),
                        type_name(type));
}

std::vector<uint8_t> encode_strings(std::span<const std::string_view> strings) {
  std::vector<uint8_t> out;
  for (const std::string_view text : strings) append_text(out, text);
  return out;
}

Writer::Writer(std::string path, uint32_t alignment)
    : path_(std::move(path)), alignment_(alignment) {
  if (alignment == 0 || alignment > kMaxAlignment || (alignment & (alignment - 1)) != 0)
    throw ArgumentError("alignment is {}, must be a power of two, at most {}", alignment,
                        kMaxAlignment);
  if (path_.empty() || path_.find('\0') != std::string::npos)
    throw ArgumentError("'{}' is not a path", printable(path_, kShownPathBytes));
  fd_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (fd_ < 0) fail_errno("cannot create", errno);
  try {
    if (alignment_ != kDefaultAlignment) add(kAlignmentKey, Type::u32, Value(uint64_t{alignment_}));
  } catch (...) {
    discard();
    throw;
  }
}

Writer::~Writer() {
  if (!finished_) discard();
}

void Writer::fail_errno(std::string_view what, int error) const {
  throw ConversionError("{} '{}': {} (errno {})", what, printable(path_, kShownPathBytes),
                        std::generic_category().message(error), error);
}

void Writer::require_declaring(std::string_view what) const {
  if (fd_ < 0)
    throw ArgumentError("cannot add {}: '{}' is finished or discarded", what,
                        printable(path_, kShownPathBytes));
  if (header_written_)
    throw ArgumentError("cannot add {}: the header of '{}' is written already", what,
                        printable(path_, kShownPathBytes));
}

void Writer::add(std::string_view key, Type type, const Value& value) {
  const std::string shown = printable(key);
  require_declaring(message("key '{}'", shown));
  if (key.empty() || key.size() > kMaxKeyBytes || key.find('\0') != std::string_view::npos ||
      !is_utf8(key))
    throw ArgumentError("'{}' is not a key: it must be 1 to {} bytes of UTF-8 without zeros", shown,
                        kMaxKeyBytes);
  if (key == kAlignmentKey) {
    const auto* given = std::get_if<uint64_t>(&value);
    if (type != Type::u32 || !given || *given != alignment_)
      throw ArgumentError("{} must be the u32 {} that the writer was created with", kAlignmentKey,
                          alignment_);
    if (keys_.count(std::string(key))) return;  // copied from another file
  }
  if (keys_.count(std::string(key))) throw ArgumentError("key '{}' is given twice", shown);

  std::vector<uint8_t> bytes;
  append_text(bytes, key);
  append(bytes, static_cast<uint32_t>(type));
  if (type == Type::array) {
    const auto* array = std::get_if<Array>(&value);
    if (!array || array->element() == Type::array)
      throw ArgumentError("key '{}': expected an array of numbers, bools or strings", shown);
    append(bytes, static_cast<uint32_t>(array->element()));
    append<uint64_t>(bytes, array->size());
    bytes.insert(bytes.end(), array->bytes().begin(), array->bytes().end());
  } else {
    const auto* text = std::get_if<std::string_view>(&value);
    if (text && text->find('\0') != std::string_view::npos)
      throw ArgumentError("key '{}': the string contains a zero byte", shown);
    append_scalar(bytes, type, value, key);
  }
  metadata_.insert(metadata_.end(), bytes.begin(), bytes.end());
  keys_.emplace(key);
  ++n_entries_;
}

void Writer::add_tensor(std::string_view name, std::span<const uint64_t> dims, FormatId id) {
  const std::string shown = printable(name);
  require_declaring(message("tensor '{}'", shown));
  const bool controls = std::any_of(
      name.begin(), name.end(), [](char c) { return static_cast<uint8_t>(c) < 0x20 || c == 0x7f; });
  if (name.empty() || name.size() > kMaxNameBytes || controls || !is_utf8(name))
    throw ArgumentError(
        "'{}' is not a tensor name: it must be 1 to {} bytes of UTF-8 without control bytes", shown,
        kMaxNameBytes);
  if (names_.count(std::string(name))) throw ArgumentError("tensor '{}' is declared twice", shown);
  if (dims.empty() || dims.size() > kMaxDims)
    throw ArgumentError("tensor '{}': {} dimensions, must be 1 to {}", shown, dims.size(),
                        kMaxDims);
  const FormatInfo* info = find_format(id);
  if (!info)
    throw ArgumentError("tensor '{}': unknown format {}; known: {}", shown, id, format_names());

  // 2^56 values keep every product below far from 2^64: no format has more than 8 bytes per value.
  constexpr uint64_t kMaxValues = uint64_t{1} << 56;
  uint64_t values = 1;
  for (const uint64_t dim : dims) {
    const auto product = checked_mul(values, dim);
    if (!product || *product == 0 || *product > kMaxValues)
      throw ArgumentError("tensor '{}': dimension {} makes it empty or too large", shown, dim);
    values = *product;
  }
  const auto cols = static_cast<int64_t>(dims[0]);
  if (!info->row_ok(cols))
    throw ArgumentError(
        "tensor '{}': row of {} values does not fit format {}, whose blocks hold {}", shown, cols,
        info->name, info->block_values);
  const auto bytes = checked_mul(info->row_bytes(cols), values / dims[0]);
  const auto padded = bytes ? checked_align(*bytes, alignment_) : std::nullopt;
  const auto total = padded ? checked_add(data_bytes_, *padded) : std::nullopt;
  if (!total || *total > static_cast<uint64_t>(INT64_MAX) / 2)
    throw ArgumentError("tensor '{}' makes the file too large", shown);

  append_text(table_, name);
  append(table_, static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) append(table_, dim);
  append(table_, static_cast<uint32_t>(id));
  append(table_, data_bytes_);
  tensors_.push_back({std::string(name), *bytes, data_bytes_});
  names_.emplace(name);
  data_bytes_ = *total;
}

uint64_t Writer::file_bytes() const {
  const uint64_t head = kHeaderBytes + metadata_.size() + table_.size();
  return ((head + alignment_ - 1) & ~uint64_t{alignment_ - 1}) + data_bytes_;
}

// A disk that is too small is better noticed before hours of work than after.  Not every file
// system can reserve; those that cannot will report when the bytes are written.
void Writer::reserve_space() {
#if defined(__linux__)
  int error;
  do {
    error = ::fallocate(fd_, 0, 0, static_cast<off_t>(file_bytes())) == 0 ? 0 : errno;
  } while (error == EINTR);
  if (error == ENOSPC || error == EDQUOT || error == EFBIG) {
    struct statvfs fs{};
    const uint64_t available = ::fstatvfs(fd_, &fs) == 0 ? uint64_t{fs.f_bavail} * fs.f_frsize : 0;
    throw ConversionError("cannot write '{}': {} (errno {}): the file needs {} bytes, {} are free",
                          printable(path_, kShownPathBytes), std::generic_category().message(error),
                          error, file_bytes(), available);
  }
#endif
}

void Writer::write_all(std::span<const uint8_t> data) {
  constexpr size_t kMostPerCall = size_t{1} << 30;  // Linux writes at most 2 GiB per call
  while (!data.empty()) {
    const ssize_t n = ::write(fd_, data.data(), std::min(data.size(), kMostPerCall));
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail_errno("cannot write", errno);
    data = data.subspan(static_cast<size_t>(n));
    written_ += static_cast<uint64_t>(n);
  }
}

void Writer::pad(uint64_t bytes) {
  static constexpr std::array<uint8_t, 4096> kZeros{};
  for (; bytes > 0; bytes -= std::min<uint64_t>(bytes, kZeros.size()))
    write_all(std::span(kZeros).first(std::min<uint64_t>(bytes, kZeros.size())));
}

void Writer::write_header(bool reserves) {
  if (header_written_) return;
  if (reserves) reserve_space();
  std::vector<uint8_t> head;
  head.reserve(kHeaderBytes + metadata_.size() + table_.size());
  append<uint32_t>(head, 0x46554747);  // "GGUF"
  append<uint32_t>(head, 3);
  append<uint64_t>(head, tensors_.size());
  append<uint64_t>(head, n_entries_);
  head.insert(head.end(), metadata_.begin(), metadata_.end());
  head.insert(head.end(), table_.begin(), table_.end());
  header_written_ = true;
  write_all(head);
  pad((alignment_ - head.size() % alignment_) % alignment_);
}

void Writer::write_tensor(std::string_view name, std::span<const uint8_t> data) {
  if (fd_ < 0)
    throw ArgumentError("tensor '{}': '{}' is finished or discarded", printable(name),
                        printable(path_, kShownPathBytes));
  if (next_ >= tensors_.size())
    throw ArgumentError("tensor '{}': all {} declared tensors are written", printable(name),
                        tensors_.size());
  const Declared& expected = tensors_[next_];
  if (name != expected.name)
    throw ArgumentError("tensor '{}' is written out of order, expected '{}'", printable(name),
                        printable(expected.name));
  if (data.size() != expected.bytes)
    throw ArgumentError("tensor '{}' has {} bytes, {} were declared", printable(name), data.size(),
                        expected.bytes);
  write_header();
  write_all(data);
  pad((alignment_ - expected.bytes % alignment_) % alignment_);
  ++next_;
}

void Writer::finish() {
  if (finished_) return;
  if (fd_ < 0) throw ArgumentError("'{}' was discarded", printable(path_, kShownPathBytes));
  if (next_ < tensors_.size())
    throw ArgumentError("'{}': {} of {} tensors are missing, the next is '{}'",
                        printable(path_, kShownPathBytes), tensors_.size() - next_, tensors_.size(),
                        printable(tensors_[next_].name));
  write_header();
  if (::fsync(fd_) != 0 && errno != EINVAL && errno != EROFS)
    fail_errno("cannot flush", errno);  // EINVAL: not a disk file
  close_file();
}

void Writer::finish_with_holes() {
  if (finished_) return;
  if (fd_ < 0) throw ArgumentError("'{}' was discarded", printable(path_, kShownPathBytes));
  write_header(false);
  if (::ftruncate(fd_, static_cast<off_t>(file_bytes())) != 0) fail_errno("cannot extend", errno);
  close_file();
}

void Writer::close_file() {
  const int fd = fd_;
  fd_ = -1;
  finished_ = true;
  if (::close(fd) != 0 && errno != EINTR) fail_errno("cannot close", errno);
}

void Writer::discard() noexcept {
  if (fd_ < 0) return;
  // Remove only what this writer created: a regular file, and still the one under that name.
  struct stat ours{}, named{};
  const bool known = ::fstat(fd_, &ours) == 0 && S_ISREG(ours.st_mode);
  ::close(fd_);
  fd_ = -1;
  if (known && ::lstat(path_.c_str(), &named) == 0 && named.st_dev == ours.st_dev &&
      named.st_ino == ours.st_ino)
    ::unlink(path_.c_str());
}

}  // namespace hrun::gguf
