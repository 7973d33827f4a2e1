// The thread pool: coverage of the range, exceptions, callers in several threads, fork, refused threads.  Also under TSan.
#include "base/threads.h"

#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdio>
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

// Every task once, workers in range, plain writes visible to the caller afterwards.
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
    if (i % 97 == 0) std::this_thread::sleep_for(std::chrono::microseconds(150));  // long enough for workers to sleep
  }
  bool right = true;
  for (size_t k = 0; k < sums.size(); ++k) right = right && sums[k] == static_cast<int64_t>(k) * loops;
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
    } catch (const std::runtime_error& e) {
      caught = e.what();
    }
    check(caught == "task", "exception rethrown");
    std::atomic<int> count{0};
    pool.parallel(20, 1, [&](int64_t begin, int64_t end, int) { count += static_cast<int>(end - begin); });
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
    if (waitpid(child, &status, WNOHANG) == child) return WIFEXITED(status) && WEXITSTATUS(status) == 0;
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
          // Room for one more thread stack, not for seven.
          rlimit stack{}, space{};
          getrlimit(RLIMIT_STACK, &stack);
          const size_t stack_bytes = stack.rlim_cur == RLIM_INFINITY ? size_t{2} << 20 : stack.rlim_cur;
          space.rlim_cur = space.rlim_max = pages * static_cast<size_t>(sysconf(_SC_PAGESIZE)) + stack_bytes * 3 / 2;
          if (setrlimit(RLIMIT_AS, &space) != 0) return false;
          ThreadPool pool(8);
          std::atomic<int> count{0};
          pool.parallel(100, 1, [&](int64_t begin, int64_t end, int) { count += static_cast<int>(end - begin); });
          return pool.n_threads() < 8 && count == 100;
        }),
        "runs with the threads there are");
}

}  // namespace

int main() {
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
    } catch (const hrun::ArgumentError&) {
      refused = true;
    }
    check(refused, "thread counts out of range are refused");
  }
  for (int i = 0; i < 200; ++i) ThreadPool pool(4);  // made and dropped without work
  return failures != 0;
}
