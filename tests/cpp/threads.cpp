// The thread pool: coverage of the range, exceptions, callers in several threads, fork, refused
// threads.  Also under TSan.
#include "base/control_groups.h"
#include "base/threads.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

namespace {

using hrun::ThreadPool;

int failures = 0;
void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

// Every task runs once, workers are in range, and plain writes are visible to the caller
// afterwards.
void covers_the_range(int n_threads) {
  ThreadPool pool(n_threads);
  for (int64_t n_tasks : {0, 1, 2, 3, 7, 64, 1000})
    for (int64_t chunk : {0, 1, 3, 1000}) {
      std::vector<int> hits(static_cast<size_t>(n_tasks));
      std::atomic<bool> in_range{true};
      pool.parallel(n_tasks, chunk, [&](int64_t begin, int64_t end, int worker) {
        if (worker < 0 || worker >= pool.n_threads() || begin >= end) in_range = false;
        for (int64_t i = begin; i < end; ++i) ++hits[static_cast<size_t>(i)];
      });
      bool once = true;
      for (int h : hits) once = once && h == 1;
      check(once && in_range, "each task once");
    }
}

void many_short_loops(int n_threads, int loops) {
  ThreadPool pool(n_threads);
  std::vector<int64_t> sums(64);
  for (int i = 0; i < loops; ++i) {
    pool.parallel(64, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t k = begin; k < end; ++k) sums[static_cast<size_t>(k)] += k;
    });
    if (i % 97 == 0)
      std::this_thread::sleep_for(
          std::chrono::microseconds(150));  // long enough for workers to sleep
  }
  bool right = true;
  for (size_t k = 0; k < sums.size(); ++k)
    right = right && sums[k] == static_cast<int64_t>(k) * loops;
  check(right, "many short loops");
}

void exceptions_reach_the_caller() {
  ThreadPool pool(3);
  for (int i = 0; i < 200; ++i) {
    std::string caught;
    try {
      pool.parallel(50, 1, [&](int64_t begin, int64_t, int) {
        if (begin % 10 == i % 10) throw std::runtime_error("task");
      });
    } catch (const std::runtime_error& e) { caught = e.what(); }
    check(caught == "task", "exception rethrown");
    std::atomic<int> count{0};
    pool.parallel(20, 1,
                  [&](int64_t begin, int64_t end, int) { count += static_cast<int>(end - begin); });
    check(count == 20, "usable after an exception");
  }
}

void callers_take_turns() {
  ThreadPool pool(2);
  int64_t plain = 0;  // written in every loop: a data race unless the loops exclude each other
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      for (int i = 0; i < 300; ++i)
        pool.parallel(8, 1, [&](int64_t begin, int64_t, int) {
          if (begin == 0) ++plain;
        });
    });
  for (auto& t : callers) t.join();
  check(plain == 1200, "callers take turns");
}

