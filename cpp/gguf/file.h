// A GGUF file (version 2 or 3, little-endian), mapped and checked.
//
// Everything that can be read without knowing the model is validated on opening: header, metadata,
// tensor table, every tensor's extent against the file's.  Nothing is allocated that the bytes
// present cannot justify.  Throws ModelFileError with the path, the byte offset, the key or tensor,
// what was found and what was expected.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "base/tensor.h"
#include "gguf/value.h"

namespace hrun::gguf {

struct TensorInfo {
  std::string_view name;
  FormatId format;       // resolved: an ITQ3_S file of the public fork (id 41) shows our own id
  uint32_t file_format;  // the id as the file has it
  int n_dims;
  uint64_t dims[4];  // GGUF order: dims[0] is the row length; unused ones are 1
  uint64_t offset;   // absolute, in the file
  uint64_t bytes;
  uint32_t part = 0;  // of a model in several files: which of them holds it
};

class File {
 public:
  // `data` must outlive the File; `path` is for messages.  The entry point of the fuzz target.
  static File parse(std::span<const uint8_t> data, std::string path);
  // Maps the file read-only.
  static File open(const std::string& path);
  // Opens the file in the same way.  If it is the first of a model in several files (split.count,
  // NAME-00001-of-0000N.gguf), it also gets the tensors of the others.  They are sought beside it;
  // a link that leads elsewhere is refused.
  static File open_model(const std::string& path);
  // The number of files that the model is in.  Throws ModelFileError where this is not the first.
  uint64_t require_first_part() const;

  File(File&&) noexcept;
  File& operator=(File&&) noexcept;
  ~File();

  const std::string& path() const;
  uint32_t version() const;
  uint32_t alignment() const;
  std::span<const Entry> metadata() const;
  std::span<const TensorInfo> tensors() const;
  const Entry* find(std::string_view key) const;                  // null if absent
  const TensorInfo* find_tensor(std::string_view name) const;     // null if absent
  std::span<const uint8_t> data(const TensorInfo& tensor) const;  // zero-copy
  TensorView view(const TensorInfo& tensor) const;                // rows = product of dims[1..]
  // Takes data that has been copied elsewhere out of this process's memory, not out of the file.
  void release_pages(const TensorInfo& tensor) const;
  // Throws ModelFileError if the file has become unreadable since it was opened: data that came
  // from it then is wrong.
  void check_readable() const;
  uint64_t file_bytes() const;
  uint64_t unused_bytes() const;  // after the last tensor

  // Typed access.  Missing: the *_or forms give the default, the others throw; a wrong type or
  // range always throws.
  uint64_t get_uint(std::string_view key) const;  // accepts any integer type whose value fits
  uint64_t get_uint_or(std::string_view key, uint64_t fallback) const;
  double get_float(std::string_view key) const;  // any float or integer type
  double get_float_or(std::string_view key, double fallback) const;
  bool get_bool_or(std::string_view key, bool fallback) const;
  std::string_view get_string(std::string_view key) const;
  std::optional<std::string_view> find_string(std::string_view key) const;
  std::vector<std::string_view> get_strings(std::string_view key) const;  // an array of strings
  const Array& get_array(std::string_view key) const;
  const Array& get_array(std::string_view key, Type element) const;

  // Throws ModelFileError: "cannot load 'PATH': " and the formatted rest.
  template <class... Args>
  [[noreturn]] void fail(std::string_view pattern, const Args&... args) const {
    throw_model_file_error(message(pattern, args...));
  }

  struct State;  // gguf/state.h

 private:
  [[noreturn]] void throw_model_file_error(const std::string& what) const;
  const Entry& require(std::string_view key) const;
  explicit File(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace hrun::gguf
