// The M-algorithm over the states of a sliding-window code.
//
// Survivor i at column t stands for a path of codes; its errors enter the later columns' residuals.
// Columns go in chunks of kChunk.  What a survivor's errors add to the columns of their own chunk
// is kept at every step (`near`); what they add to the kReach columns after it is added per
// survivor at the chunk's end (`far`); what they add beyond is added once per row, when the chunk
// is *released*: kReach columns later its codes on the best path become final and paths that
// disagree are dropped.  Whoever drives the search adds it, for some rows at a time.
//
// Survivors share most of their past.  What is added along paths at a chunk's end is computed once
// for every node of the tree that its paths form, from the oldest column on.
//
// All arithmetic is elementwise on floats in a fixed order, without fused operations: every
// instruction set finds the same path.
//
// Included by ldlq.cpp only, whose functions compile it for each instruction set.
#pragma once
#pragma GCC diagnostic ignored "-Wpsabi"  // vectors never cross a call

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "formats/format.h"
#include "encode/input_moments.h"
#include "encode/trellis.h"

namespace hrun::ldlq {

constexpr int kLane = 16;               // floats of the widest vector: buffers hold multiples of it
constexpr int kChunk = 16;              // columns
constexpr int kReach = 48;              // columns after a chunk that a survivor's own errors reach
constexpr int kKept = kReach + kChunk;  // columns whose steps are kept: codes that are not final
constexpr float kInfinite = std::numeric_limits<float>::infinity();
static_assert((kKept & (kKept - 1)) == 0 && kChunk + kReach <= InputFactor::kPadding &&
              kReach == 3 * kLane && kChunk == kLane && kMaxBlock % kChunk == 0);

// Vectors of kWide values.  The compiler keeps a vector in registers only where one instruction
// takes it whole, so each instruction set has its own.
template <int kWide>
struct Vectors {
  typedef float Floats __attribute__((vector_size(4 * kWide)));
  typedef int32_t Ints __attribute__((vector_size(4 * kWide)));
};

template <int kWide>
[[gnu::always_inline]] inline typename Vectors<kWide>::Floats load(const float* p) {
  typename Vectors<kWide>::Floats v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <int kWide>
[[gnu::always_inline]] inline typename Vectors<kWide>::Ints load_ints(const int32_t* p) {
  typename Vectors<kWide>::Ints v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class Floats>
[[gnu::always_inline]] inline void store(float* p, const Floats& v) {
  __builtin_memcpy(p, &v, sizeof v);
}
template <int kWide, class T, class Ints>
[[gnu::always_inline]] inline void store_as(T* p, const Ints& v) {
  typedef T Narrow __attribute__((vector_size(kWide * sizeof(T))));
  const Narrow narrow = __builtin_convertvector(v, Narrow);
  __builtin_memcpy(p, &narrow, sizeof narrow);
}

// The survivors between two columns.
struct Front {
  int n = 0;
  std::vector<float> cost;      // [S]: above that of the best survivor
  std::vector<uint32_t> state;  // [S]
  std::vector<float> near;      // [S][kChunk]: feedback on the columns of this chunk
  std::vector<float> far;       // [S][kReach]: on those from this chunk on, as it began
  explicit Front(int n_slots)
      : cost(static_cast<size_t>(n_slots) + kLane),
        state(static_cast<size_t>(n_slots) + kLane),
        near(static_cast<size_t>(n_slots) * kChunk),
        far(static_cast<size_t>(n_slots) * kReach) {}
};

// The step by which each survivor of a column came about, [survivor].
struct Step {
  uint16_t* parent;
  uint8_t* code;
  float* error;
};

// A candidate is the bits of its cost, a float that is not negative: its order is that of integers.
constexpr int32_t kNone = std::numeric_limits<int32_t>::max();  // no candidate
constexpr int32_t kDearest = 0x7F7FFFFF;                        // the largest finite cost

// Candidates, and the survivors they come from.
struct Candidates {
  const int32_t* cost;
  const int32_t* origin;
  int n;  // places, a multiple of kLane; some may be free
};

// Those that survive: their places in ascending order, their costs and origins.
struct Kept {
  int32_t* place;
  int32_t* cost;
  int32_t* origin;
};

// Chooses the candidates that survive and returns how many: at most `slots`, and nearly as many.
// The cost of the cheapest goes to `least`.  spread: that of the costs that survive, remembered
// from call to call.
using Select = int(const Candidates& from, int slots, float& spread, float& least,
                   const Kept& kept);

// Finds the dearest cost that may survive.  A tier's Costs has least(), and within(limit), the
// number of candidates that do not exceed a limit.
template <class Costs>
[[gnu::always_inline]] inline int32_t find_limit(const Costs& costs, int slots, float least,
                                                 float& spread) {
  if (costs.within(kDearest) <= slots) return kDearest;
  const auto limit = [&](float above) { return std::bit_cast<int32_t>(least + above); };
  const auto wanted = static_cast<float>(slots - slots / 32);
  float inside = 0, outside = kInfinite, probe = spread;
  int n_inside = 0, n_outside = 0;
  for (int round = 0; round < 24; ++round) {
    const int count = costs.within(limit(probe));
    if (count <= slots) {
      inside = probe, n_inside = count;
      if (count >= slots - slots / 16) break;
    } else {
      outside = probe, n_outside = count;
    }
    if (outside == kInfinite) {
      probe *= 2;
    } else if (inside == 0 && n_outside > 2 * slots) {  // the weights of columns differ by orders
      probe *= 0.125f;
    } else {
      const float share =
          (wanted - static_cast<float>(n_inside)) / static_cast<float>(n_outside - n_inside);
      probe = inside + (outside - inside) * std::clamp(share, 0.125f, 0.875f);
    }
    if (!(probe > inside)) break;
  }
  if (inside > 0) spread = inside;
  return std::min(limit(inside), kDearest);
}

// Costs in plain vectors.
template <int kWide>
struct PlainCosts {
  typedef typename Vectors<kWide>::Ints Ints;
  const Candidates& from;
  [[gnu::always_inline]] int32_t least() const {
    Ints low = load_ints<kWide>(from.cost);
    for (int i = kWide; i < from.n; i += kWide) {
      const Ints v = load_ints<kWide>(from.cost + i);
      low = v < low ? v : low;
    }
    int32_t found = low[0];
    for (int l = 1; l < kWide; ++l) found = std::min(found, low[l]);
    return found;
  }
  [[gnu::always_inline]] int within(int32_t limit) const {
    Ints count = {};
    for (int i = 0; i < from.n; i += kWide) count -= load_ints<kWide>(from.cost + i) <= limit;
    int sum = 0;
    for (int l = 0; l < kWide; ++l) sum += count[l];
    return sum;
  }
  [[gnu::always_inline]] int keep(int32_t limit, int slots, const Kept& kept) const {
    int out = 0;
    for (int i = 0; i < from.n; ++i) {  // without a branch
      kept.place[out] = i;
      kept.cost[out] = from.cost[i];
      kept.origin[out] = from.origin[i];
      out += from.cost[i] <= limit;
    }
    return std::min(out, slots);
  }
};

template <class Costs>
[[gnu::always_inline]] inline int select_body(const Costs& costs, int slots, float& spread,
                                              float& least, const Kept& kept) {
  least = std::bit_cast<float>(costs.least());
  return costs.keep(find_limit(costs, slots, least, spread), slots, kept);
}

// k: bits of a code that states are made of; kFreeBits: those above them (trellis.h).  kWide:
// values of a vector.
template <int k, int kFreeBits, int kWide>
class RowSearch {
 public:
  static constexpr int kCodes = 1 << k;
  static constexpr int kPart = std::min(kCodes, kWide);  // codes of a state that go together
  static constexpr size_t kVariants = size_t{1} << kFreeBits;
  typedef typename Vectors<kWide>::Floats Floats;
  typedef typename Vectors<kWide>::Ints Ints;
  typedef typename Vectors<kPart>::Floats CodeFloats;
  typedef typename Vectors<kPart>::Ints CodeInts;

  RowSearch(const TrellisCode& code, const InputFactor& factor, int survivors, Select* select)
      : code_(code),
        select_(select),
        factor_(factor),
        cols_(factor.cols()),
        slots_(std::clamp(survivors, 1, 4096)),
        stride_((static_cast<size_t>(slots_) + kLane - 1) / kLane * kLane),
        front_(slots_),
        next_(slots_),
        far_(front_.far),
        tree_far_(front_.far) {
    middle_mask_ = (1u << (k * (code.memory - 1))) - 1;
    windows_ = code.windows();
    const size_t n_groups = size_t{middle_mask_} + 1;
    has_all_groups_ = static_cast<size_t>(slots_) >= n_groups;
    stamp_.assign(n_groups, -1);
    slot_.resize(n_groups);
    const size_t n_places = std::min(n_groups, static_cast<size_t>(slots_)) + 1;
    candidates_.resize(n_places * kCodes + kLane);
    kept_.resize(n_places * kCodes + kLane);
    for (auto* some : {&origins_of_candidates_, &kept_costs_, &kept_origins_})
      some->resize(kept_.size());
    touched_.resize(n_places);
    const size_t n_steps = size_t{kKept} * stride_;
    parents_.resize(n_steps);
    step_codes_.resize(n_steps);
    step_errors_.resize(n_steps);
    const auto n_slots = static_cast<size_t>(slots_) + 1;
    for (auto& some : nodes_) some.resize(n_slots);
    for (auto& some : above_) some.resize(n_slots);
    for (auto& some : origins_) some.resize(n_slots);
    place_.resize(n_slots);
    common_.resize(static_cast<size_t>(cols_ + InputFactor::kPadding));
    codes_.resize(static_cast<size_t>(cols_));
    errors_.resize(static_cast<size_t>(cols_));
  }

  const uint8_t* codes() const { return codes_.data(); }

  // Begins with a row x, which stays in place.
  [[gnu::always_inline]] inline void begin(const float* x) {
    x_ = x;
    std::copy_n(x, cols_, common_.begin());
    std::fill(common_.begin() + cols_, common_.end(), 0.0f);
    std::fill(stamp_.begin(), stamp_.end(), -1);
    stamp_count_ = 0;
    spread_ = 1;
    front_.n = 1;
    front_.cost[0] = 0;
    std::fill_n(front_.far.begin(), kReach, 0.0f);
  }

  // Searches a chunk, after those before it.  What released() says is to be added to common()
  // before the next one.
  [[gnu::always_inline]] inline void chunk(int64_t begin, float scale) {
    if (begin % kMaxBlock == 0) std::fill_n(front_.state.begin(), front_.n, 0u);
    for (int i = 0; i < front_.n; ++i)
      std::copy_n(front_.far.data() + size_t{kReach} * static_cast<size_t>(i), kChunk,
                  front_.near.data() + size_t{kChunk} * static_cast<size_t>(i));
    std::swap(front_.far, far_);
    for (int64_t t = begin; t < begin + kChunk; ++t) step(t, begin, scale);
    trace(begin);
    release(begin);
    reach(begin);
  }

  // The errors of the kChunk columns whose codes became final with the chunk from `begin` on, which
  // are those from begin - kReach on; null if there are none yet.
  const float* released(int64_t begin) const {
    return begin < kReach ? nullptr : errors_.data() + (begin - kReach);
  }
  float* common() { return common_.data(); }

  // Takes the codes that are not final from the best path.
  [[gnu::always_inline]] inline void finish() {
    const int64_t final = std::max<int64_t>(0, cols_ - kReach);
    take(final, cols_ - 1, static_cast<uint16_t>(best_survivor()));
  }

 private:
  // Finds the tree of the survivors' paths through the chunk from `begin` on.
  [[gnu::always_inline]] inline void trace(int64_t begin) {
    int n = n_nodes_[kChunk - 1] = front_.n;
    for (int i = 0; i < n; ++i)
      nodes_[kChunk - 1][static_cast<size_t>(i)] = static_cast<uint16_t>(i);
    for (int j = kChunk - 1; j > 0; --j) {
      const uint16_t* const parent = step_at(begin + j).parent;
      const uint16_t* const node = nodes_[j].data();
      uint16_t *const older = nodes_[j - 1].data(), *const above = above_[j].data(),
                      *const place = place_.data();
      std::fill(place_.begin(), place_.end(), kNowhere);
      uint16_t n_older = 0;
      for (int i = 0; i < n; ++i) {  // without a branch
        const uint16_t p = parent[node[i]], known = place[p];
        const bool is_new = known == kNowhere;
        const uint16_t here = is_new ? n_older : known;
        older[n_older] = p;
        place[p] = here;
        above[i] = here;
        n_older = static_cast<uint16_t>(n_older + is_new);
      }
      n = n_nodes_[j - 1] = n_older;
    }
    const uint16_t* const parent = step_at(begin).parent;
    for (int i = 0; i < n; ++i)
      above_[0][static_cast<size_t>(i)] = parent[nodes_[0][static_cast<size_t>(i)]];
    // Where the paths come from, column by column.
    std::copy_n(above_[0].begin(), n, place_.begin());
    std::vector<uint16_t>& origins = origins_of(begin);
    for (int j = 1; j < kChunk; ++j) {
      const uint16_t *const above = above_[j].data(), *const before = place_.data();
      uint16_t* const here = origins.data();
      for (int i = 0; i < n_nodes_[j]; ++i) here[i] = before[above[i]];
      std::swap(origins, place_);
    }
    std::swap(origins, place_);
  }

  // Adds the survivors' errors in the chunk from `begin` on to the columns after the chunk.
  [[gnu::always_inline]] inline void reach(int64_t begin) {
    const int64_t next = begin + kChunk;
    for (int j = 0; j < kChunk; ++j) {
      const float* const feedback = factor_.row(begin + j) + next;
      Floats f[kReach / kWide];
#pragma GCC unroll 12
      for (int v = 0; v < kReach / kWide; ++v) f[v] = load<kWide>(feedback + v * kWide);
      const float *const error = step_at(begin + j).error, *const before = far_.data();
      const uint16_t *const node = nodes_[j].data(), *const above = above_[j].data();
      float* const after = j + 1 < kChunk ? tree_far_.data() : front_.far.data();
      for (int i = 0; i < n_nodes_[j]; ++i) {
        const float* const from = before + size_t{kReach} * above[i];
        float* const to = after + size_t{kReach} * static_cast<size_t>(i);
        const float e = error[node[i]];
        // The columns of this chunk, which `from` begins with at first, are no longer wanted.
        if (j == 0) {
#pragma GCC unroll 12
          for (int v = 0; v < kReach / kWide; ++v) {
            const int c = v * kWide;
            store(to + c,
                  (c + kChunk < kReach ? load<kWide>(from + kChunk + c) : Floats{}) + f[v] * e);
          }
        } else {
#pragma GCC unroll 12
          for (int v = 0; v < kReach / kWide; ++v)
            store(to + v * kWide, load<kWide>(from + v * kWide) + f[v] * e);
        }
      }
      if (j + 1 < kChunk) std::swap(far_, tree_far_);
    }
  }

  // Finds the cheapest way into each state that the survivors lead to: all states have their places
  // among the candidates, or, where survivors are few, the states that are met.  Returns the number
  // of places, a multiple of kLane.
  template <bool kAllGroups>
  [[gnu::always_inline]] inline int merge(size_t place_of_t, int32_t now, float common,
                                          float weight, float scale) {
    // Everything is reached through pointers of its own: the compiler cannot know that stores do
    // not move them.
    const float* const values = code_.values.data();
    const size_t n_windows = windows_;
    const uint32_t* const states = front_.state.data();
    const float* const costs = front_.cost.data();
    const float* const near = front_.near.data() + place_of_t;
    int32_t* const candidates = candidates_.data();
    int32_t *const stamp = stamp_.data(), *const slot = slot_.data();
    uint32_t* const touched = touched_.data();
    const uint32_t middle_mask = middle_mask_;
    const auto n_before = static_cast<size_t>(front_.n);
    int32_t* const origins = origins_of_candidates_.data();
    size_t n_groups = 0;
    if constexpr (kAllGroups) {
      n_groups = size_t{middle_mask} + 1;
      std::fill_n(candidates, n_groups * kCodes, kNone);
    }
    for (size_t i = 0; i < n_before; ++i) {
      const uint32_t state = states[i], group = state & middle_mask;
      const float target = common + near[i * kChunk];
      size_t place = group;
      if constexpr (!kAllGroups) {
        // The place after the last is always free: written to before it is known whether it will be
        // taken, so that nothing depends on a branch that cannot be predicted.
        std::fill_n(candidates + n_groups * kCodes, kCodes, kNone);
        const bool is_new = stamp[group] != now;
        const auto known = static_cast<uint32_t>(slot[group]);
        place = known ^ ((known ^ static_cast<uint32_t>(n_groups)) & -uint32_t{is_new});
        stamp[group] = now;
        slot[group] = static_cast<int32_t>(place);
        touched[place] = group;
        n_groups += is_new;
      }
#pragma GCC unroll 8
      for (size_t part = 0; part < kCodes; part += kPart) {
        CodeFloats square = {};
#pragma GCC unroll 4
        for (size_t variant = 0; variant < kVariants; ++variant) {
          const CodeFloats level =
              load<kPart>(values + variant * n_windows + size_t{state} * kCodes + part);
          const CodeFloats residual = target - level * scale, other = residual * residual;
          if (variant == 0)
            square = other;
          else
            square = other < square ? other : square;
        }
        const CodeFloats cost = costs[i] + square * weight;
        CodeInts candidate;
        __builtin_memcpy(&candidate, &cost, sizeof candidate);
        const CodeInts origin = CodeInts{} + static_cast<int32_t>(i);
        int32_t *const known_cost = candidates + place * kCodes + part, *const known_origin =
                                                                            origins +
                                                                            place * kCodes + part;
        CodeInts old = load_ints<kPart>(known_cost), old_origin = load_ints<kPart>(known_origin);
        const CodeInts better = candidate < old;
        old = better ? candidate : old;
        old_origin = better ? origin : old_origin;
        __builtin_memcpy(known_cost, &old, sizeof old);
        __builtin_memcpy(known_origin, &old_origin, sizeof old_origin);
      }
    }
    int n = static_cast<int>(n_groups) * kCodes;
    for (; n % kLane != 0; ++n) candidates[n] = kNone;
    return n;
  }

  [[gnu::always_inline]] inline void step(int64_t t, int64_t begin, float scale) {
    const size_t place_of_t = static_cast<size_t>(t - begin);
    const float weight = factor_.weight(t), common = common_[static_cast<size_t>(t)], x = x_[t];
    const int32_t now = stamp_count_++;
    const int n = has_all_groups_ ? merge<true>(place_of_t, now, common, weight, scale)
                                  : merge<false>(place_of_t, now, common, weight, scale);
    float least;
    const Candidates candidates{candidates_.data(), origins_of_candidates_.data(), n};
    const Kept kept{kept_.data(), kept_costs_.data(), kept_origins_.data()};
    const int out = select_(candidates, slots_, spread_, least, kept);

    const Step made = step_at(t);
    float* const next_cost = next_.cost.data();
    uint32_t* const next_state = next_.state.data();
    const Ints code_bits = Ints{} + (kCodes - 1);
    for (int j = 0; j < out; j += kWide) {
      const Ints place = load_ints<kWide>(kept.place + j);
      store(next_cost + j, load<kWide>(reinterpret_cast<const float*>(kept.cost + j)) - least);
      store_as<kWide>(made.parent + j, load_ints<kWide>(kept.origin + j));
      store_as<kWide>(made.code + j, place & code_bits);
      store_as<kWide>(next_state + j, place);
    }
    if (!has_all_groups_)
      for (int j = 0; j < out; ++j)
        next_state[j] = touched_[next_state[j] / kCodes] << k | next_state[j] % kCodes;

    Floats feedback[kChunk / kWide];  // zeros up to t
#pragma GCC unroll 4
    for (int v = 0; v < kChunk / kWide; ++v)
      feedback[v] = load<kWide>(factor_.row(t) + begin + v * kWide);
    const float *const values = code_.values.data(), *const near = front_.near.data();
    const size_t n_windows = windows_;
    const uint32_t* const states = front_.state.data();
    float *const next_near = next_.near.data(), *const errors = made.error;
    const uint16_t* const parents = made.parent;
    uint8_t* const codes = made.code;
    for (size_t j = 0; j < static_cast<size_t>(out); ++j) {
      const size_t p = parents[j], window = size_t{states[p]} * kCodes + codes[j];
      float value = values[window] * scale;
      if constexpr (kVariants > 1) {
        const float target = common + near[p * kChunk + place_of_t];
        size_t variant = 0;
#pragma GCC unroll 4
        for (size_t v = 1; v < kVariants; ++v) {
          const float other = values[v * n_windows + window] * scale;
          const float a = target - other, b = target - value;
          if (a * a < b * b) value = other, variant = v;
        }
        codes[j] = static_cast<uint8_t>(codes[j] | variant << k);
      }
      const float error = x - value;
      errors[j] = error;
#pragma GCC unroll 4
      for (int v = 0; v < kChunk / kWide; ++v)
        store(next_near + j * kChunk + v * kWide,
              load<kWide>(near + p * kChunk + v * kWide) + feedback[v] * error);
    }
    next_.n = out;
    std::swap(front_, next_);
  }

  [[gnu::always_inline]] inline Step step_at(int64_t t) {
    const size_t at = static_cast<size_t>(t % kKept) * stride_;
    return {parents_.data() + at, step_codes_.data() + at, step_errors_.data() + at};
  }

  // For each survivor of a chunk, the survivor of the chunk before that its path comes from.
  std::vector<uint16_t>& origins_of(int64_t begin) { return origins_[begin / kChunk % 4]; }

  [[gnu::always_inline]] inline int best_survivor() const {
    return static_cast<int>(std::min_element(front_.cost.begin(), front_.cost.begin() + front_.n) -
                            front_.cost.begin());
  }

  // Runs after the chunk from `begin` on: the codes of the chunk that is kReach before it become
  // those of the best path.
  [[gnu::always_inline]] inline void release(int64_t begin) {
    const int64_t first = begin - kReach, last = first + kChunk - 1;
    if (first < 0) return;
    const auto ancestor = [&](int survivor) {
      uint16_t at = static_cast<uint16_t>(survivor);
      for (int64_t from = begin; from > last; from -= kChunk) at = origins_of(from)[at];
      return at;
    };
    const uint16_t chosen = ancestor(best_survivor());
    // Keeps the survivors that descend from it; the last step is renumbered with them.
    const Step made = step_at(begin + kChunk - 1);
    std::vector<uint16_t>&origins = origins_of(begin), &above = above_[kChunk - 1];
    int kept = 0;
    for (int i = 0; i < front_.n; ++i) {
      if (ancestor(i) != chosen) continue;
      if (i != kept) {
        const auto from = static_cast<size_t>(i), to = static_cast<size_t>(kept);
        front_.cost[to] = front_.cost[from];
        front_.state[to] = front_.state[from];
        made.parent[to] = made.parent[from];
        made.code[to] = made.code[from];
        made.error[to] = made.error[from];
        origins[to] = origins[from];
        above[to] = above[from];
      }
      ++kept;
    }
    front_.n = n_nodes_[kChunk - 1] = kept;
    take(first, last, chosen);
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

  static constexpr uint16_t kNowhere = 0xFFFF;

  const TrellisCode& code_;
  Select* const select_;
  const InputFactor& factor_;
  const int64_t cols_;
  const int slots_;
  const size_t stride_;  // slots, a multiple of kLane
  bool has_all_groups_ = false;
  uint32_t middle_mask_;
  size_t windows_;  // values of a variant
  const float* x_ = nullptr;
  std::vector<float> common_;  // [cols + padding]: targets but for survivors' own
  Front front_, next_;
  std::vector<float> far_, tree_far_;  // of the front as this chunk began, of the nodes of a column
  float spread_ = 1;
  int32_t stamp_count_ = 0;
  std::vector<int32_t> stamp_,
      slot_;  // [group of states]: step that last touched it, and its place among the candidates
  std::vector<uint32_t> touched_;
  std::vector<int32_t> candidates_;  // [place][code]: the cheapest path to that state
  std::vector<int32_t> origins_of_candidates_, kept_, kept_costs_, kept_origins_;
  std::vector<uint16_t> parents_;  // [column % kKept][survivor], as the next two: see step_at()
  std::vector<uint8_t> step_codes_;
  std::vector<float> step_errors_;
  // The tree of a chunk, by columns: nodes are survivors, and each is below one of the column
  // before.
  std::vector<uint16_t> nodes_[kChunk], above_[kChunk];
  int n_nodes_[kChunk] = {};
  std::vector<uint16_t> origins_[4], place_;
  std::vector<uint8_t> codes_;
  std::vector<float> errors_;
};

}  // namespace hrun::ldlq
