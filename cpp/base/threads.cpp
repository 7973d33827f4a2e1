#include "base/threads.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <fstream>
#include <mutex>
#include <set>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "base/control_groups.h"
#include "base/error.h"

namespace hrun {
namespace {

// Longer than the serial gaps between two operations of a decode step, shorter than a scheduler
// tick.
constexpr auto kSpin = std::chrono::microseconds(50);

void pause_briefly() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::atomic_signal_fence(std::memory_order_seq_cst);
#endif
}

// Spins until ready() or until the time is up; returns which it was.
template <class Ready>
bool spin_until(bool may_spin, Ready&& ready) {
  if (ready()) return true;
  if (!may_spin) return false;
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (ready()) return true;
      pause_briefly();
    }
  } while (std::chrono::steady_clock::now() < end);
  return ready();
}

// Counts the forks between the first process and this one.
std::atomic<uint64_t> fork_generation{0};

// The number of threads of this process that are inside a loop, of all pools.  With several pools,
// the threads of one make room for the others.
std::atomic<int> running{0};

void watch_forks() {
  static const int registered = pthread_atfork(nullptr, nullptr, [] {
    fork_generation.fetch_add(1);
    running = 0;  // those threads stayed in the parent
  });
  (void)registered;
}

std::string first_line(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  std::getline(file, line);
  return line;
}

int physical_cores_in_mask() {
  cpu_set_t mask;
  CPU_ZERO(&mask);
  if (sched_getaffinity(0, sizeof mask, &mask) != 0)  // more than 1024 CPUs, or forbidden
    return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
  std::set<std::string> cores;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &mask)) continue;
    const std::string siblings = first_line("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                                            "/topology/thread_siblings_list");
    cores.insert(siblings.empty() ? std::to_string(cpu) : siblings);
  }
  return std::max(1, static_cast<int>(cores.size()));
}

}  // namespace

int default_thread_count() {
  const int cores = physical_cores_in_mask(), quota = control_group_cpus("/proc", "/sys");
  return std::min(kMaxThreads, quota > 0 ? std::min(cores, quota) : cores);
}

// One loop at a time.  `phase` packs what must change together: the loop's number (high 32 bits),
// whether workers may still join it, and how many have joined and not left (low 16 bits).
struct ThreadPool::State {
  static constexpr uint64_t kOpen = 1u << 16;
  static constexpr uint64_t kActive = kOpen - 1;

  static constexpr int kMostRanges = 8;
  struct alignas(64) TaskRange {
    std::atomic<int64_t> next{0};
    int64_t end = 0;
  };

  std::atomic<uint64_t> phase{0};
  std::array<TaskRange, kMostRanges> ranges;
  std::atomic<bool> failed{false};
  std::atomic<bool> stop{false};
  std::atomic<int> sleepers{0};
  std::atomic<bool> caller_sleeps{false};

  int n_ranges = 1;
  int64_t chunk = 1;
  Range range = nullptr;
  void* fn = nullptr;
  std::exception_ptr error;  // written once, guarded by sleep_mutex

  std::mutex call_mutex;  // callers take turns
  std::mutex sleep_mutex;
  std::condition_variable wake_workers, wake_caller;
  std::vector<std::thread> threads;
  bool may_spin = true;
  int most_running = 1;  // beyond this, a worker leaves a loop to others: the cores, or more if
                         // this pool was asked for more
  uint64_t generation = 0;

  static uint32_t number(uint64_t phase_word) { return static_cast<uint32_t>(phase_word >> 32); }

  void share_out(int64_t n_tasks, int n_threads) {
    n_ranges = static_cast<int>(std::min<int64_t>(n_tasks, std::min(n_threads, kMostRanges)));
    for (int i = 0; i < n_ranges; ++i) {
      TaskRange& own = ranges[static_cast<size_t>(i)];
      own.next.store(n_tasks * i / n_ranges, std::memory_order_relaxed);
      own.end = n_tasks * (i + 1) / n_ranges;
    }
  }

  void take_chunks(int worker) noexcept {
    for (int i = 0; i < n_ranges; ++i) {
      TaskRange& own = ranges[static_cast<size_t>((worker + i) % n_ranges)];
      while (!failed.load(std::memory_order_relaxed)) {
        if (own.next.load(std::memory_order_relaxed) >= own.end) break;
        const int64_t begin = own.next.fetch_add(chunk, std::memory_order_relaxed);
        if (begin >= own.end) break;
        try {
          range(fn, begin, std::min(begin + chunk, own.end), worker);
        } catch (...) {
          std::lock_guard lock(sleep_mutex);
          if (!error) error = std::current_exception();
          failed = true;
        }
      }
    }
  }

