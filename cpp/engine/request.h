// A request to the engine, and the handle through which the answer comes.
#pragma once

#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <exception>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "base/fork_condition.h"
#include "engine/mask_desk.h"
#include "engine/samplers.h"
#include "engine/sequence.h"
#include "model/description.h"

namespace hrun {

enum class RequestKind : uint8_t {
  generate,  // draws tokens
  logits,    // of prompt rows from first_row on
  score,     // log-probabilities of the prompt's tokens from first_row + 1 on
  embed,     // hidden states after the last norm, pooled
};

struct Request {
  RequestKind kind = RequestKind::generate;
  std::vector<int32_t> prompt;
  SequenceParameters parameters;
  std::optional<Sampler> sampler;   // generate; has accepted the prompt
  std::vector<int32_t> end_tokens;  // a drawn one of these ends the sequence
  // A grammar of the caller's, by a number of the caller's: each draw waits for the mask that the
  // engine's MaskDesk is asked for.
  std::optional<uint64_t> constraint;
  int64_t n_top_logprobs = -1;  // -1: no log-probabilities; else of the drawn and the n likeliest
  int64_t max_unread = 8;       // tokens that may wait to be read before the sequence rests
  int64_t first_row = 0;        // logits and score
  Pooling pooling = Pooling::last;
};

// Log-probabilities from raw logits, before bias, penalties and sampling.
struct TokenLogprob {
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // the likeliest, best first; ties: the lower id
};

struct DrawnToken {
  int32_t token;
  std::optional<TokenLogprob> logprob;
};

enum class Finish : uint8_t { none, stop, length, cancelled, failed };

// The part of the answer that has come since the last look.
struct Update {
  std::vector<DrawnToken> tokens;  // the end token is not among them
  Finish finish = Finish::none;
  std::exception_ptr error;  // of a failed request
};

// The engine and the reader of a request share this handle; it is safe from any thread.  In a
// process that was forked off, the calls that would wait throw GenerationError.
class RequestHandle {
 public:
  explicit RequestHandle(int64_t max_unread) : max_unread_(max_unread) {}

  SequenceId id() const { return id_; }
  // Waits until there is something, at most so long.
  Update take(std::chrono::milliseconds timeout);
  bool finished() const { return finish_ != Finish::none; }

  // The times from submit() until the first token was drawn, and from then to the last; an end
  // token counts.
  double prompt_seconds() const;
  double generate_seconds() const;

  // Complete when the request has finished.
  int64_t n_cached() const { return n_cached_; }
  std::vector<float>& values() { return values_; }  // logits or embedding
  const std::vector<TokenLogprob>& scores() const { return scores_; }

 private:
  friend class Engine;
  friend class MaskDesk;
  void require_usable() const;
  void expect_mask();
  void put_mask(MaskAnswer answer);
  bool has_mask() const;
  std::optional<MaskAnswer> take_mask();
  void mark_drawn();  // now
  void put(DrawnToken token);
  void finish(Finish how, std::exception_ptr error = nullptr);
  bool is_full() const;

  SequenceId id_ = 0;
  const int64_t max_unread_;
  mutable std::mutex mutex_;
  ForkCondition changed_;
  std::deque<DrawnToken> tokens_;
  std::optional<MaskAnswer> mask_;
  bool expects_mask_ = false;
  using Clock = std::chrono::steady_clock;
  const Clock::time_point submitted_ = Clock::now();
  std::optional<Clock::time_point> first_drawn_;
  Clock::time_point last_drawn_;
  std::atomic<Finish> finish_ = Finish::none;  // changes with the lock
  std::exception_ptr error_;
  const pid_t process_ = getpid();
  std::atomic<int64_t> n_cached_ = 0;
  std::vector<float> values_;  // written by the engine before finish()
  std::vector<TokenLogprob> scores_;
};

}  // namespace hrun
