// A bounded queue from many threads to one, emptied in one go, whose owner can be woken.
//
// The descriptor is readable exactly while something is in it or it is closed, so that an event
// loop can wait for it beside its other descriptors.  One wake-up serves all that was put in since
// the last drain().
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <mutex>
#include <utility>
#include <vector>

namespace hrun {

// An eventfd.
class WakeUp {
 public:
  WakeUp();  // throws DeviceError where the system has no descriptor left
  ~WakeUp();
  WakeUp(const WakeUp&) = delete;
  WakeUp& operator=(const WakeUp&) = delete;

  int descriptor() const { return descriptor_; }
  void signal();
  void clear();
  // Until signalled, timeout_us at most (below 0: for ever); false on timeout.
  bool wait(int64_t timeout_us) const;

 private:
  int descriptor_;
};

template <class T>
class Mailbox {
 public:
  explicit Mailbox(size_t capacity) : capacity_(capacity) {}

  // False, and the value stays the caller's, if the box is full or closed.
  bool push(T&& value) {
    const std::lock_guard lock(mutex_);
    if (closed_ || values_.size() >= capacity_) return false;
    const bool was_empty = values_.empty();
    values_.push_back(std::move(value));
    if (was_empty) wake_up_.signal();
    return true;
  }

  // All in their order and `values` empty, or none.
  bool push_all(std::vector<T>& values) {
    if (values.empty()) return true;
    const std::lock_guard lock(mutex_);
    if (closed_ || values_.size() + values.size() > capacity_) return false;
    const bool was_empty = values_.empty();
    values_.insert(values_.end(), std::move_iterator(values.begin()),
                   std::move_iterator(values.end()));
    values.clear();
    if (was_empty) wake_up_.signal();
    return true;
  }

  // Everything in it; also after close().
  std::vector<T> drain() {
    std::vector<T> values;
    const std::lock_guard lock(mutex_);
    values.swap(values_);
    if (!closed_) wake_up_.clear();
    return values;
  }

  // Until something is in it or it is closed, timeout_us at most (below 0: for ever); false on
  // timeout.  For the one thread that drains.
  bool wait(int64_t timeout_us) const { return wake_up_.wait(timeout_us); }
  int descriptor() const { return wake_up_.descriptor(); }

  // Takes no more; whoever waits is woken, now and ever after.
  void close() {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    wake_up_.signal();
  }
  bool closed() const {
    const std::lock_guard lock(mutex_);
    return closed_;
  }
  size_t size() const {
    const std::lock_guard lock(mutex_);
    return values_.size();
  }

 private:
  mutable std::mutex mutex_;
  WakeUp wake_up_;
  std::vector<T> values_;
  size_t capacity_;
  bool closed_ = false;
};

}  // namespace hrun