// Runs `body` in a forked child; true if it returned true within 20 seconds.
template <class Body>
bool in_child(Body&& body) {
  const pid_t child = fork();
  if (child == 0) _exit(body() ? 0 : 1);
  for (int i = 0; i < 2000; ++i) {
    int status = 0;
    if (waitpid(child, &status, WNOHANG) == child)
      return WIFEXITED(status) && WEXITSTATUS(status) == 0;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

void a_forked_child_is_told() {
  auto* pool = new ThreadPool(3);
  pool->parallel(8, 1, [](int64_t, int64_t, int) {});
  check(in_child([&] {
          bool told = false;
          try {
            pool->parallel(8, 1, [](int64_t, int64_t, int) {});
          } catch (const hrun::DeviceError& e) {
            told = std::string(e.what()).find("created before fork") != std::string::npos;
          }
          delete pool;  // must not wait for workers that are not here
          return told;
        }),
        "a forked child is told, and can drop the pool");
  int count = 0;
  pool->parallel(1, 1, [&](int64_t, int64_t, int) { ++count; });
  check(count == 1, "the parent goes on");
  delete pool;
}

void runs_with_the_threads_there_are() {
  if (kSanitized) return;  // their shadow memory needs the address space
  check(in_child([] {
          std::ifstream statm("/proc/self/statm");
          size_t pages = 0;
          statm >> pages;
          // There is room for one more thread stack, not for seven.
          rlimit stack{}, space{};
          getrlimit(RLIMIT_STACK, &stack);
          const size_t stack_bytes =
              stack.rlim_cur == RLIM_INFINITY ? size_t{2} << 20 : stack.rlim_cur;
          space.rlim_cur = space.rlim_max =
              pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + stack_bytes * 3 / 2;
          if (setrlimit(RLIMIT_AS, &space) != 0) return false;
          ThreadPool pool(8);
          std::atomic<int> count{0};
          pool.parallel(100, 1, [&](int64_t begin, int64_t end, int) {
            count += static_cast<int>(end - begin);
          });
          return pool.n_threads() < 8 && count == 100;
        }),
        "runs with the threads there are");
}

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return static_cast<double>(t.tv_sec) + 1e-9 * static_cast<double>(t.tv_nsec);
}

void idle_workers_sleep() {
  ThreadPool pool(4);
  pool.parallel(64, 1, [](int64_t, int64_t, int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const double before = processor_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  check(processor_seconds() - before < 0.03, "idle workers sleep");
}

// Two pools are at work: there are never more threads inside loops than there are cores, or
// callers.
void pools_share_the_cores() {
  const int most = std::max(2, hrun::default_thread_count());
  std::atomic<int> inside{0}, highest{0};
  std::atomic<int64_t> done{0};
  const auto use = [&] {
    ThreadPool pool;
    for (int loop = 0; loop < 300; ++loop)
      pool.parallel(16, 1, [&](int64_t, int64_t, int) {
        const int now = ++inside;
        for (int seen = highest; seen < now && !highest.compare_exchange_weak(seen, now);) {}
        const auto end = std::chrono::steady_clock::now() + std::chrono::microseconds(20);
        while (std::chrono::steady_clock::now() < end) {}
        ++done;
        --inside;
      });
  };
  std::thread other(use);
  use();
  other.join();
  check(done == 2 * 300 * 16, "both pools finish");
  // A caller counts itself without asking, so it may come on top of workers that are at their last
  // chunk.
  check(highest <= most + 1, "pools share the cores");
}

void respects_the_affinity_mask() {
  check(in_child([] {
          cpu_set_t all, one;
          if (sched_getaffinity(0, sizeof all, &all) != 0) return false;
          CPU_ZERO(&one);
          for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
            if (CPU_ISSET(cpu, &all)) {
              CPU_SET(cpu, &one);
              break;
            }
          return sched_setaffinity(0, sizeof one, &one) == 0 && hrun::default_thread_count() == 1 &&
                 ThreadPool().n_threads() == 1;
        }),
        "respects the affinity mask");
}

void respects_control_groups() {
  namespace fs = std::filesystem;
  const fs::path root =
      fs::temp_directory_path() / ("hrun_threads_test_" + std::to_string(getpid()));
  const auto write = [&](const char* path, const char* text) {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  };
  const auto cpus = [&] { return hrun::control_group_cpus(root / "proc", root / "sys"); };
  check(cpus() == 0, "no control groups, no limit");
  write("proc/self/cgroup", "0::/outer/inner\n");
  write("sys/fs/cgroup/outer/inner/cpu.max", "max 100000\n");
  check(cpus() == 0, "no quota, no limit");
  write("sys/fs/cgroup/outer/cpu.max", "350000 100000\n");
  check(cpus() == 4, "the quota of a group above counts, rounded up");
  write("sys/fs/cgroup/outer/inner/cpu.max", "50000 100000\n");
  check(cpus() == 1, "the smallest quota counts");
  write("proc/self/cgroup", "3:cpu,cpuacct:/box\n2:memory:/box\n");
  write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_period_us", "100000\n");
  check(cpus() == 0, "version 1, no quota");
  write("sys/fs/cgroup/cpu,cpuacct/box/cpu.cfs_quota_us", "200000\n");
  check(cpus() == 2, "version 1, a quota");

  const auto memory = [&] {
    return hrun::control_group_memory(root / "proc", root / "sys").value_or(0);
  };
  check(memory() == 0, "no limit of memory");
  write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write("sys/fs/cgroup/memory/memory.usage_in_bytes", "12345\n");
  check(memory() == 0, "version 1's word for no limit");
  write("sys/fs/cgroup/memory/box/memory.limit_in_bytes", "1000\n");
  write("sys/fs/cgroup/memory/box/memory.usage_in_bytes", "600\n");
  write("sys/fs/cgroup/memory/box/memory.stat",
        "inactive_file 7\ntotal_inactive_file 100\ntotal_active_file 50\n");
  check(memory() == 550, "version 1, less what is in use, page cache apart");
  write("proc/self/cgroup", "0::/outer/inner\n");
  write("sys/fs/cgroup/outer/inner/memory.max", "max\n");
  write("sys/fs/cgroup/outer/inner/memory.current", "300\n");
  check(memory() == 0, "version 2, no limit");
  write("sys/fs/cgroup/outer/memory.max", "2000\n");
  write("sys/fs/cgroup/outer/memory.current", "500\n");
  write("sys/fs/cgroup/outer/memory.stat", "anon 5\ninactive_file 100\nactive_file 0\n");
  check(memory() == 1600, "version 2, the limit of a group above");
  write("sys/fs/cgroup/outer/inner/memory.max", "200\n");
  write("sys/fs/cgroup/outer/inner/memory.stat", "\n");
  check(memory() == 0 && hrun::control_group_memory(root / "proc", root / "sys").has_value(),
        "nothing is left where more is used than allowed");
  fs::remove_all(root);
}

}  // namespace

int main() {
  idle_workers_sleep();
  pools_share_the_cores();
  respects_the_affinity_mask();
  respects_control_groups();
  check(hrun::default_thread_count() >= 1, "at least one thread");
  for (int n : {1, 2, 3, 8}) covers_the_range(n);
  many_short_loops(2, 20000);
  many_short_loops(5, 3000);
  exceptions_reach_the_caller();
  callers_take_turns();
  a_forked_child_is_told();
  runs_with_the_threads_there_are();
  for (int bad : {-1, hrun::kMaxThreads + 1}) {
    bool refused = false;
    try {
      ThreadPool pool(bad);
    } catch (const hrun::ArgumentError&) { refused = true; }
    check(refused, "thread counts out of range are refused");
  }
  for (int i = 0; i < 200; ++i) ThreadPool pool(4);  // made and dropped without work
  return failures != 0;
}
