// The M-algorithm over the states of a sliding-window code.
//
// Survivor i at column t stands for a path of codes; its errors enter the later columns' residuals.
// Columns go in chunks of kChunk.  What a survivor's errors add to the columns of their own chunk
// is kept at every step (`near`); what they add to the kReach columns after it is added per
// survivor at the chunk's end (`far`); what they add beyond is added once per row, when the chunk
// is *released*: kReach columns later its codes on the best path become final and paths that
// disagree are dropped.
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
#include <memory>
#include <vector>

#include "formats/format.h"
#include "encode/input_moments.h"
#include "encode/trellis.h"

namespace hrun::ldlq {

constexpr int kLane = 16;   // floats per vector
constexpr int kChunk = 16;  // columns
constexpr int kReach = 48;  // columns after a chunk that a survivor's own errors reach
constexpr float kInfinite = std::numeric_limits<float>::infinity();
static_assert(kChunk + kReach <= InputFactor::kPadding && kReach == 3 * kLane && kChunk == kLane &&
              kMaxBlock % kChunk == 0);

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
  std::vector<float> near;      // [S][kChunk]: feedback on the columns of this chunk
  std::vector<float> far;       // [S][kReach]: on those from this chunk on, as it began
  explicit Front(int n_slots)
      : cost(static_cast<size_t>(n_slots) + kLane),
        state(static_cast<size_t>(n_slots)),
        near(static_cast<size_t>(n_slots) * kChunk),
        far(static_cast<size_t>(n_slots) * kReach) {}
  // Copies the survivors between two chunks.
  void copy_from(const Front& other) {
    n = other.n;
    total = other.total;
    std::copy_n(other.cost.begin(), n, cost.begin());
    std::copy_n(other.state.begin(), n, state.begin());
    std::copy_n(other.far.begin(), static_cast<size_t>(n) * kReach, far.begin());
  }
};

// The step by which each survivor of a column came about, [survivor].
struct Step {
  uint16_t* parent;
  uint8_t* code;
  float* error;
};

// Chooses the candidates that survive.  Their numbers go to `kept` in ascending order, the cost of
// the cheapest goes to `least`, and the result is how many there are.  Of the n in `cost`, at most
// `slots` survive, and nearly as many; `cost` has infinite costs up to a multiple of kLane.
// spread: the spread of the costs that survive, remembered from call to call.
using Select = int(const float* cost, int n, int slots, float& spread, float& least, int32_t* kept);

// Finds a limit for the costs that survive.  A tier's Costs has least(), and within(limit), the
// number of costs that do not exceed a limit.
template <class Costs>
[[gnu::always_inline]] inline float find_limit(const Costs& costs, int n, int slots, float least,
                                               float& spread) {
  if (n <= slots) return std::numeric_limits<float>::max();
  float inside = least, outside = kInfinite, probe = least + spread;
  for (int round = 0; round < 16; ++round) {
    const int count = costs.within(probe);
    if (count <= slots) {
      inside = probe;
      if (count >= slots - slots / 16) break;
    } else {
      outside = probe;
    }
    probe = outside == kInfinite ? least + 2 * (probe - least) : 0.5f * (inside + outside);
    if (probe <= inside) break;
  }
  if (inside > least) spread = inside - least;
  return inside;
}

// Costs in plain vectors.
struct PlainCosts {
  const float* cost;
  int n;
  [[gnu::always_inline]] float least() const {
    Floats low = load(cost);
    for (int i = kLane; i < n; i += kLane) {
      const Floats v = load(cost + i);
      low = v < low ? v : low;
    }
    float found = low[0];
    for (int l = 1; l < kLane; ++l) found = std::min(found, low[l]);
    return found;
  }
  [[gnu::always_inline]] int within(float limit) const {
    Ints count = {};
    for (int i = 0; i < n; i += kLane) count -= load(cost + i) <= limit;
    int sum = 0;
    for (int l = 0; l < kLane; ++l) sum += count[l];
    return sum;
  }
  [[gnu::always_inline]] int keep(float limit, int slots, int32_t* kept) const {
    int out = 0;
    for (int i = 0; i < n; ++i) {  // without a branch
      kept[out] = i;
      out += cost[i] <= limit;
    }
    return std::min(out, slots);
  }
};

