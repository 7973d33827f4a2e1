#include "engine/request.h"

#include <utility>

#include "base/error.h"

namespace hrun {

// A thread that the fork has left behind may hold the handle's lock.
void RequestHandle::require_usable() const {
  if (getpid() != process_)
    throw GenerationError("the request was made before fork(); it is answered in the parent only");
}

Update RequestHandle::take(std::chrono::milliseconds timeout) {
  require_usable();
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

double RequestHandle::prompt_seconds() const {
  require_usable();
  const std::lock_guard lock(mutex_);
  return first_drawn_ ? std::chrono::duration<double>(*first_drawn_ - submitted_).count() : 0;
}

double RequestHandle::generate_seconds() const {
  require_usable();
  const std::lock_guard lock(mutex_);
  return first_drawn_ ? std::chrono::duration<double>(last_drawn_ - *first_drawn_).count() : 0;
}

void RequestHandle::expect_mask() {
  const std::lock_guard lock(mutex_);
  expects_mask_ = true;
}

void RequestHandle::put_mask(MaskAnswer answer) {
  const std::lock_guard lock(mutex_);
  if (finish_ != Finish::none) return;
  if (!expects_mask_) throw ArgumentError("a token mask for request {}, which expects none", id_);
  expects_mask_ = false;
  mask_ = std::move(answer);
}

bool RequestHandle::has_mask() const {
  const std::lock_guard lock(mutex_);
  return mask_.has_value();
}

std::optional<MaskAnswer> RequestHandle::take_mask() {
  const std::lock_guard lock(mutex_);
  return std::exchange(mask_, std::nullopt);
}

void RequestHandle::mark_drawn() {
  const std::lock_guard lock(mutex_);
  last_drawn_ = Clock::now();
  if (!first_drawn_) first_drawn_ = last_drawn_;
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
