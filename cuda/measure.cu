#include "cuda/measure.h"

#include <algorithm>
#include <chrono>

#include "cuda/memory.h"

namespace hrun::gpu {
namespace {

#if defined(__CUDACC__)
constexpr size_t kBytes = size_t{1} << 30;
constexpr int kPasses = 10, kRounds = 20000;
#else  // emulated: that it runs is all that can be said
constexpr size_t kBytes = size_t{1} << 16;
constexpr int kPasses = 1, kRounds = 2;
#endif

struct Read {
  static constexpr int kThreads = 512, kBlocks = 1;
  static constexpr const char* kName = "read";
  static constexpr int kAtOnce = 4;
  const Words4* from;
  uint32_t* sink;
  int64_t count;  // a multiple of all threads times kAtOnce, or the rest is left out

  HRUN_HD void operator()() const {
    const int64_t step = static_cast<int64_t>(grid_x()) * kThreads;
    uint32_t sum = 0;
    for (int64_t i = static_cast<int64_t>(block_x()) * kThreads + thread();
         i + (kAtOnce - 1) * step < count; i += kAtOnce * step) {
      Words4 w[kAtOnce];
      for (int j = 0; j < kAtOnce; ++j) w[j] = load_once(from + i + j * step);
      for (int j = 0; j < kAtOnce; ++j) sum ^= w[j].v[0] ^ w[j].v[1] ^ w[j].v[2] ^ w[j].v[3];
    }
    if (sum == 0x12345678) *sink = sum;  // keeps the loads
  }
};

struct Copy {
  static constexpr int kThreads = 512, kBlocks = 1;
  static constexpr const char* kName = "copy";
  const Words4* from;
  Words4* to;
  int64_t count;

  HRUN_HD void operator()() const {
    for (int64_t i = static_cast<int64_t>(block_x()) * kThreads + thread(); i < count;
         i += static_cast<int64_t>(grid_x()) * kThreads)
      to[i] = load_once(from + i);
  }
};

// Repeats products on registers.
constexpr int kProducts = 8;

struct Int8 {
  using Sum = int;
  static constexpr const char* kName = "multiply8";
  static constexpr int kDepth = 32;
  static HRUN_HD uint32_t operand() { return static_cast<uint32_t>(thread()) * 0x01030507u; }
  static HRUN_HD void multiply(Sum (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_s8(c, a, b);
  }
};
struct Fp16 {
  using Sum = float;
  static constexpr const char* kName = "multiply16";
  static constexpr int kDepth = 16;
  static HRUN_HD uint32_t operand() {
    return 0x2c002a00u + static_cast<uint32_t>(lane());
  }  // small numbers
  static HRUN_HD void multiply(Sum (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    mma_f16(c, a, b);
  }
};

template <class Unit>
struct MultiplyRegisters {
  static constexpr int kThreads = 256, kBlocks = 1;
  static constexpr const char* kName = Unit::kName;
  static constexpr double kOperations = 2.0 * 16 * 8 * Unit::kDepth;
  int rounds;
  uint32_t* sink;

  HRUN_HD void operator()() const {
    const uint32_t word = Unit::operand();
    const uint32_t a[4] = {word, word + 1, word + 2, word + 3}, b[2] = {word + 4, word + 5};
    typename Unit::Sum c[kProducts][4] = {};
    for (int i = 0; i < rounds; ++i)
      for (int j = 0; j < kProducts; ++j) Unit::multiply(c[j], a, b);
    float sum = 0;
    for (int j = 0; j < kProducts; ++j)
      for (int k = 0; k < 4; ++k) sum += static_cast<float>(c[j][k]);
    if (sum == 12345.5f) *sink = 1;  // keeps the products
  }
};

// Seconds of the fastest of a few runs.
template <class Function>
double fastest(Gpu& gpu, Function&& run) {
  run();
  gpu.wait();
  double best = 1e30;
  for (int pass = 0; pass < kPasses; ++pass) {
    const auto start = std::chrono::steady_clock::now();
    run();
    gpu.wait();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  }
  return best;
}

template <class Unit>
double operations_per_second(Gpu& gpu, uint32_t* sink) {
  using Kernel = MultiplyRegisters<Unit>;
  const Grid grid{gpu.info().multiprocessors * 4};
  const double seconds = fastest(gpu, [&] { gpu.launch(Kernel{kRounds, sink}, grid); });
  return Kernel::kOperations * kProducts * kRounds * grid.x * (Kernel::kThreads / kWarp) / seconds;
}

}  // namespace

DevicePeaks measure(Gpu& gpu) {
  const Memory from(gpu, kBytes, "the measurement of the bandwidth"),
      to(gpu, kBytes, "the measurement of the bandwidth");
  auto* const sink = static_cast<uint32_t*>(to.data);
  const auto* const words = static_cast<const Words4*>(from.data);
  constexpr auto kCount = static_cast<int64_t>(kBytes / sizeof(Words4));
  const Grid grid{gpu.info().multiprocessors * 4};
  gpu.clear(from.data, kBytes);
  gpu.clear(to.data, kBytes);
  DevicePeaks peaks;
  peaks.read = kBytes / fastest(gpu, [&] { gpu.launch(Read{words, sink, kCount}, grid); });
  peaks.copy = 2.0 * kBytes / fastest(gpu, [&] {
                 gpu.launch(Copy{words, static_cast<Words4*>(to.data), kCount}, grid);
               });
  peaks.int8 = operations_per_second<Int8>(gpu, sink);
  peaks.fp16 = operations_per_second<Fp16>(gpu, sink);
  return peaks;
}

}  // namespace hrun::gpu
