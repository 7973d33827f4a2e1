#include "cuda/kernels/experts.h"

#include <algorithm>

#include "base/math64.h"

namespace hrun::gpu {
namespace {

constexpr int kWarps = 8;
constexpr int kFewTokens = 8;  // whose slots one launch both chooses and sorts
constexpr int kFewRows = 32;   // of an expert with more, whole tiles are faster

HRUN_HD double lowest() { return -HUGE_VAL; }

HRUN_HD double warp_top(double v) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) {
    const double other = shuffle_xor(v, mask);
    v = other > v ? other : v;
  }
  return v;
}

// A warp chooses for a token, with one lane per expert where it can, and in the host's order where
// order matters: in sums.  Then one block of threads puts the slots into the order of the experts.
struct ChooseExperts {
  static constexpr int kThreads = kWarps * kWarp, kBlocks = 1;
  static constexpr const char* kName = "the choice of experts";
  bool chooses, sorts;
  Gating gating;
  int n_experts, n_used, n_groups, n_groups_used;
  bool normed;
  double scale, mixer_margin;
  const float* correction;
  const float* factor;
  FloatView logits;
  ExpertLists lists;

  HRUN_HD void operator()() const {
    const int64_t token = static_cast<int64_t>(block_x()) * kWarps + warp();
    if (chooses && token < logits.rows) choose(token);
    if (!sorts) return;
    sync_block();
    sort();
  }

  // Of a warp: scores, and the scores by which experts are chosen.
  static HRUN_HD size_t choice_bytes(int n_experts) {
    return 2 * static_cast<size_t>(n_experts) * sizeof(double);
  }

  HRUN_HD void choose(int64_t token) const {
    auto* const scores =
        reinterpret_cast<double*>(shared() + static_cast<size_t>(warp()) * choice_bytes(n_experts));
    double* const chosen_by = scores + n_experts;
    const float* const row = logits.row(token);
    double top = lowest();
    for (int e = lane(); e < n_experts; e += kWarp) {
      double s = row[e];
      if (!(s > -1e30 && s < 1e30)) s = -1e30;
      scores[e] = s;
      top = s > top ? s : top;
    }
    if (gating == Gating::softmax) {
      top = warp_top(top);
      for (int e = lane(); e < n_experts; e += kWarp) scores[e] = math64::exp(scores[e] - top);
      sync_warp();
      double sum = 0;
      for (int e = 0; e < n_experts; ++e) sum += scores[e];
      sync_warp();
      for (int e = lane(); e < n_experts; e += kWarp) scores[e] /= sum;
    } else if (gating == Gating::sigmoid) {
      for (int e = lane(); e < n_experts; e += kWarp) scores[e] = 1 / (1 + math64::exp(-scores[e]));
    }
    for (int e = lane(); e < n_experts; e += kWarp)
      chosen_by[e] = correction ? scores[e] + static_cast<double>(correction[e]) : scores[e];
    sync_warp();
    if (n_groups > 1) keep_best_groups(chosen_by);

    uint32_t taken = 0;  // of the lane's experts
    int expert = 0;      // lane k: the one chosen in turn k
    for (int k = 0; k < n_used; ++k) {
      double best = 0;
      int at = n_experts;
      for (int i = 0, e = lane(); e < n_experts; ++i, e += kWarp)
        if (!(taken >> i & 1) && (at == n_experts || chosen_by[e] > best))
          best = chosen_by[e], at = e;
      for (int mask = kWarp / 2; mask > 0; mask /= 2) {
        const double other = shuffle_xor(best, mask);
        const int other_at = shuffle_xor(at, mask);
        const bool better = other_at < n_experts &&
                            (at == n_experts || other > best || (other == best && other_at < at));
        best = better ? other : best;
        at = better ? other_at : at;
      }
      if (at % kWarp == lane()) taken |= 1u << (at / kWarp);
      if (lane() == k) expert = at;
    }

    const bool mine = lane() < n_used;
    double w = mine ? scores[expert] : 0;
    if (gating == Gating::softmax_of_selected) {
      const double best = warp_top(mine ? w : lowest());
      w = mine ? math64::exp(w - best) : 0;
      w /= sum_in_order(w);
    }
    if (gating == Gating::sparse_mixer) {
      const auto first = static_cast<int>(shuffle_bits(static_cast<uint32_t>(expert), 0));
      if (mine)
        w = sparse_mixer_weight(scores, n_experts, w, lane() > 0 ? first : -1, mixer_margin);
    }
    const double sum = sum_in_order(w);
    if (!mine) return;
    auto weight = static_cast<float>((normed ? w / (sum < 1e-20 ? 1e-20 : sum) : w) * scale);
    if (factor) weight *= factor[expert];
    lists.chosen[token * n_used + lane()] = expert;
    lists.weights[token * n_used + lane()] = weight;
  }