template <class Costs>
[[gnu::always_inline]] inline int select_body(const Costs& costs, int n, int slots, float& spread,
                                              float& least, int32_t* kept) {
  least = costs.least();
  return costs.keep(find_limit(costs, n, slots, least, spread), slots, kept);
}

// k: bits of a code that states are made of; kFreeBits: those above them (trellis.h).
template <int k, int kFreeBits>
class RowSearch {
 public:
  static constexpr int kCodes = 1 << k;
  static constexpr size_t kVariants = size_t{1} << kFreeBits;
  typedef float CodeFloats __attribute__((vector_size(4 * kCodes)));
  typedef int32_t CodeInts __attribute__((vector_size(4 * kCodes)));

  RowSearch(const TrellisCode& code, const InputFactor& factor, int survivors, Select* select)
      : code_(code),
        select_(select),
        factor_(factor),
        cols_(factor.cols()),
        slots_(std::clamp(survivors, 1, 4096)),
        front_(slots_),
        next_(slots_),
        start_(slots_),
        far_(front_.far) {
    middle_mask_ = (1u << (k * (code.memory - 1))) - 1;
    windows_ = code.windows();
    const size_t n_groups = size_t{middle_mask_} + 1;
    stamp_.assign(n_groups, -1);
    slot_.resize(n_groups);
    const size_t n_places = std::min<size_t>(n_groups, static_cast<size_t>(slots_)) + 1;
    candidate_.resize(n_places * kCodes + kLane);
    from_.resize(n_places * kCodes + kLane);
    kept_.resize(n_places * kCodes + kLane);
    touched_.resize(n_places);
    const size_t n_steps = static_cast<size_t>(cols_) * static_cast<size_t>(slots_);
    parents_ = std::make_unique_for_overwrite<uint16_t[]>(n_steps);
    step_codes_ = std::make_unique_for_overwrite<uint8_t[]>(n_steps);
    step_errors_ = std::make_unique_for_overwrite<float[]>(n_steps);
    common_.resize(static_cast<size_t>(cols_ + InputFactor::kPadding));
    codes_.resize(static_cast<size_t>(cols_));
    errors_.resize(static_cast<size_t>(cols_));
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
    std::fill_n(front_.far.begin(), kReach, 0.0f);
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
        block(first, last, options[i]);
        if (front_.total < best_cost) {
          best_cost = front_.total;
          best = i;
        }
        front_.copy_from(start_);
        common_ = start_common_;
      }
      block(first, last, options[best]);
      chosen[first / kMaxBlock] = options[best];
    }
    finish();
    return front_.total;
  }

 private:
  [[gnu::always_inline]] inline void block(int64_t first, int64_t last, float scale) {
    std::fill_n(front_.state.begin(), front_.n, 0u);
    for (int64_t begin = first; begin < last; begin += kChunk) {
      for (int i = 0; i < front_.n; ++i)
        store(front_.near.data() + size_t{kChunk} * static_cast<size_t>(i),
              load(front_.far.data() + size_t{kReach} * static_cast<size_t>(i)));
      std::swap(front_.far, far_);
      for (int64_t t = begin; t < begin + kChunk; ++t) step(t, begin, scale);
      release(begin);
      reach(begin);
    }
  }

  // Adds the survivors' errors in the chunk from `begin` on to the columns after the chunk.
  [[gnu::always_inline]] inline void reach(int64_t begin) {
    const int64_t next = begin + kChunk;
    for (int i = 0; i < front_.n; ++i) {
      float error[kChunk];
      auto ancestor = static_cast<size_t>(i);
      for (int j = kChunk - 1; j >= 0; --j) {
        const Step made = step_at(begin + j);
        error[j] = made.error[ancestor];
        ancestor = made.parent[ancestor];
      }
      const float* before = far_.data() + size_t{kReach} * ancestor;
      Floats a = load(before + kLane), b = load(before + 2 * kLane), c = {};
      for (int j = 0; j < kChunk; ++j) {
        const float* feedback = factor_.row(begin + j) + next;
        a += load(feedback) * error[j];
        b += load(feedback + kLane) * error[j];
        c += load(feedback + 2 * kLane) * error[j];
      }
      float* far = front_.far.data() + size_t{kReach} * static_cast<size_t>(i);
      store(far, a);
      store(far + kLane, b);
      store(far + 2 * kLane, c);
    }
  }

  [[gnu::always_inline]] inline void step(int64_t t, int64_t begin, float scale) {
    const Floats feedback = load(factor_.row(t) + begin);  // zeros up to t
    const size_t place_of_t = static_cast<size_t>(t - begin);
    const float weight = factor_.weight(t), common = common_[static_cast<size_t>(t)], x = x_[t];
    const int32_t now = stamp_count_++;
    // Everything is reached through pointers of its own: the compiler cannot know that stores do
    // not move them.
    const float* const values = code_.values.data();
    const size_t n_windows = windows_;
    const uint32_t* const states = front_.state.data();
    const float* const costs = front_.cost.data();
    const float* const near = front_.near.data();
    float* const candidates = candidate_.data();
    int32_t *const from = from_.data(), *const stamp = stamp_.data(), *const slot = slot_.data();
    uint32_t* const touched = touched_.data();
    const auto n_before = static_cast<size_t>(front_.n);
    size_t n_groups = 0;
    for (size_t i = 0; i < n_before; ++i) {
      const uint32_t state = states[i], group = state & middle_mask_;
      const float target = common + near[i * kChunk + place_of_t];
      CodeFloats square = {};
#pragma GCC unroll 4
      for (size_t variant = 0; variant < kVariants; ++variant) {
        CodeFloats level;
        __builtin_memcpy(&level, values + variant * n_windows + size_t{state} * kCodes,
                         sizeof level);
        const CodeFloats residual = target - level * scale, other = residual * residual;
        if (variant == 0)
          square = other;
        else
          square = other < square ? other : square;
      }
      const CodeFloats cost = costs[i] + square * weight;
      const CodeInts self = CodeInts{} + static_cast<int32_t>(i);
      // The place after the last is always free: written to before it is known whether it will be
      // taken, so that nothing depends on a branch that cannot be predicted.
      const CodeFloats free_costs = CodeFloats{} + kInfinite;
      __builtin_memcpy(candidates + n_groups * kCodes, &free_costs, sizeof free_costs);
      const bool is_new = stamp[group] != now;
      const auto known = static_cast<uint32_t>(slot[group]);
      const uint32_t place =
          known ^ ((known ^ static_cast<uint32_t>(n_groups)) & -uint32_t{is_new});
      stamp[group] = now;
      slot[group] = static_cast<int32_t>(place);
      touched[place] = group;
      n_groups += is_new;
      CodeFloats old;
      CodeInts old_from;
      __builtin_memcpy(&old, candidates + size_t{place} * kCodes, sizeof old);
      __builtin_memcpy(&old_from, from + size_t{place} * kCodes, sizeof old_from);
      const CodeInts better = cost < old;
      const CodeFloats kept = better ? cost : old;
      const CodeInts kept_from = better ? self : old_from;
      __builtin_memcpy(candidates + size_t{place} * kCodes, &kept, sizeof kept);
      __builtin_memcpy(from + size_t{place} * kCodes, &kept_from, sizeof kept_from);
    }
    const int n = static_cast<int>(n_groups) * kCodes;
    for (int i = n; i % kLane != 0; ++i) candidates[i] = kInfinite;
    float least;
    const int out = select_(candidates, n, slots_, spread_, least, kept_.data());

    const Step made = step_at(t);
    const int32_t* const chosen = kept_.data();
    float *const next_cost = next_.cost.data(), *const next_near = next_.near.data(),
                 *const errors = made.error;
    uint32_t* const next_state = next_.state.data();
    uint16_t* const parents = made.parent;
    uint8_t* const codes = made.code;
    for (size_t j = 0; j < static_cast<size_t>(out); ++j) {
      const auto candidate = static_cast<size_t>(chosen[j]), c = candidate % kCodes;
      const auto p = static_cast<size_t>(from[candidate]);
      const float target = common + near[p * kChunk + place_of_t];
      size_t variant = 0;
      float value = values[size_t{states[p]} * kCodes + c] * scale;
#pragma GCC unroll 4
      for (size_t v = 1; v < kVariants; ++v) {
        const float other = values[v * n_windows + size_t{states[p]} * kCodes + c] * scale;
        const float a = target - other, b = target - value;
        if (a * a < b * b) value = other, variant = v;
      }
      const float error = x - value;
      next_cost[j] = candidates[candidate] - least;
      next_state[j] = touched[candidate / kCodes] << k | static_cast<uint32_t>(c);
      parents[j] = static_cast<uint16_t>(p);
      codes[j] = static_cast<uint8_t>(c | variant << k);
      errors[j] = error;
      store(next_near + j * kChunk, load(near + p * kChunk) + feedback * error);
    }
    next_.n = out;
    next_.total = front_.total + static_cast<double>(least);
    std::swap(front_, next_);
  }

  [[gnu::always_inline]] inline Step step_at(int64_t t) const {
    const size_t at = static_cast<size_t>(t) * static_cast<size_t>(slots_);
    return {parents_.get() + at, step_codes_.get() + at, step_errors_.get() + at};
  }

  [[gnu::always_inline]] inline int best_survivor() const {
    return static_cast<int>(std::min_element(front_.cost.begin(), front_.cost.begin() + front_.n) -
                            front_.cost.begin());
  }

  // Runs after the chunk from `begin` on: the codes of the chunk that is kReach before it become
  // those of the best path.
  [[gnu::always_inline]] inline void release(int64_t begin) {
    const int64_t first = begin - kReach, last = first + kChunk - 1, next = begin + kChunk;
    if (first < 0) return;
    const int best = best_survivor();
    ancestor_.resize(static_cast<size_t>(front_.n));
    for (int i = 0; i < front_.n; ++i) ancestor_[static_cast<size_t>(i)] = static_cast<uint16_t>(i);
    for (int64_t s = next - 1; s > last; --s) {
      const uint16_t* parent = step_at(s).parent;
      for (uint16_t& a : ancestor_) a = parent[a];
    }
    const uint16_t common_ancestor = ancestor_[static_cast<size_t>(best)];
    drop_others(common_ancestor, next - 1);
    take(first, last, common_ancestor);
    for (int64_t s = first; s <= last; ++s) {
      const int64_t end = factor_.group_end(s);
      const float* feedback = factor_.row(s);
      const float error = errors_[static_cast<size_t>(s)];
      for (int64_t c = next; c < end; c += kLane)
        store(common_.data() + c, load(common_.data() + c) + load(feedback + c) * error);
    }
  }

  // Keeps the survivors that descend from `ancestor`; step t is renumbered with them.
  [[gnu::always_inline]] inline void drop_others(uint16_t ancestor, int64_t t) {
    const Step made = step_at(t);
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
      }
      ++kept;
    }
    front_.n = kept;
  }

  // Takes the codes of columns first .. last on the path that is at `survivor` after `last`.
  [[gnu::always_inline]] inline void take(int64_t first, int64_t last, uint16_t survivor) {
    for (int64_t s = last; s >= first; --s) {
      const Step made = step_at(s);
      codes_[static_cast<size_t>(s)] = made.code[survivor];
      errors_[static_cast<size_t>(s)] = made.error[survivor];
      survivor = made.parent[survivor];
    }
  }

  [[gnu::always_inline]] inline void finish() {
    const int64_t released = std::max<int64_t>(0, cols_ - kReach);
    take(released, cols_ - 1, static_cast<uint16_t>(best_survivor()));
  }

  const TrellisCode& code_;
  Select* const select_;
  const InputFactor& factor_;
  const int64_t cols_;
  const int slots_;
  uint32_t middle_mask_;
  size_t windows_;  // values of a variant
  const float* x_ = nullptr;
  std::vector<float> common_, start_common_;  // [cols + padding]: targets but for survivors' own
  Front front_, next_, start_;
  std::vector<float> far_;  // of the front as this chunk began
  float spread_ = 1;
  int32_t stamp_count_ = 0;
  std::vector<int32_t> stamp_,
      slot_;  // [group of states]: step that last touched it, and its place among the candidates
  std::vector<uint32_t> touched_;
  std::vector<float> candidate_;  // [place][code]: least cost of a path to that state
  std::vector<int32_t> from_;
  std::vector<int32_t> kept_;            // candidates that survive
  std::unique_ptr<uint16_t[]> parents_;  // [column][survivor], as the next two: see step_at()
  std::unique_ptr<uint8_t[]> step_codes_;
  std::unique_ptr<float[]> step_errors_;
  std::vector<uint16_t> ancestor_;
  std::vector<uint8_t> codes_;
  std::vector<float> errors_;
};

}  // namespace hrun::ldlq
