// Sampling on the device: the CPU sampler's token for the same generator, draw after draw.
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <unordered_map>

#include "base/pcg32.h"
#include "cases.h"
#include "cuda/kernels/sample.h"
#include "engine/samplers.h"

using namespace hrun;
using namespace hrun::gpu;

namespace {

struct Settings {
  double temperature = 0.8, top_k = 40, top_p = 0.95, min_p = 0.05;
  double repeat = 1, frequency = 0, presence = 0;
};

enum class Logits { model, flat, equal, two_values, one_hot, masked, crowded, wide, zeros };

std::vector<float> make_logits(Random& random, int n, Logits kind) {
  std::vector<float> x(static_cast<size_t>(n));
  for (size_t i = 0; i < x.size(); ++i) {
    switch (kind) {
      case Logits::model:
        x[i] = 3 * random.normal() + (random.below(200) == 0 ? 8 : 0);
        break;
      case Logits::flat:
        x[i] = 0.01f * random.normal();
        break;
      case Logits::equal:
        x[i] = -2.5f;
        break;
      case Logits::two_values:
        x[i] = random.below(3) == 0 ? 1.0f : 0.5f;
        break;
      case Logits::one_hot:
        x[i] = i == x.size() / 3 ? 30.0f : -30.0f;
        break;
      case Logits::masked:
        x[i] = random.below(20) == 0 ? random.normal() : -HUGE_VALF;
        break;
      case Logits::crowded:
        x[i] = i < 90 ? 10 + 0.01f * random.normal() : random.normal();
        break;  // the good ones side by side
      case Logits::wide:
        x[i] = random.normal() * std::exp2(static_cast<float>(random.below(60) - 30));
        break;
      case Logits::zeros:
        x[i] = random.below(2) == 0 ? 0.0f : -0.0f;
        break;
    }
  }
  if (kind == Logits::masked) x[x.size() / 2] = 1;
  return x;
}

SampleResult draw(Gpu& gpu, const std::vector<float>& logits, const SampleSettings& settings,
                  const std::vector<SampleEdit>& edits, uint64_t& generator) {
  const OnDevice<float> on(gpu, logits);
  const OnDevice<SampleEdit> edits_on(gpu, edits.empty() ? std::vector<SampleEdit>(1) : edits);
  const OnDevice<int32_t> count(gpu, std::vector<int32_t>{static_cast<int32_t>(edits.size())});
  const OnDevice<uint64_t> generator_on(gpu, std::vector<uint64_t>{generator});
  const OnDevice<SampleResult> result(gpu, 1);
  const OnDevice<uint8_t> scratch(gpu, sample_scratch_bytes(static_cast<int64_t>(logits.size())));
  sample(gpu, on.get(), static_cast<int64_t>(logits.size()), settings,
         edits.empty() ? nullptr : edits_on.get(), edits.empty() ? nullptr : count.get(),
         generator_on.get(), result.get(), scratch.get());
  generator = generator_on.read()[0];
  return result.read()[0];
}

void check(Gpu& gpu, int n_vocab, Logits kind, const Settings& s, uint64_t seed, int n_draws = 3) {
  Random random(seed);
  const std::vector<float> logits = make_logits(random, n_vocab, kind);
  std::vector<std::pair<int32_t, float>> bias;
  if (s.repeat != 1 && n_vocab > 30)
    bias = {{0, -HUGE_VALF}, {n_vocab / 2, random.normal()}, {n_vocab - 1, random.normal()}};
  const std::vector<std::pair<std::string_view, double>> values = {
      {"temperature", s.temperature},
      {"top_k", s.top_k},
      {"top_p", s.top_p},
      {"min_p", s.min_p},
      {"repeat_penalty", s.repeat},
      {"frequency_penalty", s.frequency},
      {"presence_penalty", s.presence}};
  Sampler cpu(seed, values, bias);
  uint64_t generator = Pcg32::seeded(seed).state;
  std::vector<int32_t> history;
  const bool penalties = s.repeat != 1 || s.frequency != 0 || s.presence != 0;
  for (int i = 0; i < n_draws; ++i) {
    std::unordered_map<int32_t, SampleEdit> edits;
    for (const auto& [id, by] : bias) edits.try_emplace(id, SampleEdit{id}).first->second.bias = by;
    if (penalties)
      for (const int32_t id : history) {
        SampleEdit& e = edits.try_emplace(id, SampleEdit{id}).first->second;
        e.repeat = static_cast<float>(s.repeat);
        const auto times = static_cast<int>(std::count(history.begin(), history.end(), id));
        e.subtract = static_cast<float>(times) * static_cast<float>(s.frequency) +
                     static_cast<float>(s.presence);
      }
    std::vector<SampleEdit> list;
    for (const auto& [id, e] : edits) list.push_back(e);
    const int32_t want = cpu.sample(logits);
    const SampleResult got =
        draw(gpu, logits,
             {static_cast<float>(s.temperature), static_cast<int64_t>(s.top_k), s.top_p, s.min_p},
             list, generator);
    expect(got.status == SampleStatus::ok && got.token == want,
           "draw {} of {} tokens, logits {}, temperature {}, top_k {}, top_p {}, min_p {}, "
           "penalties {}: {} instead of {}, status {}",
           i, n_vocab, static_cast<int>(kind), s.temperature, s.top_k, s.top_p, s.min_p, penalties,
           got.token, want, static_cast<int>(got.status));
    history.push_back(want);
  }
}

}  // namespace

