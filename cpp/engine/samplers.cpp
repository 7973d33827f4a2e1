#include "engine/samplers.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "base/error.h"
#include "base/math64.h"

namespace hrun {
namespace {

constexpr double kBig = 1e9;

constexpr SamplerParameter kParameters[] = {
    {"repeat_penalty", "divide the logits of recent tokens by this; 1 = off", 1.0, 0.01, 100.0,
     false},
    {"repeat_last_n", "how many recent tokens the penalties look at; -1 = all, 0 = off", 64, -1,
     kBig, true},
    {"frequency_penalty", "subtract this per occurrence among the recent tokens; 0 = off", 0.0,
     -100.0, 100.0, false},
    {"presence_penalty", "subtract this once if among the recent tokens; 0 = off", 0.0, -100.0,
     100.0, false},
    {"top_k", "keep the k likeliest tokens; 0 or -1 = off", 40, -1, kBig, true},
    {"top_p", "keep the likeliest tokens that together reach this probability; 1 = off", 0.95, 0.0,
     1.0, false},
    {"min_p", "keep tokens at least this fraction as likely as the likeliest; 0 = off", 0.05, 0.0,
     1.0, false},
    {"temperature", "divide the logits by this; 0 = always the likeliest token", 0.8, 0.0, 1000.0,
     false},
};

class Values {
 public:
  explicit Values(std::span<const std::pair<std::string_view, double>> given) {
    for (const auto& [name, value] : given) {
      const auto* row = std::find_if(std::begin(kParameters), std::end(kParameters),
                                     [&](const SamplerParameter& p) { return p.name == name; });
      if (row == std::end(kParameters))
        throw ArgumentError("unknown sampling parameter '{}'", printable(name));
      if (!(value >= row->min && value <= row->max))
        throw ArgumentError("{} is {}, must be between {} and {}", row->name, value, row->min,
                            row->max);
      if (row->integer && value != std::floor(value))
        throw ArgumentError("{} is {}, must be a whole number", row->name, value);
      values_[name] = value;
    }
  }
  double operator[](std::string_view name) const {
    if (const auto it = values_.find(name); it != values_.end()) return it->second;
    for (const SamplerParameter& p : kParameters)
      if (p.name == name) return p.fallback;
    return 0;
  }

 private:
  std::unordered_map<std::string_view, double> values_;
};

using Step = std::unique_ptr<SamplerStep>;

// Keskar et al. 2019 (repeat), OpenAI's API (frequency, presence).
class Penalties : public SamplerStep {
 public:
  bool on_device() const override { return true; }
  static Step make(const Values& v) {
    if (v["repeat_last_n"] == 0) return nullptr;
    if (v["repeat_penalty"] == 1 && v["frequency_penalty"] == 0 && v["presence_penalty"] == 0)
      return nullptr;
    return std::make_unique<Penalties>(v);
  }
  explicit Penalties(const Values& v)
      : last_n_(static_cast<int64_t>(v["repeat_last_n"])),
        repeat_(static_cast<float>(v["repeat_penalty"])),
        frequency_(static_cast<float>(v["frequency_penalty"])),
        presence_(static_cast<float>(v["presence_penalty"])) {}

  bool only_edits() const override { return true; }
  void apply(Candidates& c, std::span<const int32_t> history) const override {
    for (const auto& [token, count] : counts(history, static_cast<int64_t>(c.items.size()))) {
      float& logit =
          c.items[static_cast<size_t>(token)].logit;  // the first step: still in order of ids
      logit = logit <= 0 ? logit * repeat_ : logit / repeat_;
      logit -= subtract(count);
    }
  }
  void edit(std::unordered_map<int32_t, SampleEdit>& edits, std::span<const int32_t> history,
            int64_t n_vocab) const override {
    for (const auto& [token, count] : counts(history, n_vocab)) {
      SampleEdit& e = edits.try_emplace(token, SampleEdit{token}).first->second;
      e.repeat = repeat_;
      e.subtract = subtract(count);
    }
  }

