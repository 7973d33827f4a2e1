// Measures where the time of a backend goes, by operation.  An operation costs a clock reading
// while the measurement is on, and a test of a flag while it is off.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hrun {

enum class Operation : uint8_t {
  embed,
  norm,
  quantize,
  matmul,
  rope,
  kv_append,
  attention,
  recurrent,
  gate,
  add
};

inline constexpr std::string_view kOperationNames[] = {
    "embed",     "norm",      "quantize",  "matmul", "rope",
    "kv append", "attention", "recurrent", "gate",   "add"};
inline constexpr size_t kOperations = std::size(kOperationNames);
static_assert(kOperations == static_cast<size_t>(Operation::add) + 1);

// `quantize` counts the work on the input of a matmul before the products, including a norm or a
// gate on the way.
struct OperationTimes {
  struct Entry {
    int64_t nanoseconds = 0;
    int64_t calls = 0;
  };
  bool on = false;
  std::array<Entry, kOperations> entries{};

  void operator+=(const OperationTimes& other) {
    for (size_t i = 0; i < kOperations; ++i) {
      entries[i].nanoseconds += other.entries[i].nanoseconds;
      entries[i].calls += other.entries[i].calls;
    }
  }
};

// Measures from its construction, or the last next(), to the next next(), or its destruction.
class OperationTimer {
 public:
  OperationTimer(OperationTimes& times, Operation operation)
      : times_(times), operation_(operation), on_(times.on) {
    if (on_) start_ = Clock::now();
  }
  OperationTimer(const OperationTimer&) = delete;
  OperationTimer& operator=(const OperationTimer&) = delete;
  ~OperationTimer() { next(operation_); }

  void next(Operation operation) {
    if (!on_) return;
    const Clock::time_point now = Clock::now();
    OperationTimes::Entry& entry = times_.entries[static_cast<size_t>(operation_)];
    entry.nanoseconds += std::chrono::duration_cast<std::chrono::nanoseconds>(now - start_).count();
    ++entry.calls;
    start_ = now;
    operation_ = operation;
  }

 private:
  using Clock = std::chrono::steady_clock;
  OperationTimes& times_;
  Operation operation_;
  bool on_;
  Clock::time_point start_;
};

}  // namespace hrun
