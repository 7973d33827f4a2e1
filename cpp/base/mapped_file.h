// A regular file mapped read-only.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include "base/watched_pages.h"

namespace hrun {

class MappedFile {
 public:
  // Throws ModelFileError for whatever is not a readable regular file with at least one byte, and
  // for a file whose size changes while it is being opened.  Never blocks on a FIFO and never opens
  // a device.
  static MappedFile open(const std::string& path);

  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  std::span<const uint8_t> bytes() const { return bytes_; }
  // The offset where reading failed since the file was opened; from there on bytes() are zeros.
  std::optional<size_t> unreadable_from() const { return watched_.unreadable_from(); }
  // Gives the memory of the whole pages inside [offset, offset + length) back; reading them again
  // reloads them.
  void release_pages(size_t offset, size_t length) const;

 private:
  explicit MappedFile(std::span<const uint8_t> bytes)
      : bytes_(bytes), watched_(bytes.data(), bytes.size()) {}
  std::span<const uint8_t> bytes_;
  WatchedPages watched_;
};

}  // namespace hrun
