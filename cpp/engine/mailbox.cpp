#include "engine/mailbox.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <climits>
#include <cstring>

#include "base/error.h"

namespace hrun {

WakeUp::WakeUp() : descriptor_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (descriptor_ < 0) throw DeviceError("cannot make an event descriptor: {}", strerror(errno));
}

WakeUp::~WakeUp() { close(descriptor_); }

// A counter that is full is signalled already.
void WakeUp::signal() {
  const uint64_t one = 1;
  while (write(descriptor_, &one, sizeof one) < 0 && errno == EINTR) {}
}

void WakeUp::clear() {
  uint64_t count;
  while (read(descriptor_, &count, sizeof count) < 0 && errno == EINTR) {}
}

bool WakeUp::wait(int64_t timeout_us) const {
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  for (;;) {
    int timeout_ms = -1;
    if (timeout_us >= 0) {
      const auto passed_us =
          std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - begin).count();
      const int64_t left_us = std::max<int64_t>(0, timeout_us - passed_us);
      timeout_ms =
          static_cast<int>(std::min<int64_t>(left_us / 1000 + (left_us % 1000 != 0), INT_MAX));
    }
    pollfd waiting{descriptor_, POLLIN, 0};
    const int ready = poll(&waiting, 1, timeout_ms);
    if (ready > 0) return true;
    if (ready == 0 && timeout_ms < INT_MAX) return false;
    if (ready < 0 && errno != EINTR && errno != EAGAIN)
      throw DeviceError("cannot wait for an event: {}", strerror(errno));
  }
}

}  // namespace hrun
