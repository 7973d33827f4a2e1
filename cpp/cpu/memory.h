// Host memory for the CPU backend: buffers that say why there is not enough.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "backend/backend.h"

namespace hrun {

// The memory of the machine.
size_t total_memory();
// Bytes that can be allocated without swapping: those of the machine, but at most what this
// process's control group leaves.
size_t available_memory();

// Pages of 2 MiB, where the system grants them, save walks through the page table when a large
// buffer is streamed.  They are resident as a whole, so they suit buffers that are used from their
// beginning on, not here and there.
enum class Pages : uint8_t { small, huge };

// The memory is uninitialised and aligned to 64.  Throws OutOfMemoryError naming `purpose`, the
// need and what is free.
std::unique_ptr<DeviceBuffer> allocate_host(size_t bytes, std::string_view purpose,
                                            Pages pages = Pages::small);

// Repacked weights, one after the other in chunks of huge pages, so that no tensor leaves part of a
// page unused.
class PackedMemory {
 public:
  // The memory is uninitialised and aligned to 64.  Throws OutOfMemoryError.
  std::unique_ptr<DeviceBuffer> take(size_t bytes, std::string_view purpose);

 private:
  class Slice;
  std::shared_ptr<DeviceBuffer> chunk_;
  size_t used_ = 0;
};

// Scratch that grows and is reused; its contents do not survive growing.
class Scratch {
 public:
  template <class T>
  T* get(size_t count, std::string_view purpose) {
    return static_cast<T*>(reserve(count, sizeof(T), purpose));
  }

 private:
  void* reserve(size_t count, size_t value_bytes, std::string_view purpose);
  std::unique_ptr<DeviceBuffer> buffer_;
};

}  // namespace hrun
