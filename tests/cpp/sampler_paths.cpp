// A draw in one pass over the vocabulary gives the token that the whole chain, step by step, gives.
#include <cmath>
#include <cstdio>
#include <limits>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/pcg32.h"
#include "engine/samplers.h"

namespace {

int failures = 0;

// What sample() must draw: probabilities() runs every step over all candidates.
int32_t drawn_by_chain(const hrun::Sampler& sampler, const std::vector<float>& logits) {
  const auto probabilities = sampler.probabilities(logits);
  hrun::Pcg32 random{sampler.generator()};
  double left = random.uniform();
  size_t i = 0;
  while (i + 1 < probabilities.size() && left >= probabilities[i].second)
    left -= probabilities[i++].second;
  return probabilities[i].first;
}

}  // namespace

int main() {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  hrun::Pcg32 random = hrun::Pcg32::seeded(7);
  const auto below = [&](int n) { return static_cast<int>(random.uniform() * n); };
  for (int round = 0; round < 3000; ++round) {
    const size_t n_vocab = round % 3 == 0 ? 50 : round % 3 == 1 ? 1000 : 4999;
    std::vector<float> logits(n_vocab);
    for (float& x : logits) {
      x = static_cast<float>(random.uniform() * 20 - 10);
      if (round % 4 == 1) x = std::round(x);  // many equals
      if (round % 5 == 2 && below(3) > 0) x = -kInfinity;
    }
    if (round % 7 == 3)  // rising: every one is better than those before
      for (size_t i = 0; i < n_vocab; ++i) logits[i] = static_cast<float>(i);
    std::vector<std::pair<std::string_view, double>> values;
    const int ks[] = {1, 2, 40, 300, 1024, 0, 5000};
    values.emplace_back("top_k", ks[below(7)]);
    values.emplace_back("top_p", below(2) ? 1.0 : random.uniform());
    values.emplace_back("min_p", below(2) ? 0.0 : random.uniform() * 0.3);
    values.emplace_back("temperature", below(3) == 0 ? 0.0 : 0.2 + random.uniform() * 2);
    if (below(2)) {
      values.emplace_back("repeat_penalty", 0.5 + random.uniform() * 2);
      values.emplace_back("frequency_penalty", random.uniform() * 2 - 1);
      values.emplace_back("presence_penalty", random.uniform() * 4 - 2);
      values.emplace_back("repeat_last_n", below(2) ? -1 : 1 + below(30));
    }
    std::vector<std::pair<int32_t, float>> bias;
    for (int i = below(4); i > 0; --i) {
      const int32_t token = below(static_cast<int>(n_vocab) / 4) * 4 + i % 4;
      bias.emplace_back(token, below(4) ? static_cast<float>(below(20) - 10) : -kInfinity);
    }
    if (bias.size() > 1 && bias[0].first == bias[1].first) bias.resize(1);
    hrun::Sampler sampler(static_cast<uint64_t>(round), values, bias);
    for (int i = 0; i < 40; ++i) sampler.accept(below(static_cast<int>(n_vocab)));
    for (int draw = 0; draw < 3; ++draw) {
      const int32_t want = drawn_by_chain(sampler, logits), got = sampler.sample(logits);
      if (want != got && ++failures < 10)
        std::printf("round %d, draw %d: token %d instead of %d\n", round, draw, got, want);
    }
  }
  // Odd logits are refused wherever they stand.
  for (const float odd : {std::nanf(""), kInfinity})
    for (const size_t at : {size_t{0}, size_t{17}, size_t{999}}) {
      std::vector<float> logits(1000, 1.0f);
      logits[at] = odd;
      hrun::Sampler sampler(1, {}, {});
      bool refused = false;
      try {
        sampler.sample(logits);
      } catch (const hrun::GenerationError&) { refused = true; }
      if (!refused && ++failures) std::printf("%g at %zu was not refused\n", double{odd}, at);
    }
  return failures == 0 ? 0 : 1;
}
