// From logits to a token: a chain of steps over one candidate list.
//
// The chain and its order are llama.cpp's: logit bias, penalties, top-k, top-p, min-p, temperature,
// draw.  Probabilities are computed in double with our own exp, ties go to the lower id, and the
// generator is our own: the same seed gives the same tokens on every machine.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "backend/backend.h"
#include "backend/sampling.h"
#include "base/pcg32.h"
#include "engine/token_mask.h"

namespace hrun {

struct Candidate {
  int32_t id;
  float logit;
};

// The list that a step works on.  Its one canonical order is by id, until sort() makes it by
// falling logit (ties: lower id).
struct Candidates {
  std::vector<Candidate> items;
  bool sorted = false;

  void sort();
  void keep_best(size_t n);                   // sorts, keeps the n best
  std::vector<double> probabilities() const;  // softmax over items
};

// A number that a user can set.  CLI flags, Python keywords, range checks and help text read these
// rows.
struct SamplerParameter {
  std::string_view name;
  std::string_view help;
  double fallback;
  double min, max;
  bool integer;
};
std::span<const SamplerParameter> sampler_parameters();

class SamplerStep {
 public:
  virtual ~SamplerStep() = default;
  virtual void apply(Candidates& candidates, std::span<const int32_t> history) const = 0;
  // Does a backend's sample() do what this step does, by SampleSettings or by edits?  A step that
  // does not say so keeps the draw on the host.
  virtual bool on_device() const { return false; }
  // Does it keep the n best, whatever came before, and all later steps see these only?  0: no.
  virtual size_t keeps() const { return 0; }
  // Does edit() tell all that the step does?
  virtual bool only_edits() const { return false; }
  // Says how a step that only changes the logits of recent tokens changes them.
  virtual void edit(std::unordered_map<int32_t, SampleEdit>&, std::span<const int32_t> /*history*/,
                    int64_t /*n_vocab*/) const {}
};

class Sampler {
 public:
  // Values by name for the parameters that differ from their fallback.  Throws ArgumentError naming
  // the parameter, the value and the range; a bias for an id is checked against the vocabulary when
  // sampling.
  Sampler(uint64_t seed, std::span<const std::pair<std::string_view, double>> values,
          std::vector<std::pair<int32_t, float>> logit_bias);
  Sampler(Sampler&&) = default;

  // Draws from the chain, among the tokens that the mask allows, and accepts the result.  Throws
  // GenerationError if a logit is NaN or none that is allowed is finite.
  int32_t sample(std::span<const float> logits, TokenMask mask = {});
  // With these a backend makes the same draw: what to ask it for, and how to take its answer.
  // Throws ArgumentError for a bias outside the vocabulary.
  bool runs_on_device() const;
  const SampleSettings& settings() const { return settings_; }
  std::vector<SampleEdit> edits(int64_t n_vocab) const;
  uint64_t generator() const { return random_.state; }
  void accept_drawn(int32_t token, uint64_t generator);
  // Adds a token (of a prompt, say) to the history that the penalties look at.
  void accept(int32_t token) { history_.push_back(token); }
  // Moves the generator on as if so many tokens had been drawn: for a request that goes on where
  // another one ended.
  void skip(int64_t n_draws);
  // The tokens that sample() would draw from and their probabilities, best first.
  std::vector<std::pair<int32_t, double>> probabilities(std::span<const float> logits,
                                                        TokenMask mask = {}) const;
  uint64_t seed() const { return seed_; }

 private:
  Candidates candidates(std::span<const float> logits, TokenMask mask) const;
  bool best_candidates(std::span<const float> logits, TokenMask mask, Candidates& c) const;

  uint64_t seed_;
  Pcg32 random_;
  SampleSettings settings_;
  bool greedy_ = false;
  std::vector<std::pair<int32_t, float>> logit_bias_;
  std::vector<std::unique_ptr<SamplerStep>> steps_;
  std::vector<int32_t> history_;
};

// A token drawn by a backend that samples() from logits [n_vocab] in its memory, for a sampler that
// runs_on_device() and whose edits() these are.  Throws GenerationError where none can be drawn.
int32_t draw_on_device(Backend& backend, const float* logits, int64_t n_vocab, Sampler& sampler,
                       std::span<const SampleEdit> edits);

}  // namespace hrun
