#include "engine/mask_desk.h"

#include <utility>

#include "engine/request.h"

namespace hrun {

void MaskDesk::ask(MaskQuery query) {
  const std::lock_guard lock(mutex_);
  queries_.push_back(std::move(query));
  if (queries_.size() == 1) asked_.signal();
}

std::vector<MaskQuery> MaskDesk::take() {
  const std::lock_guard lock(mutex_);
  if (!closed_) asked_.drain();
  return std::exchange(queries_, {});
}

bool MaskDesk::closed() const {
  const std::lock_guard lock(mutex_);
  return closed_;
}

void MaskDesk::close() {
  const std::lock_guard lock(mutex_);
  closed_ = true;
  asked_.signal();
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
