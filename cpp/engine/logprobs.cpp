#include "engine/logprobs.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/math64.h"

namespace hrun {

double log_sum_exp(std::span<const float> logits) {
  float best = -std::numeric_limits<float>::infinity();
  for (const float x : logits) best = std::max(best, x);
  if (best == -std::numeric_limits<float>::infinity()) return static_cast<double>(best);
  double sum = 0;
  for (const float x : logits)
    sum += math64::exp(static_cast<double>(x) - static_cast<double>(best));
  return static_cast<double>(best) + math64::log(sum);
}

TokenLogprob token_logprob(std::span<const float> logits, int32_t token, int64_t n_top) {
  const double total = log_sum_exp(logits);
  const auto of = [&](int32_t id) {
    return static_cast<float>(static_cast<double>(logits[static_cast<size_t>(id)]) - total);
  };
  TokenLogprob found{of(token), {}};
  const auto n =
      static_cast<size_t>(std::clamp<int64_t>(n_top, 0, static_cast<int64_t>(logits.size())));
  if (n == 0) return found;
  std::vector<int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto better = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(n), ids.end(), better);
  for (size_t i = 0; i < n; ++i) found.top.emplace_back(ids[i], of(ids[i]));
  return found;
}

}  // namespace hrun
