#include "engine/session.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "engine/context.h"

namespace hrun {
namespace {

// The current state, three that were kept, and two for the redo log, which has room for the tokens
// since the older of them.
constexpr int64_t kRedoStates = 2, kStates = 4 + kRedoStates, kStateGrid = 512;
constexpr int64_t kLogRows = kRedoStates * Session::kRedoTokens;

}  // namespace

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options)
    : model_(std::move(model)),
      n_ctx_(context_size(text_model(*model_), options.n_ctx, options.n_batch)),
      cache_(*model_, cache_pages(n_ctx_), cache_type_named(options.type_k),
             cache_type_named(options.type_v), default_state_slots(*model_, kStates), kLogRows),
      pages_(consecutive_pages(n_ctx_)) {
  for (size_t d = 0; d < model_->n_backends(); ++d)
    workspaces_.emplace_back(*model_, d, std::min(options.n_batch, n_ctx_), n_ctx_);
  if (cache_.n_states() > 0) cache_.copy_state(-1, 0);
}

void Session::drop_oldest(bool for_redo) {
  const auto oldest = std::find_if(
      kept_.begin(), kept_.end(), [&](const KeptState& kept) { return kept.for_redo == for_redo; });
  if (oldest != kept_.end()) kept_.erase(oldest);
}

// A slot that nothing needs.  The oldest of the kept states makes room.
int32_t Session::free_slot(bool for_redo) {
  const int64_t n_at_most = for_redo ? kRedoStates : cache_.n_states() - 1 - kRedoStates;
  if (std::count_if(kept_.begin(), kept_.end(),
                    [&](const KeptState& kept) { return kept.for_redo == for_redo; }) >= n_at_most)
    drop_oldest(for_redo);
  int32_t slot = 0;
  while (slot == state_slot_ || std::any_of(kept_.begin(), kept_.end(), [&](const KeptState& kept) {
           return kept.slot == slot;
         }))
    ++slot;
  return slot;
}

void Session::keep_state() {
  if (state_at_ <= 0 || std::any_of(kept_.begin(), kept_.end(), [&](const KeptState& kept) {
        return kept.position == state_at_ && !kept.for_redo;
      }))
    return;
  const int32_t slot = free_slot(false);
  cache_.copy_state(state_slot_, slot);
  kept_.push_back({slot, state_at_});
}

// Restores the state at a position that start_before() gave.
void Session::restore_state(int64_t position) {
  if (cache_.n_states() == 0 || state_at_ == position) return;
  KeptState best{-1, reaches(0, position) ? 0 : -1};
  for (const KeptState& kept : kept_)
    if (kept.position > best.position && reaches(kept.position, position)) best = kept;
  if (best.position < log_from_ || position > log_end_) log_from_ = position;
  log_end_ = position;
  state_at_ = -1;
  cache_.redo_state(best.slot, state_slot_, best.position % kLogRows, position - best.position);
  state_at_ = position;
}

// Says where the records of a pass go, and which state it leaves behind for them.  `left`: tokens
// that come after it in other passes.
void Session::log_pass(RowSpan& span, int64_t left) {
  const int64_t at = span.first_position, end = span.end_position();
  int64_t newest = log_from_ == 0 ? 0 : -1;  // the state at 0 needs no slot
  for (const KeptState& kept : kept_)
    if (kept.for_redo && kept.position >= log_from_) newest = std::max(newest, kept.position);
  if (left < kRedoTokens && (newest < 0 || end + left - newest > kRedoTokens)) {
    span.kept = state_slot_;
    span.kept_at = std::max<int64_t>(0, span.n_rows + left - kRedoTokens);
    state_slot_ = span.state = free_slot(true);
  }
  span.log_row = static_cast<int32_t>(at % kLogRows);
  // What the pass writes takes the place of older records, even if it fails.
  const int64_t first = at + first_logged(span.kept >= 0, span.kept_at, span.n_rows, kLogRows);
  log_from_ = first > at ? first : std::max(log_from_, end - kLogRows);
  log_end_ = at;
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
  const auto consider = [&](int64_t from) {
    if (from < 0 || from > most) return;
    int64_t to = std::min(most, log_end_);
    if (!reaches(from, to)) to = from;
    if (!can_write(to)) to = std::max(from, to - to % kPagePositions);
    if (to > best && can_write(to)) best = to;
  };
  consider(0);
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
    rows_.add(tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(count)), at, pages_,
              state_slot_);
    wanted_.resize(static_cast<size_t>(wanted));
    std::iota(wanted_.begin(), wanted_.end(), static_cast<int32_t>(count - wanted));
    PassOutputs outputs;
    outputs.logit_rows = wanted_;
    if (wanted > 0 && which != Logits::kept)
      outputs.logits = logits + (which == Logits::all ? done * n_vocab : 0);
    state_at_ = -1;  // until all layers are done
    KeptState left_behind{-1, -1};
    if (has_states) {
      RowSpan& span = rows_.last();
      log_pass(span, n - done - count);
      left_behind = {span.kept, at + span.kept_at, true};
      if (left_behind.position == at && span.kept >= 0)
        kept_.push_back(std::exchange(left_behind, {-1, -1}));  // the pass does not touch it
    }
    hrun::forward(*model_, workspaces_, cache_, rows_.batch(), outputs, poll, observer,
                  states.from(done, model_->state_width()));
    model_->file().check_readable();  // weights may lie in it
    done += count;
    state_at_ = log_end_ = first + done;
    if (left_behind.slot >= 0) kept_.push_back(left_behind);
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
