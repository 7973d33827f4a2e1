#include "engine/mask_desk.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "engine/request.h"

namespace hrun {

MaskDesk::MaskDesk() : descriptor_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  if (descriptor_ < 0) throw DeviceError("no eventfd can be had: {}", std::strerror(errno));
}

MaskDesk::~MaskDesk() { ::close(descriptor_); }

// A counter that is full is signalled already.
void MaskDesk::signal() const {
  const uint64_t one = 1;
  static_cast<void>(!::write(descriptor_, &one, sizeof one));
}

void MaskDesk::ask(MaskQuery query) {
  const std::lock_guard lock(mutex_);
  queries_.push_back(std::move(query));
  if (queries_.size() == 1) signal();
}

std::vector<MaskQuery> MaskDesk::take() {
  const std::lock_guard lock(mutex_);
  uint64_t count = 0;
  if (!closed_) static_cast<void>(!::read(descriptor_, &count, sizeof count));
  return std::exchange(queries_, {});
}

bool MaskDesk::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

void MaskDesk::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  signal();
}

void MaskDesk::answer(RequestHandle& handle, MaskAnswer answer) {
  handle.put_mask(std::move(answer));
  const std::lock_guard lock(wake_mutex_);
  if (wake_) wake_();
}

void MaskDesk::on_answer(std::function<void()> wake) {
  const std::lock_guard lock(wake_mutex_);
  wake_ = std::move(wake);
}

}  // namespace hrun
