// What tests of recurrences with a state share: the CPU against double precision, any cut of a
// sequence and states made again to the same bits in every tier, a slot that is not there.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "base/error.h"
#include "cpu/tiers.h"
#include "devices/registry.h"

namespace recurrences {

inline int failures = 0;
inline void check(bool ok, const char* what) {
  if (ok) return;
  ++failures;
  std::printf("failed: %s\n", what);
}

using Values = std::vector<float>;

inline Values random_values(int64_t n, unsigned seed, float scale, float middle = 0) {
  Values out(static_cast<size_t>(n));
  for (float& v : out) {
    seed = seed * 1664525u + 1013904223u;
    v = middle + static_cast<float>(static_cast<int>(seed >> 8) - (1 << 23)) * 0x1p-23f * scale;
  }
  return out;
}

// n rows of so many columns, from a row on.
inline hrun::FloatView rows_of(Values& values, int64_t first, int64_t n, int64_t cols) {
  return {values.data() + first * cols, n, cols, cols};
}

template <class Call>
bool is_refused(const Call& call) {
  try {
    call();
  } catch (const hrun::ArgumentError&) { return true; }
  return false;
}

constexpr int64_t kTokens = 37, kLogRows = 8;

// Where a pass begins and ends, and where its state and its records are.
struct Pass {
  int64_t first, n;
  int32_t slot, kept = -1;
  int64_t kept_at = 0;
  int32_t log_row = -1;

  hrun::BatchRows batch() const {
    hrun::BatchRows rows;
    rows.add_positions(n, first, {}, slot);
    rows.last().kept = kept, rows.last().kept_at = kept_at, rows.last().log_row = log_row;
    return rows;
  }
};

// make(backend): a recurrence with states, of two slots and kLogRows records, and run(pass), the
// values of its rows.  exact(recurrence): those of kTokens rows.  bound: of an error, relative to
// the largest value.  then(recurrence): what else is tested in each tier; it may spoil it.
template <class Make, class Exact, class Then>
void test_tiers(const Make& make, const Exact& exact, double bound, const Then& then) {
  Values first;
  for (const hrun::CpuTier& tier : hrun::cpu_tiers()) {
    if (!tier.available()) continue;
    const auto backend =
        hrun::make_backend({.device = "cpu", .n_threads = 2, .cpu_tier = std::string(tier.name)});
    auto tested = make(*backend);
    tested.states->clear(0), tested.states->clear(1);
    const Values whole = tested.run({0, kTokens, 0});
    const std::vector<double> wanted = exact(tested);
    double worst = 0, largest = 0;
    for (size_t i = 0; i < whole.size(); ++i) {
      worst = std::max(worst, std::abs(static_cast<double>(whole[i]) - wanted[i]));
      largest = std::max(largest, std::abs(wanted[i]));
    }
    check(whole.size() == wanted.size() && largest > 0.1 && worst < bound * largest,
          "close to double precision");
    if (first.empty()) first = whole;
    check(whole == first, "tiers agree");
    for (const std::vector<int64_t>& pieces :
         {std::vector<int64_t>(kTokens, 1), {1, 36}, {5, 1, 1, 30}}) {
      tested.states->clear(1);
      Values joined;
      int64_t at = 0;
      for (const int64_t n : pieces) {
        const Values part = tested.run({at, n, 1});
        joined.insert(joined.end(), part.begin(), part.end());
        at += n;
      }
      check(joined == whole, "any cut gives the same bits");
    }
    // The state before row 20 is left behind; from it and the records come those behind it.
    const auto row = [&](int64_t t) {
      return whole.begin() + t * static_cast<int64_t>(whole.size()) / kTokens;
    };
    for (int64_t n = 0; n <= 7; ++n) {
      tested.states->clear(0);
      check(tested.run({0, 27, 1, 0, 20, 5}) == Values(whole.begin(), row(27)),
            "a pass that keeps a state gives what one gives that does not");
      backend->redo(*tested.states, 0, 0, (20 + 5) % kLogRows, n);
      check(tested.run({20 + n, kTokens - 20 - n, 0}) == Values(row(20 + n), whole.end()),
            "a state that was made again");
    }
    check(is_refused([&] { tested.run({0, 1, 2}); }), "a slot that is not there");
    then(tested);
  }
}

}  // namespace recurrences
