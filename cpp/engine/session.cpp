#include "engine/session.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "engine/context.h"

namespace hrun {
namespace {

constexpr int64_t kKeptStates = 4, kStateGrid = 512;

}  // namespace

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options)
    : model_(std::move(model)),
      n_ctx_(context_size(text_model(*model_), options.n_ctx, options.n_batch)),
      cache_(*model_, cache_pages(n_ctx_), cache_type_named(options.type_k),
             cache_type_named(options.type_v), default_state_slots(*model_, kKeptStates)),
      pages_(consecutive_pages(n_ctx_)) {
  for (size_t d = 0; d < model_->n_backends(); ++d)
    workspaces_.emplace_back(*model_, d, std::min(options.n_batch, n_ctx_), n_ctx_);
  if (cache_.n_states() > 0) cache_.copy_state(-1, 0);
}

void Session::keep_state() {
  if (state_at_ <= 0 || std::any_of(kept_.begin(), kept_.end(), [&](const KeptState& kept) {
        return kept.position == state_at_;
      }))
    return;
  if (static_cast<int64_t>(kept_.size()) + 1 == cache_.n_states()) kept_.erase(kept_.begin());
  int32_t slot = 1;
  while (std::any_of(kept_.begin(), kept_.end(),
                     [&](const KeptState& kept) { return kept.slot == slot; }))
    ++slot;
  cache_.copy_state(0, slot);
  kept_.push_back({slot, state_at_});
}

// Restores the state at a position that start_before() gave.
void Session::restore_state(int64_t position) {
  if (cache_.n_states() == 0 || state_at_ == position) return;
  const auto kept = std::find_if(kept_.begin(), kept_.end(), [&](const KeptState& state) {
    return state.position == position;
  });
  cache_.copy_state(kept == kept_.end() ? -1 : kept->slot, 0);
  state_at_ = position;
}

// A coded page can be cut where its rows are kept, else only at its beginning.
bool Session::can_write(int64_t position) const {
  return position % kPagePositions == 0 ||
         cache_.keeps_rows(pages_[static_cast<size_t>(position / kPagePositions)]);
}

// The last position up to `most` from which a pass can go on.
int64_t Session::start_before(int64_t most) const {
  if (cache_.n_states() == 0) return can_write(most) ? most : most - most % kPagePositions;
  int64_t best = 0;
  const auto consider = [&](int64_t position) {
    if (position > best && position <= most && can_write(position)) best = position;
  };
  consider(state_at_);
  for (const KeptState& kept : kept_) consider(kept.position);
  return best;
}

size_t Session::memory_bytes() const {
  size_t bytes = cache_.bytes();
  for (const Workspace& w : workspaces_) bytes += w.bytes();
  return bytes;
}

void Session::forward(std::span<const int32_t> tokens, Logits which,
                      const std::function<void()>& poll, MatmulObserver* observer,
                      LayerStates states) {
  const int64_t n_vocab = model_->params().n_vocab;
  const auto n = static_cast<int64_t>(tokens.size());
  if (states.in && n_past_ > 0)
    throw ArgumentError("a part of a model takes states at position 0, the session stands at {}",
                        n_past_);
  check_tokens(*model_, tokens);
  if (n > n_ctx_ - n_past_)
    throw ContextOverflowError("{} tokens do not fit: the context holds {} and {} are in use", n,
                               n_ctx_, n_past_);

  const int64_t rows = which == Logits::none || which == Logits::kept || n == 0 ? 0
                       : which == Logits::last                                  ? 1
                                                                                : n;
  logits_.resize(static_cast<size_t>(rows * n_vocab));
  if (n > 0) {
    forget_states_beyond(n_past_);  // of a pass that failed
    n_computed_ = start_before(std::min(n_computed_, n_past_));
    restore_state(n_computed_);
    pass(std::span<const int32_t>(tokens_).subspan(static_cast<size_t>(n_computed_)), n_computed_,
         Logits::none, nullptr, poll, nullptr, {});
    if (n > 1) keep_state();  // a prompt: what comes before it may be gone on from again
  }
  pass(tokens, n_past_, which, logits_.data(), poll, observer, states);
  logits_kept_ = which == Logits::kept && n > 0;
  // The tokens count only now: an exception above leaves the position where it was.
  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  n_past_ += n;
  if (n > 0) n_computed_ = n_past_;
}