  HRUN_HD double sum_in_order(double w) const {
    double sum = 0;
    for (int k = 0; k < n_used; ++k) sum += shuffle(w, k);
    return sum;
  }

  // Lane g has group g.
  HRUN_HD void keep_best_groups(double* chosen_by) const {
    const int size = n_experts / n_groups;
    double first = lowest(), second = lowest();
    if (lane() < n_groups)
      for (int i = 0; i < size; ++i) {
        const double s = chosen_by[lane() * size + i];
        const double lesser = first < s ? first : s;
        second = second < lesser ? lesser : second;
        first = first < s ? s : first;
      }
    const double score = gating == Gating::sigmoid && size > 1 ? first + second : first;
    int before = 0;  // groups that are better
    for (int g = 0; g < n_groups; ++g) {
      const double other = shuffle(score, g);
      before += other > score || (other == score && g < lane());
    }
    if (lane() < n_groups && before >= n_groups_used)
      for (int i = 0; i < size; ++i) chosen_by[lane() * size + i] = lowest();
    sync_warp();
  }

  // In shared memory, for each expert: its rows, and what comes before it of rows and of runs.
  struct Place {
    int rows, first, few, many;
  };
  static HRUN_HD size_t sort_bytes(int n_experts) {
    return static_cast<size_t>(n_experts) * sizeof(Place);
  }

  HRUN_HD bool has_many(int rows) const { return lists.task.n_many_runs > 0 && rows > kFewRows; }

  HRUN_HD void sort() const {
    auto* const places = reinterpret_cast<Place*>(shared());
    const auto n = static_cast<int>(logits.rows) * n_used;
    // Calls f(slot, how many before it chose the same) for the slots of an expert; returns their
    // number.
    const auto slots_of = [&](int e, const auto& f) {
      int rows = 0;
      for (int i = 0; i < n; i += kWarp) {
        const int slot = i + lane();
        const bool chose = slot < n && lists.chosen[slot] == e;
        const uint32_t all = ballot(chose);
        if (chose) f(slot, rows + count_ones(all & ((1u << lane()) - 1)));
        rows += count_ones(all);
      }
      return rows;
    };
    for (int e = warp(); e < n_experts; e += kWarps) {
      const int rows = slots_of(e, [](int, int) {});
      if (lane() == 0) places[e].rows = rows;
    }
    sync_block();
    if (thread() == 0) {
      Place sum{};
      for (int e = 0; e < n_experts; ++e) {
        const int rows = places[e].rows;
        sum.rows = rows;
        places[e] = sum;
        sum.first += rows;
        if (has_many(rows))
          sum.many += (rows + kManyRows - 1) / kManyRows;
        else
          sum.few += (rows + lists.task.few - 1) / lists.task.few;
      }
    }
    sync_block();
    for (int e = warp(); e < n_experts; e += kWarps) {
      const Place place = places[e];
      if (place.rows == 0) continue;
      slots_of(e, [&](int slot, int before) {
        const int at = place.first + before;
        lists.slot_of[slot] = at;
        lists.token_of[at] = slot / n_used;
        lists.expert_of[at] = e;
      });
      const bool is_many = has_many(place.rows);
      const int unit = is_many ? kManyRows : lists.task.few;
      SliceRun* const runs = is_many ? lists.many + place.many : lists.few + place.few;
      for (int i = lane(); i * unit < place.rows; i += kWarp) {
        const int left = place.rows - i * unit;
        runs[i] = {e, place.first + i * unit, left < unit ? left : unit};
      }
    }
    // The runs that are not there.
    const Place last = places[n_experts - 1];
    const bool is_many = has_many(last.rows);
    const int few = last.few + (is_many ? 0 : (last.rows + lists.task.few - 1) / lists.task.few),
              many = last.many + (is_many ? (last.rows + kManyRows - 1) / kManyRows : 0);
    for (int i = few + thread(); i < lists.task.n_few_runs; i += kThreads) lists.few[i] = {};
    for (int i = many + thread(); i < lists.task.n_many_runs; i += kThreads) lists.many[i] = {};
  }
};

