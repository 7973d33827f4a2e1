// A draw in one pass over the vocabulary gives the token that the whole chain, step by step, gives.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/pcg32.h"
#include "engine/samplers.h"

namespace {

int failures = 0;

// The token that sample() must draw: probabilities() runs every step over all candidates.
int32_t drawn_by_chain(const hrun::Sampler& sampler, const std::vector<float>& logits,
                       hrun::TokenMask mask) {
  const auto probabilities = sampler.probabilities(logits, mask);
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
    // In some rounds few tokens are allowed, at times fewer than top-k keeps.
    std::vector<uint32_t> mask;
    if (round % 2) {
      mask.resize(hrun::mask_words(n_vocab));
      const int n_allowed = below(3) == 0 ? 1 + below(3)
                            : below(2)    ? 60
                                          : static_cast<int>(n_vocab);
      for (int i = 0; i < n_allowed; ++i) {
        size_t token = static_cast<size_t>(below(static_cast<int>(n_vocab)));
        for (size_t n = 0; n < n_vocab && !std::isfinite(logits[token]); ++n)
          token = (token + 1) % n_vocab;
        mask[token / 32] |= uint32_t{1} << (token % 32);
      }
    }
    hrun::Sampler sampler(static_cast<uint64_t>(round), values, bias);
    for (int i = 0; i < 40; ++i) sampler.accept(below(static_cast<int>(n_vocab)));
    for (int draw = 0; draw < 3; ++draw) {
      // Where the bias forbids everything that is allowed, both say so.
      const auto possible = [&](size_t i) {
        return hrun::allows(mask, i) && std::isfinite(logits[i]) &&
               std::none_of(bias.begin(), bias.end(), [&](const auto& b) {
                 return b.first == static_cast<int32_t>(i) && b.second == -kInfinity;
               });
      };
      bool any = false;
      for (size_t i = 0; i < n_vocab; ++i) any |= possible(i);
      if (!any) {
        try {
          sampler.sample(logits, mask);
          ++failures;
        } catch (const hrun::GenerationError&) {}
        break;
      }
      const int32_t want = drawn_by_chain(sampler, logits, mask),
                    got = sampler.sample(logits, mask);
      if (!possible(static_cast<size_t>(got)) && ++failures < 10)
        std::printf("round %d, draw %d: token %d cannot be drawn\n", round, draw, got);
      if (want != got && ++failures < 10)
        std::printf("round %d, draw %d: token %d instead of %d\n", round, draw, got, want);
    }
  }
  // A mask counts as if there were no other logits; one of another size is refused.
  {
    std::vector<float> logits(100), few(100, -kInfinity);
    for (float& x : logits) x = static_cast<float>(random.uniform());
    std::vector<uint32_t> mask(4);
    for (const size_t token : {7, 63, 64, 99}) {
      mask[token / 32] |= uint32_t{1} << (token % 32);
      few[token] = logits[token];
    }
    hrun::Sampler masked(5, {}, {}), alone(5, {}, {});
    for (int i = 0; i < 50; ++i)
      if (masked.sample(logits, mask) != alone.sample(few) && ++failures)
        std::printf("a mask is not the same as impossible logits\n");
    try {
      masked.sample(logits, std::span(mask).first(3));
      ++failures;
    } catch (const hrun::ArgumentError&) {}
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
