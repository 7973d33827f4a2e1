#include "engine/request.h"

namespace hrun {

Update RequestHandle::take(std::chrono::milliseconds timeout) {
  std::unique_lock lock(mutex_);
  changed_->wait_for(lock, timeout, [&] { return !tokens_.empty() || finish_ != Finish::none; });
  Update update;
  update.tokens.assign(std::make_move_iterator(tokens_.begin()),
                       std::make_move_iterator(tokens_.end()));
  tokens_.clear();
  update.finish = finish_;
  update.error = error_;
  return update;
}

bool RequestHandle::finished() const {
  const std::lock_guard lock(mutex_);
  return finish_ != Finish::none;
}

void RequestHandle::put(DrawnToken token) {
  {
    const std::lock_guard lock(mutex_);
    tokens_.push_back(std::move(token));
  }
  changed_->notify_all();
}

void RequestHandle::finish(Finish how, std::exception_ptr error) {
  {
    const std::lock_guard lock(mutex_);
    if (finish_ != Finish::none) return;
    finish_ = how;
    error_ = std::move(error);
  }
  changed_->notify_all();
}

bool RequestHandle::is_full() const {
  const std::lock_guard lock(mutex_);
  return static_cast<int64_t>(tokens_.size()) >= max_unread_;
}

}  // namespace hrun