// The most runs that there can be of n slots, `unit` rows long, of experts that have at least
// `least` rows.
int most_runs(int64_t slots, int n_experts, int unit, int64_t least) {
  const int64_t experts = std::min<int64_t>(n_experts, slots / least);
  return static_cast<int>(std::min(slots, (slots - experts) / unit + experts));
}

SliceTask expert_task(int64_t n_tokens, int n_experts, int n_used) {
  SliceTask task;
  task.few = n_tokens <= 8 ? 8 : 16;
  task.one_row = n_tokens == 1;
  task.n_few_runs = most_runs(n_tokens * n_used, n_experts, task.few, 1);
  if (n_tokens > kFewRows)  // a token chooses an expert once
    task.n_many_runs = most_runs(n_tokens * n_used, n_experts, kManyRows, kFewRows + 1);
  return task;
}

}  // namespace

size_t expert_lists_bytes(int64_t n_tokens, int n_experts, int n_used) {
  const SliceTask task = expert_task(n_tokens, n_experts, n_used);
  return static_cast<size_t>(5 * n_tokens * n_used) * sizeof(int32_t) +
         static_cast<size_t>(task.n_few_runs + task.n_many_runs) * sizeof(SliceRun);
}

ExpertLists expert_lists(void* memory, int64_t n_tokens, int n_experts, int n_used) {
  ExpertLists lists{};
  lists.task = expert_task(n_tokens, n_experts, n_used);
  const auto slots = static_cast<size_t>(n_tokens * n_used);
  auto* const numbers = static_cast<int32_t*>(memory);
  lists.chosen = numbers;
  lists.weights = reinterpret_cast<float*>(numbers + slots);
  lists.slot_of = numbers + 2 * slots;
  lists.token_of = numbers + 3 * slots;
  lists.expert_of = numbers + 4 * slots;
  lists.few = reinterpret_cast<SliceRun*>(numbers + 5 * slots);
  lists.many = lists.few + lists.task.n_few_runs;
  lists.task.few_runs = lists.few;
  lists.task.many_runs = lists.many;
  return lists;
}

void choose_experts(Gpu& gpu, const ExpertRule& rule, const float* correction, const float* factor,
                    FloatView logits, const ExpertLists& lists) {
  ChooseExperts k{.chooses = true,
                  .sorts = logits.rows <= kFewTokens,
                  .gating = rule.gating,
                  .n_experts = rule.n_experts,
                  .n_used = rule.n_used,
                  .n_groups = rule.n_groups,
                  .n_groups_used = rule.n_groups_used,
                  .normed = rule.normed,
                  .scale = rule.scale,
                  .mixer_margin = rule.mixer_margin,
                  .correction = correction,
                  .factor = factor,
                  .logits = logits,
                  .lists = lists};
  const auto blocks = static_cast<int>((logits.rows + kWarps - 1) / kWarps);
  gpu.launch(k, Grid{blocks},
             std::max(kWarps * ChooseExperts::choice_bytes(rule.n_experts),
                      ChooseExperts::sort_bytes(rule.n_experts)));
  if (k.sorts) return;
  k.chooses = false, k.sorts = true;
  gpu.launch(k, Grid{1}, ChooseExperts::sort_bytes(rule.n_experts));
}

}  // namespace hrun::gpu
