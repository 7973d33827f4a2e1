#include "cpu/measure.h"

#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/threads.h"
#include "cpu/memory.h"
#include "cpu/tiers.h"

namespace hrun {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// Four independent sums keep enough loads in flight at any vector width.
uint64_t sum_words(const uint64_t* p, size_t n) {
  uint64_t sums[8] = {};
  for (size_t i = 0; i + 8 <= n; i += 8)
    for (size_t k = 0; k < 8; ++k) sums[k] += p[i + k];
  uint64_t total = 0;
  for (const uint64_t s : sums) total += s;
  return total;
}

}  // namespace

double measure_read_bandwidth(int n_threads) {
  constexpr size_t kBytes = size_t{1} << 30, kPiece = size_t{1} << 20;
  constexpr int kPasses = 5;
  ThreadPool pool(n_threads);
  const auto buffer = allocate_host(kBytes, "the read bandwidth measurement");
  auto* const data = static_cast<uint8_t*>(buffer->data);
  std::atomic<uint64_t> sink = 0;
  constexpr auto kPieces = static_cast<int64_t>(kBytes / kPiece);
  // Each thread touches its own part first, so that on several memory nodes the pages lie near it.
  pool.parallel(kPieces, 0, [&](int64_t begin, int64_t end, int) {
    std::memset(data + static_cast<size_t>(begin) * kPiece, 1, static_cast<size_t>(end - begin) * kPiece);
  });
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    pool.parallel(kPieces, 0, [&](int64_t begin, int64_t end, int) {
      sink += sum_words(reinterpret_cast<const uint64_t*>(data + static_cast<size_t>(begin) * kPiece),
                        static_cast<size_t>(end - begin) * kPiece / sizeof(uint64_t));
    });
    best = std::max(best, static_cast<double>(kBytes) / seconds_since(start));
  }
  return best;
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
      for (int64_t i = begin; i < end; ++i) operations += tier.kernels->multiply_registers(kIterations);
    });
    best = std::max(best, static_cast<double>(operations) / seconds_since(start));
  }
  return best;
}

}  // namespace hrun
