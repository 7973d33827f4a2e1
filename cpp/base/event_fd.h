// A counter of the system's that event loops and poll() can wait for.
#pragma once

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>

#include "base/error.h"

namespace hrun {

class EventFd {
 public:
  // Throws DeviceError where the system has no descriptor left.
  EventFd() : descriptor_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    if (descriptor_ < 0) throw DeviceError("no eventfd can be had: {}", std::strerror(errno));
  }
  ~EventFd() { ::close(descriptor_); }
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;

  int descriptor() const { return descriptor_; }
  // Makes the descriptor readable.  If the counter is full, it is readable already.
  void signal() const {
    const uint64_t one = 1;
    static_cast<void>(!::write(descriptor_, &one, sizeof one));
  }
  void drain() const { drain(descriptor_); }
  // Drains a descriptor that may be gone; it does not matter if nothing is read.
  static void drain(int descriptor) {
    uint64_t count = 0;
    static_cast<void>(!::read(descriptor, &count, sizeof count));
  }

 private:
  const int descriptor_;
};

}  // namespace hrun
