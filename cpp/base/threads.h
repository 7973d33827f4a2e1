// A pool of persistent workers for short parallel loops.
//
// The caller takes part.  Workers spin for some tens of microseconds between loops, then sleep.  A
// worker that the system did not schedule in time is not waited for: it simply finds no chunk left.
// Pools of one process share the cores: a worker leaves a loop to its caller while as many threads
// as there are cores are inside loops, of whichever pool.
//
// A loop's tasks are shared out in ranges that lie side by side, one for each of the first eight
// threads.  A thread goes through its own range from the beginning, then takes what is left of the
// others'.  So each reads memory in one stream.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <type_traits>

namespace hrun {

// Physical cores in this process's affinity mask, at most the CPU quota of its control group, at
// least 1.
int default_thread_count();

inline constexpr int kMaxThreads = 1024;

class ThreadPool {
 public:
  // 0: default_thread_count().  Throws ArgumentError outside 0 .. kMaxThreads.  Where the system
  // refuses a thread the pool has fewer.
  explicit ThreadPool(int n_threads = 0);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int n_threads() const;

  // Calls fn(begin, end, worker) on ranges that cover [0, n_tasks) once; worker is in [0,
  // n_threads).  Parts of a thread's range are handed out on demand, `chunk` tasks each (0: one
  // equal share per thread).  Returns when all are done; the first exception of fn is rethrown here
  // and cancels the ranges not yet begun.  Calls from several threads take turns; fn must not call
  // parallel() of the same pool.  Throws DeviceError in a forked child, where the workers do not
  // exist.
  template <class Function>
  void parallel(int64_t n_tasks, int64_t chunk, Function&& fn) {
    using Plain = std::remove_reference_t<Function>;
    run(
        n_tasks, chunk,
        [](void* f, int64_t begin, int64_t end, int worker) {
          (*static_cast<Plain*>(f))(begin, end, worker);
        },
        const_cast<std::remove_const_t<Plain>*>(&fn));
  }

  // Throws DeviceError if this process is a fork of the one that made the pool.
  void require_same_process() const;

 private:
  using Range = void (*)(void* fn, int64_t begin, int64_t end, int worker);
  void run(int64_t n_tasks, int64_t chunk, Range range, void* fn);

  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace hrun
