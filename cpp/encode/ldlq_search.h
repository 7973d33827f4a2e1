// The M-algorithm over the states of a sliding-window code.
//
// Survivor i at column t stands for a path of codes; its errors enter the later columns' residuals.
// What they add to the next kWindow columns is kept per survivor (`ahead`); what they add beyond is
// added once per row, when a code is *released*: after kWindow - kRelease columns the code on the
// best path becomes final and paths that disagree are dropped.
//
// All arithmetic is elementwise on floats in a fixed order, without fused operations: every
// instruction set finds the same path.
//
// Included by ldlq.cpp only, whose functions compile it for each instruction set.
#pragma once
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a call

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "formats/format.h"
#include "encode/input_moments.h"
#include "encode/trellis.h"

namespace hrun::ldlq {

constexpr int kWindow = 64;   // columns that a survivor's own errors reach
constexpr int kRelease = 16;  // codes released at a time
constexpr int kAheadStride = kWindow + kRelease;
constexpr int kLane = 16;  // floats per vector
constexpr float kInfinite = std::numeric_limits<float>::infinity();
static_assert(kWindow + kRelease <= InputFactor::kPadding && kWindow % kRelease == 0 &&
              kMaxBlock % kRelease == 0);

typedef float Floats __attribute__((vector_size(4 * kLane)));
typedef int32_t Ints __attribute__((vector_size(4 * kLane)));

[[gnu::always_inline]] inline Floats load(const float* p) {
  Floats v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
[[gnu::always_inline]] inline void store(float* p, Floats v) { __builtin_memcpy(p, &v, sizeof v); }

// The survivors between two columns.
struct Front {
  int n = 0;
  double total = 0;             // cost of the best survivor; `cost` is above it
  std::vector<float> cost;      // [S]
  std::vector<uint32_t> state;  // [S]
  std::vector<float>
      ahead;  // [S][kAheadStride]: feedback on the next columns; zero from kWindow on
  explicit Front(int n_slots)
      : cost(static_cast<size_t>(n_slots) + kLane),
        state(static_cast<size_t>(n_slots)),
        ahead(static_cast<size_t>(n_slots) * kAheadStride) {}
  void copy_from(const Front& other) {
    n = other.n;
    total = other.total;
    std::copy_n(other.cost.begin(), n, cost.begin());
    std::copy_n(other.state.begin(), n, state.begin());
    std::copy_n(other.ahead.begin(), static_cast<size_t>(n) * kAheadStride, ahead.begin());
  }
};

// How the survivors of a column came about.
struct Step {
  std::vector<uint16_t> parent;
  std::vector<uint8_t> code;
  std::vector<float> error;
};

template <int k>
class RowSearch {
 public:
  static constexpr int kCodes = 1 << k;
  typedef float CodeFloats __attribute__((vector_size(4 * kCodes)));
  typedef int32_t CodeInts __attribute__((vector_size(4 * kCodes)));

  RowSearch(const TrellisCode& code, const InputFactor& factor, int survivors)
      : code_(code),
        factor_(factor),
        cols_(factor.cols()),
        slots_(std::clamp(survivors, 1, 4096)),
        front_(slots_),
        next_(slots_),
        start_(slots_),
        best_end_(slots_) {
    middle_mask_ = (1u << (k * (code.memory - 1))) - 1;
    const size_t n_groups = size_t{middle_mask_} + 1;
    stamp_.assign(n_groups, -1);
    slot_.resize(n_groups);
    const size_t n_places = std::min<size_t>(n_groups, static_cast<size_t>(slots_)) + 1;
    candidate_.resize(n_places * kCodes + kLane);
    from_.resize(n_places * kCodes + kLane);
    kept_.resize(n_places * kCodes + kLane);
    touched_.resize(n_places);
    steps_.resize(static_cast<size_t>(cols_));
    for (Step& s : steps_) {
      s.parent.resize(static_cast<size_t>(slots_));
      s.code.resize(static_cast<size_t>(slots_));
      s.error.resize(static_cast<size_t>(slots_));
    }
    common_.resize(static_cast<size_t>(cols_ + InputFactor::kPadding));
    codes_.resize(static_cast<size_t>(cols_));
    errors_.resize(static_cast<size_t>(cols_));
    best_steps_.assign(steps_.begin(), steps_.begin() + std::min<int64_t>(kMaxBlock, cols_));
    best_common_ = common_;
    best_codes_ = codes_;
    best_errors_ = errors_;
  }

  const uint8_t* codes() const { return codes_.data(); }

  // Searches the whole row.  scales[block][candidate]; the one taken goes to chosen[block]. Returns
  // the cost.
  [[gnu::always_inline]] inline double run(const float* x,
                                           const std::vector<std::vector<float>>& scales,
                                           float* chosen) {
    x_ = x;
    std::copy_n(x, cols_, common_.begin());
    std::fill(stamp_.begin(), stamp_.end(), -1);
    stamp_count_ = 0;
    front_.n = 1;
    front_.total = 0;
    front_.cost[0] = 0;
    std::fill_n(front_.ahead.begin(), kAheadStride, 0.0f);
    for (int64_t first = 0; first < cols_; first += kMaxBlock) {
      const int64_t last = std::min(first + kMaxBlock, cols_);
      const auto& options = scales[static_cast<size_t>(first / kMaxBlock)];
      if (options.size() == 1) {
        block(first, last, options[0]);
        chosen[first / kMaxBlock] = options[0];
        continue;
      }
      start_.copy_from(front_);
      start_common_ = common_;
      size_t best = 0;
      double best_cost = std::numeric_limits<double>::infinity();
      for (size_t i = 0; i < options.size(); ++i) {
        if (i > 0) {
          front_.copy_from(start_);
          common_ = start_common_;
        }
        block(first, last, options[i]);
        if (i > 0 && !(front_.total < best_cost)) continue;
        best_cost = front_.total;
        best = i;
        keep(first, last);
      }
      take_back(first, last);
      chosen[first / kMaxBlock] = options[best];
    }
    finish();
    return front_.total;
  }

 private:
  // What a search of the block [first, last) left behind: kept, and taken back.  The front and
  // `common_` are exchanged, not copied: the caller sets both before it searches again.
  void keep(int64_t first, int64_t last) {
    exchange(first, last);
    const int64_t released = std::max<int64_t>(first - kWindow, 0);
    std::copy(codes_.begin() + released, codes_.begin() + last, best_codes_.begin() + released);
    std::copy(errors_.begin() + released, errors_.begin() + last, best_errors_.begin() + released);
  }
  void take_back(int64_t first, int64_t last) {
    exchange(first, last);
    const int64_t released = std::max<int64_t>(first - kWindow, 0);
    std::copy(best_codes_.begin() + released, best_codes_.begin() + last,
              codes_.begin() + released);
    std::copy(best_errors_.begin() + released, best_errors_.begin() + last,
              errors_.begin() + released);
  }
  void exchange(int64_t first, int64_t last) {
    std::swap(front_, best_end_);
    std::swap(common_, best_common_);
    for (int64_t t = first; t < last; ++t)
      std::swap(steps_[static_cast<size_t>(t)], best_steps_[static_cast<size_t>(t - first)]);
  }

  [[gnu::always_inline]] inline void block(int64_t first, int64_t last, float scale) {
    std::fill_n(front_.state.begin(), front_.n, 0u);
    for (int64_t t = first; t < last; ++t) {
      step(t, scale);
      if ((t + 1) % kRelease == 0) release(t);
    }
  }

  [[gnu::always_inline]] inline void step(int64_t t, float scale) {
    const float* feedback = factor_.row(t) + t + 1;
    const float weight = factor_.weight(t), common = common_[static_cast<size_t>(t)], x = x_[t];
    const int32_t now = stamp_count_++;
    int n_groups = 0;
    for (int i = 0; i < front_.n; ++i) {
      const uint32_t state = front_.state[static_cast<size_t>(i)], group = state & middle_mask_;
      CodeFloats level;
      __builtin_memcpy(&level, code_.values.data() + size_t{state} * kCodes, sizeof level);
      const float target = common + front_.ahead[static_cast<size_t>(i) * kAheadStride];
      const CodeFloats residual = target - level * scale;
      const CodeFloats cost = front_.cost[static_cast<size_t>(i)] + residual * residual * weight;
      const CodeInts self = CodeInts{} + i;
      // The place after the last is always free: written to before it is known whether it will be
      // taken, so that nothing depends on a branch that cannot be predicted.
      const CodeFloats free_costs = CodeFloats{} + kInfinite;
      __builtin_memcpy(candidate_.data() + n_groups * kCodes, &free_costs, sizeof free_costs);
      const bool is_new = stamp_[group] != now;
      const int place = is_new ? n_groups : slot_[group];
      stamp_[group] = now;
      slot_[group] = place;
      touched_[static_cast<size_t>(place)] = group;
      n_groups += is_new;
      float* at = candidate_.data() + place * kCodes;
      int32_t* from = from_.data() + place * kCodes;
      CodeFloats old;
      CodeInts old_from;
      __builtin_memcpy(&old, at, sizeof old);
      __builtin_memcpy(&old_from, from, sizeof old_from);
      const CodeInts better = cost < old;
      const CodeFloats kept = better ? cost : old;
      const CodeInts kept_from = better ? self : old_from;
      __builtin_memcpy(at, &kept, sizeof kept);
      __builtin_memcpy(from, &kept_from, sizeof kept_from);
    }
    const int n = n_groups * kCodes;
    float least, limit;
    choose(n, least, limit);

    Step& made = steps_[static_cast<size_t>(t)];
    int out = 0;
    for (int i = 0; i < n; ++i) {  // without a branch
      kept_[static_cast<size_t>(out)] = i;
      out += candidate_[static_cast<size_t>(i)] <= limit;
    }
    out = std::min(out, slots_);
    for (int o = 0; o < out; ++o) {
      const auto j = static_cast<size_t>(o), candidate = static_cast<size_t>(kept_[j]),
                 c = candidate % kCodes;
      const auto p = static_cast<size_t>(from_[candidate]);
      const float error = x - code_.values[size_t{front_.state[p]} * kCodes + c] * scale;
      next_.cost[j] = candidate_[candidate] - least;
      next_.state[j] = touched_[candidate / kCodes] << k | static_cast<uint32_t>(c);
      made.parent[j] = static_cast<uint16_t>(p);
      made.code[j] = static_cast<uint8_t>(c);
      made.error[j] = error;
      const float* old = front_.ahead.data() + p * kAheadStride + 1;
      float* ahead = next_.ahead.data() + j * kAheadStride;
#pragma GCC unroll 4
      for (int l = 0; l < kWindow; l += kLane)
        store(ahead + l, load(old + l) + load(feedback + l) * error);
    }
    next_.n = out;
    next_.total = front_.total + static_cast<double>(least);
    std::swap(front_, next_);
  }

  // The least of the n candidates, and a limit that at most slots_ of them, and nearly as many, do
  // not exceed.
  [[gnu::always_inline]] inline void choose(int n, float& least, float& limit) {
    for (int i = n; i % kLane != 0; ++i) candidate_[static_cast<size_t>(i)] = kInfinite;
    Floats low = load(candidate_.data());
    for (int i = kLane; i < n; i += kLane) {
      const Floats v = load(candidate_.data() + i);
      low = v < low ? v : low;
    }
    least = low[0];
    for (int l = 1; l < kLane; ++l) least = std::min(least, low[l]);
    if (n <= slots_) {
      limit = std::numeric_limits<float>::max();
      return;
    }
    float inside = least, outside = kInfinite, probe = least + spread_;
    for (int round = 0; round < 16; ++round) {
      const int count = count_within(n, probe);
      if (count <= slots_) {
        inside = probe;
        if (count >= slots_ - slots_ / 16) break;
      } else {
        outside = probe;
      }
      probe = outside == kInfinite ? least + 2 * (probe - least) : 0.5f * (inside + outside);
      if (probe <= inside) break;
    }
    limit = inside;
    if (limit > least) spread_ = limit - least;
  }

  [[gnu::always_inline]] inline int count_within(int n, float limit) const {
    Ints count = {};
    for (int i = 0; i < n; i += kLane) count -= load(candidate_.data() + i) <= limit;
    int sum = 0;
    for (int l = 0; l < kLane; ++l) sum += count[l];
    return sum;
  }

  [[gnu::always_inline]] inline int best_survivor() const {
    return static_cast<int>(std::min_element(front_.cost.begin(), front_.cost.begin() + front_.n) -
                            front_.cost.begin());
  }

  // After column t: the codes of the columns t - kWindow + 1 .. t - kWindow + kRelease become those
  // of the best path.
  [[gnu::always_inline]] inline void release(int64_t t) {
    const int64_t last = t - kWindow + kRelease, first = last - kRelease + 1;
    if (first < 0) return;
    const int best = best_survivor();
    ancestor_.resize(static_cast<size_t>(front_.n));
    for (int i = 0; i < front_.n; ++i) ancestor_[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
    for (int64_t s = t; s > last; --s) {
      const uint16_t* parent = steps_[static_cast<size_t>(s)].parent.data();
      for (uint16_t& a : ancestor_) a = parent[a];
    }
    const uint16_t common_ancestor = ancestor_[static_cast<size_t>(best)];
    drop_others(common_ancestor, t);
    take(first, last, common_ancestor);
    for (int64_t s = first; s <= last; ++s) {
      const int64_t end = factor_.group_end(s);
      const float* feedback = factor_.row(s);
      const float error = errors_[static_cast<size_t>(s)];
      for (int64_t c = s + 1 + kWindow; c < end; c += kLane)
        store(common_.data() + c, load(common_.data() + c) + load(feedback + c) * error);
    }
  }

  // Keeps the survivors that descend from `ancestor`; steps_[t] is renumbered with them.
  [[gnu::always_inline]] inline void drop_others(uint16_t ancestor, int64_t t) {
    Step& made = steps_[static_cast<size_t>(t)];
    int kept = 0;
    for (int i = 0; i < front_.n; ++i) {
      if (ancestor_[static_cast<size_t>(i)] != ancestor) continue;
      if (i != kept) {
        const auto from = static_cast<size_t>(i), to = static_cast<size_t>(kept);
        front_.cost[to] = front_.cost[from];
        front_.state[to] = front_.state[from];
        made.parent[to] = made.parent[from];
        made.code[to] = made.code[from];
        made.error[to] = made.error[from];
        std::copy_n(front_.ahead.begin() + static_cast<int64_t>(from) * kAheadStride, kAheadStride,
                    front_.ahead.begin() + static_cast<int64_t>(to) * kAheadStride);
      }
      ++kept;
    }
    front_.n = kept;
  }

  // The codes of columns first .. last on the path that is at `survivor` after `last`.
  [[gnu::always_inline]] inline void take(int64_t first, int64_t last, uint16_t survivor) {
    for (int64_t s = last; s >= first; --s) {
      const Step& made = steps_[static_cast<size_t>(s)];
      codes_[static_cast<size_t>(s)] = made.code[survivor];
      errors_[static_cast<size_t>(s)] = made.error[survivor];
      survivor = made.parent[survivor];
    }
  }

  [[gnu::always_inline]] inline void finish() {
    const int64_t released = std::max<int64_t>(0, cols_ / kRelease * kRelease - kWindow + kRelease);
    take(released, cols_ - 1, static_cast<uint16_t>(best_survivor()));
  }

  const TrellisCode& code_;
  const InputFactor& factor_;
  const int64_t cols_;
  const int slots_;
  uint32_t middle_mask_;
  const float* x_ = nullptr;
  std::vector<float> common_, start_common_,
      best_common_;  // [cols + padding]: targets but for `ahead`
  Front front_, next_, start_, best_end_;
  float spread_ = 1;
  int32_t stamp_count_ = 0;
  std::vector<int32_t> stamp_,
      slot_;  // [group of states]: step that last touched it, and its place among the candidates
  std::vector<uint32_t> touched_;
  std::vector<float> candidate_;  // [place][code]: least cost of a path to that state
  std::vector<int32_t> from_;
  std::vector<int32_t> kept_;  // candidates that survive
  std::vector<Step> steps_, best_steps_;
  std::vector<uint16_t> ancestor_;
  std::vector<uint8_t> codes_, best_codes_;
  std::vector<float> errors_, best_errors_;
};

}  // namespace hrun::ldlq