  bool join(uint32_t loop) {
    uint64_t seen = phase.load(std::memory_order_acquire);
    while (number(seen) == loop && (seen & kOpen))
      if (phase.compare_exchange_weak(seen, seen + 1, std::memory_order_acq_rel)) return true;
    return false;
  }

  void leave() {
    const uint64_t before = phase.fetch_sub(1);
    if ((before & (kOpen | kActive)) == 1 && caller_sleeps) {
      { std::lock_guard lock(sleep_mutex); }
      wake_caller.notify_one();
    }
  }

  void work(int worker) {
    uint32_t last = 0;
    for (;;) {
      const auto ready = [&] {
        return stop || number(phase.load(std::memory_order_acquire)) != last;
      };
      if (!spin_until(may_spin && running.load(std::memory_order_relaxed) < most_running, ready)) {
        // The caller stores `phase`, then reads `sleepers`; here it is the other way round, so one
        // sees the other.
        ++sleepers;
        {
          std::unique_lock lock(sleep_mutex);
          wake_workers.wait(lock, [&] { return stop || number(phase) != last; });
        }
        --sleepers;
      }
      if (stop) return;
      last = number(phase.load(std::memory_order_acquire));
      if (running.fetch_add(1, std::memory_order_relaxed) < most_running && join(last)) {
        take_chunks(worker);
        leave();
      }
      running.fetch_sub(1, std::memory_order_relaxed);
    }
  }

  void wake() {
    if (sleepers == 0) return;
    { std::lock_guard lock(sleep_mutex); }
    wake_workers.notify_all();
  }

  void wait_for_workers() {
    const auto done = [&] { return (phase.load(std::memory_order_acquire) & kActive) == 0; };
    if (spin_until(may_spin, done)) return;
    caller_sleeps = true;
    {
      std::unique_lock lock(sleep_mutex);
      wake_caller.wait(lock, [&] { return (phase & kActive) == 0; });
    }
    caller_sleeps = false;
  }
};

ThreadPool::ThreadPool(int n_threads) : state_(std::make_unique<State>()) {
  if (n_threads < 0 || n_threads > kMaxThreads)
    throw ArgumentError("the number of threads is {}; expected 0 (all cores) to {}", n_threads,
                        kMaxThreads);
  watch_forks();
  const int cores = default_thread_count();
  if (n_threads == 0) n_threads = cores;
  State* s = state_.get();
  s->generation = fork_generation;
  s->may_spin = n_threads <= cores;  // else a spinning thread keeps a working one off its core
  s->most_running = std::max(cores, n_threads);
  try {
    s->threads.reserve(static_cast<size_t>(n_threads));
    for (int worker = 1; worker < n_threads; ++worker)
      s->threads.emplace_back([s, worker] { s->work(worker); });
  } catch (const std::system_error&) {
    // The process has reached a limit: run with the threads there are.
  }
}

ThreadPool::~ThreadPool() {
  if (state_->generation != fork_generation) {
    // The workers stayed in the parent: joining them, or destroying what they wait on, would never
    // return.
    (void)state_.release();
    return;
  }
  state_->stop = true;
  { std::lock_guard lock(state_->sleep_mutex); }
  state_->wake_workers.notify_all();
  for (std::thread& t : state_->threads) t.join();
}

int ThreadPool::n_threads() const { return static_cast<int>(state_->threads.size()) + 1; }

void ThreadPool::require_same_process() const {
  if (state_->generation != fork_generation)
    throw DeviceError(
        "the CPU threads were created before fork; create the runtime in the child process, or use "
        "spawn");
}

void ThreadPool::run(int64_t n_tasks, int64_t chunk, Range range, void* fn) {
  if (n_tasks <= 0) return;
  require_same_process();
  State& s = *state_;
  if (chunk <= 0) chunk = (n_tasks + n_threads() - 1) / n_threads();
  std::lock_guard turn(s.call_mutex);
  if (s.threads.empty() || n_tasks <= chunk) {
    range(fn, 0, n_tasks, 0);
    return;
  }
  s.share_out(n_tasks, n_threads());
  s.chunk = chunk;
  s.range = range;
  s.fn = fn;
  s.failed = false;
  s.phase = (static_cast<uint64_t>(State::number(s.phase) + 1) << 32) | State::kOpen;
  s.wake();
  running.fetch_add(1, std::memory_order_relaxed);
  s.take_chunks(0);
  s.phase.fetch_and(~State::kOpen);
  running.fetch_sub(1, std::memory_order_relaxed);
  s.wait_for_workers();
  if (s.error) std::rethrow_exception(std::exchange(s.error, nullptr));
}

}  // namespace hrun
