// Memory of a device with an owner, and scratch that grows.
#pragma once

#include <algorithm>
#include <memory>
#include <string_view>
#include <utility>

#include "backend/backend.h"
#include "base/error.h"
#include "cuda/gpu.h"

namespace hrun::gpu {

class Memory : public DeviceBuffer {
 public:
  // Throws an OutOfMemoryError that says what the memory is for, how much is needed and how much
  // there is.
  Memory(Gpu& gpu, size_t size, std::string_view purpose) : gpu_(gpu) {
    data = gpu.allocate(size);
    if (!data)
      throw OutOfMemoryError(
          "{}: {} MiB do not fit on {}, which has {} MiB free; fewer layers there (-ngl), a "
          "smaller context "
          "(-c) or a smaller model would",
          purpose, (size + 1048575) >> 20, gpu.info().name, gpu.free_bytes() >> 20);
    bytes = size;
  }
  ~Memory() override { gpu_.release(data); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

 private:
  Gpu& gpu_;
};

// A part of an allocation that lives as long as some part of it does.
struct Piece {
  std::shared_ptr<Memory> memory;
  uint8_t* data = nullptr;
  size_t bytes = 0;

  explicit operator bool() const { return data != nullptr; }
};

// The memory of the slices of a tensor: one allocation with pieces of one size.
class SliceMemory {
 public:
  SliceMemory(Gpu& gpu, size_t n_slices) : gpu_(gpu), n_slices_(n_slices) {}

  // Slice i of the allocation, which is made with the first call.
  Piece take(size_t i, size_t bytes, std::string_view purpose) {
    const size_t step = (bytes + 255) / 256 * 256;
    if (!memory_) memory_ = std::make_shared<Memory>(gpu_, (n_slices_ - 1) * step + bytes, purpose);
    return {memory_, static_cast<uint8_t*>(memory_->data) + i * step, bytes};
  }

 private:
  Gpu& gpu_;
  size_t n_slices_;
  std::shared_ptr<Memory> memory_;
};

// One buffer for one purpose.  It grows to the largest size requested so far.  Growing forgets the
// contents and moves it: `moves` counts that, since a recorded graph may hold the old address.
class Scratch {
 public:
  Scratch(Gpu& gpu, std::string_view purpose, int64_t& moves)
      : gpu_(gpu), purpose_(purpose), moves_(moves) {}

  template <class T>
  T* get(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (!memory_ || memory_->bytes < bytes) {
      // Small buffers double, so that one that grows with every token does not move with every
      // token.
      const size_t doubled = memory_ ? 2 * memory_->bytes : 0;
      ++moves_;  // also when the new memory cannot be had
      memory_.reset();
      memory_ =
          std::make_unique<Memory>(gpu_, std::max(bytes, std::min(doubled, kDoubled)), purpose_);
    }
    return static_cast<T*>(memory_->data);
  }
  // Gives the memory back.
  void drop() {
    if (!memory_) return;
    ++moves_;
    memory_.reset();
  }

 private:
  static constexpr size_t kDoubled = size_t{1} << 20;
  Gpu& gpu_;
  std::string_view purpose_;
  int64_t& moves_;
  std::unique_ptr<Memory> memory_;
};

}  // namespace hrun::gpu