 private:
  // Counts the recent tokens that are in the vocabulary.
  std::unordered_map<int32_t, int> counts(std::span<const int32_t> history, int64_t n_vocab) const {
    if (last_n_ > 0 && static_cast<size_t>(last_n_) < history.size())
      history = history.last(static_cast<size_t>(last_n_));
    std::unordered_map<int32_t, int> found;
    for (const int32_t token : history)
      if (token >= 0 && token < n_vocab) ++found[token];
    return found;
  }
  float subtract(int count) const { return static_cast<float>(count) * frequency_ + presence_; }

  int64_t last_n_;
  float repeat_, frequency_, presence_;
};

class TopK : public SamplerStep {
 public:
  bool on_device() const override { return true; }
  static Step make(const Values& v) { return v["top_k"] > 0 ? std::make_unique<TopK>(v) : nullptr; }
  explicit TopK(const Values& v) : k_(static_cast<size_t>(v["top_k"])) {}
  size_t keeps() const override { return k_; }
  void apply(Candidates& c, std::span<const int32_t>) const override { c.keep_best(k_); }

 private:
  size_t k_;
};

// Holtzman et al. 2020.
class TopP : public SamplerStep {
 public:
  bool on_device() const override { return true; }
  static Step make(const Values& v) { return v["top_p"] < 1 ? std::make_unique<TopP>(v) : nullptr; }
  explicit TopP(const Values& v) : p_(v["top_p"]) {}
  void apply(Candidates& c, std::span<const int32_t>) const override {
    c.sort();
    const std::vector<double> p = c.probabilities();
    double sum = 0;
    for (size_t i = 0; i < p.size(); ++i) {
      sum += p[i];
      if (sum >= p_) {
        c.items.resize(i + 1);
        return;
      }
    }
  }

 private:
  double p_;
};

// Nguyen et al. 2024.
class MinP : public SamplerStep {
 public:
  bool on_device() const override { return true; }
  static Step make(const Values& v) { return v["min_p"] > 0 ? std::make_unique<MinP>(v) : nullptr; }
  explicit MinP(const Values& v) : log_p_(math64::log(v["min_p"])) {}
  void apply(Candidates& c, std::span<const int32_t>) const override {
    c.sort();
    const double floor = static_cast<double>(c.items[0].logit) + log_p_;
    size_t n = 1;
    while (n < c.items.size() && static_cast<double>(c.items[n].logit) >= floor) ++n;
    c.items.resize(n);
  }

 private:
  double log_p_;
};

// Logits and biases divided by less would overflow; what is left by then is the likeliest token.
constexpr double kCoolest = 1e-20;

double temperature_of(const Values& v) {
  return v["temperature"] < kCoolest ? 0 : v["temperature"];
}

class Temperature : public SamplerStep {
 public:
  bool on_device() const override { return true; }
  static Step make(const Values& v) {
    return temperature_of(v) > 0 && v["temperature"] != 1 ? std::make_unique<Temperature>(v)
                                                          : nullptr;
  }
  explicit Temperature(const Values& v) : temperature_(static_cast<float>(v["temperature"])) {}
  void apply(Candidates& c, std::span<const int32_t>) const override {
    for (Candidate& item : c.items) item.logit /= temperature_;
  }

