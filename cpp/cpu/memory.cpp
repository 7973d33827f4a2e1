#include "cpu/memory.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "base/control_groups.h"
#include "base/error.h"

namespace hrun {
namespace {

constexpr size_t kAlignment = 64;
constexpr size_t kReserve = size_t{16} << 20;  // for all that is too small to be checked
constexpr size_t kUnknown = std::numeric_limits<size_t>::max();

class HostBuffer final : public DeviceBuffer {
 public:
  ~HostBuffer() override { std::free(data); }
};

// Reads a line of /proc/meminfo, such as "MemTotal:".
size_t machine_memory(std::string_view line) {
  std::ifstream file("/proc/meminfo");
  std::string key;
  for (size_t kib = 0; file >> key;) {
    if (key == line && file >> kib) return kib * 1024;
    file.ignore(256, '\n');
  }
  return kUnknown;
}

std::string mebibytes(size_t bytes) {
  return bytes == kUnknown ? "unknown" : std::to_string(bytes >> 20) + " MiB";
}

OutOfMemoryError out_of_memory(size_t bytes, std::string_view purpose, size_t available) {
  return OutOfMemoryError("{} needs {} of memory; {} is free", purpose, mebibytes(bytes),
                          mebibytes(available));
}

}  // namespace

size_t total_memory() { return machine_memory("MemTotal:"); }

size_t available_memory() {
  return std::min(machine_memory("MemAvailable:"),
                  control_group_memory("/proc", "/sys").value_or(kUnknown));
}

std::unique_ptr<DeviceBuffer> allocate_host(size_t bytes, std::string_view purpose, Pages pages) {
  // Small requests are not worth reading /proc; large ones are checked, because an overcommitting
  // system grants anything.
  constexpr size_t kChecked = size_t{16} << 20;
  constexpr size_t kHugePage = size_t{2} << 20;
  const size_t alignment = pages == Pages::huge && bytes >= kHugePage ? kHugePage : kAlignment;
  const size_t padded = std::max(bytes, size_t{1}) + (alignment - 1);
  const bool wraps = padded < bytes;
  if (!wraps && (bytes < kChecked || bytes <= available_memory())) {
    auto buffer = std::make_unique<HostBuffer>();
    buffer->data = std::aligned_alloc(alignment, padded / alignment * alignment);
    buffer->bytes = bytes;
#if defined(__linux__)
    if (buffer->data && alignment == kHugePage)
      madvise(buffer->data, padded / alignment * alignment, MADV_HUGEPAGE);
#endif
    if (buffer->data) return buffer;
  }
  throw out_of_memory(bytes, purpose, available_memory());
}

class PackedMemory::Slice final : public DeviceBuffer {
 public:
  Slice(std::shared_ptr<DeviceBuffer> chunk, uint8_t* at, size_t size) : chunk_(std::move(chunk)) {
    data = at;
    bytes = size;
  }

 private:
  std::shared_ptr<DeviceBuffer> chunk_;
};

std::unique_ptr<DeviceBuffer> PackedMemory::take(size_t bytes, std::string_view purpose) {
  constexpr size_t kChunk = size_t{64} << 20;  // the unused part of a chunk is never touched
  const size_t padded = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  if (!chunk_ || chunk_->bytes - used_ < padded) {
    // Chunks become small where little is left, and are checked all the same.
    const size_t available = available_memory();
    if (available < padded + kReserve) throw out_of_memory(padded, purpose, available);
    chunk_ = allocate_host(std::max(padded, std::min(kChunk, available / 8)), purpose, Pages::huge);
    used_ = 0;
  }
  auto slice = std::make_unique<Slice>(chunk_, static_cast<uint8_t*>(chunk_->data) + used_, bytes);
  used_ += padded;
  return slice;
}

void* Scratch::reserve(size_t count, size_t value_bytes, std::string_view purpose) {
  if (count > std::numeric_limits<size_t>::max() / value_bytes)
    throw OutOfMemoryError("{} needs {} values of {} bytes, more than can be addressed", purpose,
                           count, value_bytes);
  const size_t bytes = count * value_bytes;
  if (!buffer_ || buffer_->bytes < bytes) {
    buffer_.reset();
    buffer_ = allocate_host(bytes, purpose);
  }
  return buffer_->data;
}

}  // namespace hrun
