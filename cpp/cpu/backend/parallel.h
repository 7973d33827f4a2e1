// The files of CpuBackend share this: turns, and splitting work over threads.
#pragma once

#include <algorithm>
#include <optional>

#include "backend/checks.h"
#include "cpu/backend/cpu_backend.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace hrun {

// Results must not depend on a host program that flushes subnormals or rounds in another direction.
class DefaultFloatMode {
 public:
#if defined(__x86_64__)
  DefaultFloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~DefaultFloatMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  DefaultFloatMode() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    __asm__ volatile("msr fpcr, xzr");
  }
  ~DefaultFloatMode() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  uint64_t saved_;
#endif
};

inline const CpuTensor& on_cpu(const DeviceTensor& tensor) {
  return static_cast<const CpuTensor&>(tensor);
}

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// One operation at a time, in the process that made the threads.  next() says where its time counts
// from here on.
class CpuBackend::Turn {
 public:
  Turn(CpuBackend& backend, Operation operation) : Turn(backend) {
    timer_.emplace(backend.times_, operation);
  }
  explicit Turn(CpuBackend& backend) {
    backend.pool_
        .require_same_process();  // before the lock, which another thread may have held at the fork
    lock_ = std::unique_lock(backend.mutex_);
  }
  void next(Operation operation) { timer_->next(operation); }

 private:
  std::unique_lock<std::mutex> lock_;
  DefaultFloatMode mode_;  // of this thread; parallel() sets that of the workers
  std::optional<OperationTimer> timer_;
};

// The number of tasks of a loop that a thread takes at once: few enough to even out.
inline int64_t CpuBackend::tasks_together(int64_t n_tasks, int64_t values_per_task) const {
  constexpr int64_t kWorthTaking = 4096;  // values
  return std::max({int64_t{1}, n_tasks / (8 * n_threads()),
                   kWorthTaking / std::max(values_per_task, int64_t{1})});
}

// Calls fn(task, worker) for each task.  Work that is done before a second thread has woken up
// stays in this thread.
template <class Function>
void CpuBackend::parallel(int64_t n_tasks, int64_t values_per_task, Function&& fn) {
  constexpr int64_t kWorthSharing = 16384;  // values
  const auto range = [&](int64_t begin, int64_t end, int worker) {
    const DefaultFloatMode mode;
    for (int64_t i = begin; i < end; ++i) fn(i, worker);
  };
  if (n_tasks < 2 || n_tasks * values_per_task < kWorthSharing) return range(0, n_tasks, 0);
  pool_.parallel(n_tasks, tasks_together(n_tasks, values_per_task), range);
}

}  // namespace hrun
