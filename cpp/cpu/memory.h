// Host memory for the CPU backend: buffers that say why there is not enough.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

#include "backend/backend.h"

namespace hrun {

// Bytes that can be allocated without swapping: the machine's, at most what this process's control group leaves.
size_t available_memory();

// Uninitialised, aligned to 64.  Throws OutOfMemoryError naming `purpose`, the need and what is free.
std::unique_ptr<DeviceBuffer> allocate_host(size_t bytes, std::string_view purpose);

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
