#include "cpu/measure.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "base/threads.h"
#include "cpu/memory.h"
#include "cpu/tiers.h"

namespace hrun {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

double measure_read_bandwidth(int n_threads) {
  constexpr size_t kBytes = size_t{1} << 30, kPiece = size_t{1} << 20;
  constexpr int kPasses = 8;
  const CpuTier& tier = select_cpu_tier();
  ThreadPool pool(n_threads);
  const auto buffer = allocate_host(kBytes, "the read bandwidth measurement", Pages::huge);
  auto* const data = static_cast<uint8_t*>(buffer->data);
  std::atomic<int64_t> sink = 0;
  constexpr auto kPieces = static_cast<int64_t>(kBytes / kPiece);
  // Each thread touches its own part first, so that on several memory nodes the pages lie near it.
  pool.parallel(kPieces, 0, [&](int64_t begin, int64_t end, int) {
    std::memset(data + static_cast<size_t>(begin) * kPiece, 1,
                static_cast<size_t>(end - begin) * kPiece);
  });
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.parallel(kPieces, 0, [&](int64_t begin, int64_t end, int) {
      sink += tier.kernels->read_memory(data + static_cast<size_t>(begin) * kPiece,
                                        static_cast<size_t>(end - begin) * kPiece);
    });
    best = std::max(best, static_cast<double>(kBytes) / seconds_since(start));
  }
  return best;
}

double measure_barrier(int n_threads) {
  ThreadPool pool(n_threads);
  const int n = pool.n_threads();
  constexpr int kLoops = 10000;
  constexpr auto kPatience =
      std::chrono::microseconds(200);  // a thread that has no core now is not waited for
  std::vector<double> seconds;
  for (int i = 0; i < kLoops; ++i) {
    std::atomic<int> arrived = 0;
    const auto start = std::chrono::steady_clock::now();
    // Each share waits for the others.  Otherwise one thread would take them all before a second
    // has looked.
    pool.parallel(n, 1, [&](int64_t, int64_t, int) {
      if (++arrived == n) return;
      const auto end = std::chrono::steady_clock::now() + kPatience;
      while (arrived.load(std::memory_order_relaxed) < n &&
             std::chrono::steady_clock::now() < end) {}
    });
    seconds.push_back(seconds_since(start));
  }
  // Most loops take longer where other programs take the cores.
  std::nth_element(seconds.begin(), seconds.begin() + kLoops / 10, seconds.end());
  return seconds[kLoops / 10];
}

double measure_int8_peak(int n_threads, std::string_view tier_name) {
  const CpuTier& tier = select_cpu_tier(std::string(tier_name));
  ThreadPool pool(n_threads);
  constexpr int64_t kIterations = 1 << 20;
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    std::atomic<int64_t> operations = 0;
    const auto start = std::chrono::steady_clock::now();
    pool.parallel(pool.n_threads(), 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i)
        operations += tier.kernels->multiply_registers(kIterations);
    });
    best = std::max(best, static_cast<double>(operations) / seconds_since(start));
  }
  return best;
}

}  // namespace hrun