 private:
  float temperature_;
};

// The chain, in order.  A new sampler is a class above, a row here and its parameters in the table.
constexpr Step (*kChain[])(const Values&) = {Penalties::make, TopK::make, TopP::make, MinP::make,
                                             Temperature::make};

void check_bias(int32_t id, int64_t n_vocab) {
  if (id < 0 || id >= n_vocab)
    throw ArgumentError("logit_bias names token {}, the vocabulary has {} tokens", id, n_vocab);
}

bool better(const Candidate& a, const Candidate& b) {
  return a.logit > b.logit || (a.logit == b.logit && a.id < b.id);
}

}  // namespace

std::span<const SamplerParameter> sampler_parameters() { return kParameters; }

void Candidates::sort() {
  if (!sorted) std::sort(items.begin(), items.end(), better);
  sorted = true;
}

void Candidates::keep_best(size_t n) {
  if (n < items.size() && !sorted) {
    std::nth_element(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(n), items.end(),
                     better);
    items.resize(n);
  }
  sort();
  if (n < items.size()) items.resize(n);
}

std::vector<double> Candidates::probabilities() const {
  float best = -std::numeric_limits<float>::infinity();
  for (const Candidate& c : items) best = std::max(best, c.logit);
  std::vector<double> p(items.size());
  double sum = 0;
  for (size_t i = 0; i < items.size(); ++i)
    sum += p[i] = math64::exp(static_cast<double>(items[i].logit) - static_cast<double>(best));
  for (double& x : p) x /= sum;
  return p;
}

Sampler::Sampler(uint64_t seed, std::span<const std::pair<std::string_view, double>> given,
                 std::vector<std::pair<int32_t, float>> logit_bias)
    : seed_(seed), random_(Pcg32::seeded(seed)), logit_bias_(std::move(logit_bias)) {
  const Values values(given);
  settings_ = {static_cast<float>(temperature_of(values)),
               std::max<int64_t>(0, static_cast<int64_t>(values["top_k"])), values["top_p"],
               values["min_p"]};
  greedy_ = temperature_of(values) == 0;
  for (const auto make : kChain)
    if (Step step = make(values)) steps_.push_back(std::move(step));
  for (const auto& [id, bias] : logit_bias_)
    if (std::isnan(bias) || bias == std::numeric_limits<float>::infinity())
      throw ArgumentError("the logit bias of token {} is {}, must be finite or -inf", id, bias);
}

bool Sampler::runs_on_device() const {
  return std::all_of(steps_.begin(), steps_.end(), [](const Step& s) { return s->on_device(); });
}

std::vector<SampleEdit> Sampler::edits(int64_t n_vocab) const {
  std::unordered_map<int32_t, SampleEdit> by_token;
  for (const auto& [id, bias] : logit_bias_) {
    check_bias(id, n_vocab);
    by_token.try_emplace(id, SampleEdit{id}).first->second.bias += bias;
  }
  for (const auto& step : steps_) step->edit(by_token, history_, n_vocab);
  std::vector<SampleEdit> list;
  for (const auto& [token, e] : by_token) list.push_back(e);
  return list;
}

void Sampler::accept_drawn(int32_t token, uint64_t generator) {
  random_.state = generator;
  accept(token);
}

void Sampler::skip(int64_t n_draws) {
  if (greedy_) return;
  for (int64_t i = 0; i < n_draws; ++i) random_.uniform();
}

Candidates Sampler::candidates(std::span<const float> logits, TokenMask mask) const {
  Candidates c;
  c.items.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity())
      throw GenerationError("logits are not finite: token {} has {} at position {}", i, logits[i],
                            history_.size());
    c.items[i] = {static_cast<int32_t>(i), logits[i]};
  }
  for (const auto& [id, bias] : logit_bias_) {
    check_bias(id, static_cast<int64_t>(logits.size()));
    c.items[static_cast<size_t>(id)].logit += bias;
  }
  size_t n_edits = 0;
  for (; n_edits < steps_.size() && steps_[n_edits]->only_edits(); ++n_edits)
    steps_[n_edits]->apply(c, history_);
  // A token that cannot be drawn is no candidate.
  std::erase_if(c.items, [&](const Candidate& item) {
    return item.logit == -std::numeric_limits<float>::infinity() ||
           !allows(mask, static_cast<size_t>(item.id));
  });
  if (c.items.empty())
    throw GenerationError("logits are not finite: no token{} has a probability at position {}",
                          mask.empty() ? "" : " that the grammar allows", history_.size());
  for (size_t i = n_edits; i < steps_.size(); ++i) steps_[i]->apply(c, history_);
  return c;
}

