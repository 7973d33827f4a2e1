// The contents of a parsed file.  The parser and the accessors share it; nobody else includes it.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "base/mapped_file.h"
#include "gguf/file.h"

namespace hrun::gguf {

inline constexpr uint64_t kHeaderBytes = 24;  // magic, version, two counts
inline constexpr uint64_t kMaxKeyBytes = 65535;
inline constexpr uint64_t kMaxNameBytes = 63;  // of a tensor
inline constexpr uint32_t kMaxDims = 4;
inline constexpr uint32_t kMaxAlignment = 65536;
inline constexpr uint32_t kDefaultAlignment = 32;
inline constexpr size_t kShownPathBytes = 4096;  // of a path in a message
inline constexpr std::string_view kAlignmentKey = "general.alignment";

struct File::State {
  std::string path;
  std::optional<MappedFile> map;  // absent when the caller owns the bytes
  std::span<const uint8_t> bytes;
  uint32_t version = 0;
  uint32_t alignment = kDefaultAlignment;
  uint64_t data_begin = 0;
  uint64_t data_end = 0;
  std::vector<Entry> entries;
  std::vector<TensorInfo> tensors;
  std::vector<uint32_t>
      entries_by_key;  // indices, sorted by name: no hash that a file could attack
  std::vector<uint32_t> tensors_by_name;
  std::vector<File> parts;  // the second file of a model in several, the third, ...
};

// Fills everything but `map`; `state.path` and `state.bytes` are given.
void parse_file(File::State& state);

}  // namespace hrun::gguf