int main() {
  Gpu gpu(0);
  uint64_t seed = 1;
  const Logits kinds[] = {Logits::model,      Logits::flat,    Logits::equal,
                          Logits::two_values, Logits::one_hot, Logits::masked,
                          Logits::crowded,    Logits::wide,    Logits::zeros};
  for (const Logits kind : kinds)
    for (const int n : {1, 2, 31, 33, 500, 3001}) {
      check(gpu, n, kind, {}, seed++);
      check(gpu, n, kind, {.temperature = 0}, seed++, 1);
      check(gpu, n, kind, {.temperature = 1, .top_k = 1}, seed++, 1);
      check(gpu, n, kind, {.temperature = 1.3, .top_k = 7, .top_p = 1, .min_p = 0}, seed++);
      check(gpu, n, kind, {.temperature = 0.5, .top_k = 300, .top_p = 0.5, .min_p = 0.2}, seed++,
            2);
      check(gpu, n, kind, {.repeat = 1.7, .frequency = 0.3, .presence = 0.2}, seed++);
    }
  // More candidates than are sorted: sums over the vocabulary.
  for (const Logits kind : kinds) {
    const double top_p = kind == Logits::equal || kind == Logits::zeros
                             ? 1
                             : 0.9;  // a border between equals is where rounding puts it
    check(gpu, 5000, kind, {.temperature = 1, .top_k = 0, .top_p = 1, .min_p = 0}, seed++, 1);
    check(gpu, 3001, kind, {.temperature = 1.5, .top_k = 0, .top_p = top_p, .min_p = 0}, seed++, 2);
    check(gpu, 3001, kind, {.temperature = 0.7, .top_k = 0, .top_p = top_p, .min_p = 0.01}, seed++,
          2);
    check(gpu, 3001, kind, {.temperature = 2, .top_k = 2000, .top_p = top_p, .min_p = 0}, seed++,
          1);
    check(gpu, 3001, kind, {.temperature = 2, .top_k = 0, .top_p = 1, .min_p = 0.1}, seed++, 2);
    check(gpu, 6000, kind, {.temperature = 1, .top_k = 1024, .top_p = 0.99, .min_p = 0}, seed++, 1);
  }
  // A real vocabulary: chunks of several steps of a warp.
  for (const Logits kind : {Logits::model, Logits::crowded, Logits::equal})
    check(gpu, 151936, kind, {}, seed++, 1);
  check(gpu, 256000, Logits::model, {.temperature = 1, .top_k = 0, .top_p = 0.95, .min_p = 0.02},
        seed++, 1);

  uint64_t generator = 7;
  for (const float odd : {std::nanf(""), -std::nanf(""), HUGE_VALF}) {
    std::vector<float> logits(500, 1.0f);
    logits[77] = odd;
    for (const float temperature : {0.0f, 1.0f}) {
      const SampleResult r = draw(gpu, logits, {.temperature = temperature}, {}, generator);
      expect(r.status == SampleStatus::not_finite && r.token == 0, "a logit of {}: status {}", odd,
             static_cast<int>(r.status));
    }
  }
  expect(draw(gpu, std::vector<float>(500, -HUGE_VALF), {}, {}, generator).status ==
             SampleStatus::none_possible,
         "all at -infinity");
  expect(generator == 7, "nothing is drawn where nothing can be");
  return failures == 0 ? 0 : 1;
}
