// A condition variable that a forked child can destroy.  The threads that waited for it stayed in
// the parent, and the system's own condition variable would wait for them.
#pragma once

#include <unistd.h>

#include <condition_variable>
#include <memory>

namespace hrun {

class ForkCondition {
 public:
  ForkCondition() = default;
  ForkCondition(const ForkCondition&) = delete;
  ForkCondition& operator=(const ForkCondition&) = delete;
  ~ForkCondition() {
    if (getpid() != process_) (void)condition_.release();
  }
  std::condition_variable* operator->() const { return condition_.get(); }

 private:
  std::unique_ptr<std::condition_variable> condition_ = std::make_unique<std::condition_variable>();
  pid_t process_ = getpid();
};

}  // namespace hrun