// Computes the tokens at positions `first` on.
void Session::pass(std::span<const int32_t> tokens, int64_t first, Logits which, float* logits,
                   const std::function<void()>& poll, MatmulObserver* observer,
                   LayerStates states) {
  const int64_t n_vocab = model_->params().n_vocab;
  const auto n = static_cast<int64_t>(tokens.size());
  const bool has_states = cache_.n_states() > 0;
  for (int64_t done = 0; done < n;) {
    const int64_t at = first + done;
    int64_t count = std::min(workspaces_.front().max_tokens(), n - done);
    if (has_states) count = std::min(count, (at / kStateGrid + 1) * kStateGrid - at);
    const bool is_last = done + count == n;
    const int64_t wanted = which == Logits::all ? count : which != Logits::none && is_last ? 1 : 0;
    rows_.clear();
    rows_.add(tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(count)), at, pages_, 0);
    wanted_.resize(static_cast<size_t>(wanted));
    std::iota(wanted_.begin(), wanted_.end(), static_cast<int32_t>(count - wanted));
    PassOutputs outputs;
    outputs.logit_rows = wanted_;
    if (wanted > 0 && which != Logits::kept)
      outputs.logits = logits + (which == Logits::all ? done * n_vocab : 0);
    state_at_ = -1;  // until all layers are done
    hrun::forward(*model_, workspaces_, cache_, rows_.batch(), outputs, poll, observer,
                  states.from(done, model_->state_width()));
    model_->file().check_readable();  // weights may lie in it
    done += count;
    state_at_ = first + done;
    if (has_states && state_at_ % kStateGrid == 0) keep_state();
  }
}

int64_t Session::truncate(int64_t n) {
  if (n < 0 || n > n_past_)
    throw ArgumentError("cannot truncate to position {}, the session stands at {}", n, n_past_);
  n_past_ = n;
  tokens_.resize(static_cast<size_t>(n));
  n_computed_ = std::min(n_computed_, n);
  forget_states_beyond(n);
  return start_before(n_computed_);
}

void Session::pretend(int64_t n) {
  constexpr int64_t kRead = 4;  // pages; of the last two the cache keeps what is not coded yet
  const int64_t first = n_past_ / kPagePositions;
  if (n_past_ % kPagePositions != 0 || first < kRead || n % kPagePositions != 0 || n < n_past_ ||
      n > n_ctx_ || cache_.n_states() > 0)
    throw ArgumentError(
        "a session can pretend to stand at whole pages of {} positions, from {} of them to its "
        "context of {}, without recurrent layers; it stands at {}, asked for {}",
        kPagePositions, kRead, n_ctx_, n_past_, n);
  for (int64_t page = first; page < n / kPagePositions; ++page)
    cache_.copy_page(pages_[1], pages_[static_cast<size_t>(page)], kPagePositions);
  tokens_.resize(static_cast<size_t>(n));
  n_past_ = n_computed_ = n;
}

int32_t Session::next(std::span<const int32_t> tokens, Sampler& sampler,
                      const std::function<void()>& poll) {
  const size_t device = model_->runs().back().device;
  Backend& head = model_->backend(device);
  if (!head.samples() || !sampler.runs_on_device()) {
    forward(tokens, Logits::last, poll);
    return cache_.drawing([&] { return sampler.sample(last_logits()); });
  }
  const int64_t n_vocab = model_->params().n_vocab;
  const std::vector<SampleEdit> edits = sampler.edits(n_vocab);
  forward(tokens, Logits::kept, poll);
  if (!logits_kept_) return sampler.sample(last_logits());  // no tokens: says so
  return cache_.drawing([&] {
    return draw_on_device(head, workspaces_[device].logits.data, n_vocab, sampler, edits);
  });
}

std::span<const float> Session::last_logits() {
  const auto n_vocab = static_cast<size_t>(model_->params().n_vocab);
  if (logits_kept_) {
    const size_t device = model_->runs().back().device;
    logits_.resize(n_vocab);
    model_->backend(device).read(
        workspaces_[device].logits.data,
        {reinterpret_cast<uint8_t*>(logits_.data()), n_vocab * sizeof(float)});
    logits_kept_ = false;
  }
  if (logits_.size() < n_vocab)
    throw ArgumentError("no logits: the last forward() was asked for none");
  return std::span<const float>(logits_).last(n_vocab);
}

}  // namespace hrun
