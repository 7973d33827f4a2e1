// A streaming GGUF writer (version 3): declare metadata and tensors, then write the tensors one by
// one.
//
// Holds the metadata and the tensor table, never a tensor.  It writes the path it is given;
// temporary names and renaming are the caller's business.  Throws ConversionError, with the path
// and the system's reason, for whatever the file system refuses, and ArgumentError for wrong use.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <unordered_set>
#include <vector>

#include "base/tensor.h"
#include "gguf/value.h"

namespace hrun::gguf {

class Writer {
 public:
  // Creates or truncates the file.  `alignment`: a power of two, at most 65536; other than 32 it
  // becomes general.alignment.
  explicit Writer(std::string path, uint32_t alignment = 32);
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  ~Writer();  // discard(), unless finished

  // The value must fit `type`.  An Array's bytes are copied as they are, so entries of a File can
  // be passed on.
  void add(std::string_view key, Type type, const Value& value);
  // dims in GGUF order, dims[0] the row length; 1 to 4 of them.
  void add_tensor(std::string_view name, std::span<const uint64_t> dims, FormatId format);
  // The next tensor in declared order; the first call writes the header and reserves the space of
  // the whole file.
  void write_tensor(std::string_view name, std::span<const uint8_t> data);
  // Writes what is left of the header and padding, flushes to the disk, closes.
  void finish();
  // The same with a hole, which reads as zeros and takes no room on the disk, in place of each
  // tensor that is not written.
  void finish_with_holes();
  // Closes and removes the file.  Harmless after finish() and twice.
  void discard() noexcept;

  const std::string& path() const { return path_; }
  uint64_t file_bytes() const;  // of the finished file, as declared so far

 private:
  struct Declared {
    std::string name;
    uint64_t bytes;
    uint64_t offset;  // in the data section
  };

  void require_declaring(std::string_view what) const;
  void write_header(bool reserves = true);
  void reserve_space();
  void close_file();
  void write_all(std::span<const uint8_t> data);
  void pad(uint64_t bytes);
  [[noreturn]] void fail_errno(std::string_view what, int error) const;

  std::string path_;
  uint32_t alignment_;
  int fd_ = -1;
  bool header_written_ = false;
  bool finished_ = false;
  uint64_t n_entries_ = 0;
  uint64_t data_bytes_ = 0;  // of all declared tensors, padded
  uint64_t written_ = 0;     // bytes of the file so far
  size_t next_ = 0;          // tensor to write
  std::vector<uint8_t> metadata_;
  std::vector<uint8_t> table_;
  std::vector<Declared> tensors_;
  std::unordered_set<std::string> keys_, names_;
};

// The bytes of an array of strings, as Array wants them.
std::vector<uint8_t> encode_strings(std::span<const std::string_view> strings);
// Appends one scalar; throws ArgumentError naming `key` where the value does not fit the type.
void append_scalar(std::vector<uint8_t>& out, Type type, const Value& value, std::string_view key);

}  // namespace hrun::gguf