// Makes the list that candidates() makes, in one pass over the vocabulary, if the chain changes
// some logits and then keeps a few of the best.  Returns false if the chain does something else
// first, or if a logit is odd: candidates() then says what is wrong.
bool Sampler::best_candidates(std::span<const float> logits, TokenMask mask, Candidates& c) const {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr size_t kBlock = 16;
  size_t n_edits = 0;
  while (n_edits < steps_.size() && steps_[n_edits]->only_edits()) ++n_edits;
  // The likeliest token passes every step.
  const size_t keep = greedy_ ? 1 : n_edits < steps_.size() ? steps_[n_edits]->keeps() : 0;
  if (keep == 0 || keep > 1024 || keep >= logits.size()) return false;

  std::vector<SampleEdit> edited = edits(static_cast<int64_t>(logits.size()));
  std::sort(edited.begin(), edited.end(),
            [](const SampleEdit& a, const SampleEdit& b) { return a.token < b.token; });
  std::vector<Candidate>& items = c.items;
  items.clear();
  items.reserve(4 * keep + kBlock);
  float least = -kInfinity;  // what is not above cannot be among the best: equals go by lower id
  const auto prune = [&] {
    std::nth_element(items.begin(), items.begin() + static_cast<std::ptrdiff_t>(keep) - 1,
                     items.end(), better);
    items.resize(keep);
    least = items.back().logit;
  };
  bool odd = false;
  auto edit = edited.begin();
  for (size_t first = 0; first < logits.size(); first += kBlock) {
    const size_t n = std::min(kBlock, logits.size() - first);
    const float* const x = logits.data() + first;
    bool above = false;
    for (size_t i = 0; i < n; ++i) {
      above |= x[i] > least;
      odd |= !(x[i] < kInfinity);
    }
    const bool has_edit = edit != edited.end() && static_cast<size_t>(edit->token) < first + n;
    const uint32_t allowed = allowed_of_16(mask, first);
    if (!(above && allowed != 0) && !has_edit) continue;
    for (size_t i = 0; i < n; ++i) {
      float value = x[i];
      if (edit != edited.end() && static_cast<size_t>(edit->token) == first + i) {
        value += edit->bias;
        value = value <= 0 ? value * edit->repeat : value / edit->repeat;
        value -= edit->subtract;
        ++edit;
      }
      if (value > least && ((allowed >> i) & 1) != 0)
        items.push_back({static_cast<int32_t>(first + i), value});
    }
    if (items.size() >= 4 * keep) prune();
  }
  if (odd || items.empty()) return false;
  if (items.size() > keep) prune();
  for (const Candidate& item : items)
    if (!std::isfinite(item.logit)) return false;
  c.sorted = false;
  c.sort();
  if (greedy_) return true;
  for (size_t i = n_edits + 1; i < steps_.size(); ++i) steps_[i]->apply(c, history_);
  return true;
}

int32_t Sampler::sample(std::span<const float> logits, TokenMask mask) {
  if (!mask.empty() && mask.size() != mask_words(logits.size()))
    throw ArgumentError("a token mask of {} words for a vocabulary of {} tokens, must be {}",
                        mask.size(), logits.size(), mask_words(logits.size()));
  Candidates c;
  if (!best_candidates(logits, mask, c)) c = candidates(logits, mask);
  int32_t token = 0;
  if (greedy_) {
    token = std::min_element(c.items.begin(), c.items.end(), better)->id;
  } else {
    c.sort();
    const std::vector<double> p = c.probabilities();
    double left = random_.uniform();
    size_t i = 0;
    while (i + 1 < p.size() && left >= p[i]) left -= p[i++];
    token = c.items[i].id;
  }
  accept(token);
  return token;
}

std::vector<std::pair<int32_t, double>> Sampler::probabilities(std::span<const float> logits,
                                                               TokenMask mask) const {
  Candidates c = candidates(logits, mask);
  c.sort();
  if (greedy_) c.items.resize(1);
  const std::vector<double> p = c.probabilities();
  std::vector<std::pair<int32_t, double>> out;
  for (size_t i = 0; i < p.size(); ++i) out.emplace_back(c.items[i].id, p[i]);
  return out;
}

int32_t draw_on_device(Backend& backend, const float* logits, int64_t n_vocab, Sampler& sampler,
                       std::span<const SampleEdit> edits) {
  uint64_t generator = sampler.generator();
  const SampleResult drawn = backend.sample(logits, n_vocab, sampler.settings(), edits, generator);
  if (drawn.status == SampleStatus::ok) {
    sampler.accept_drawn(drawn.token, generator);
    return drawn.token;
  }
  // The host's sampler says what is wrong with the logits.
  std::vector<float> here(static_cast<size_t>(n_vocab));
  backend.read(logits, {reinterpret_cast<uint8_t*>(here.data()), here.size() * sizeof(float)});
  return sampler.sample(here);
}

}  // namespace hrun
