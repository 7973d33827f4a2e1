#include "engine/scheduler.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <unordered_set>
#include <utility>

#include "base/error.h"

namespace hrun {
namespace {

// Clients that have nothing to do are remembered while they are ahead of the others, this many at
// most.
constexpr size_t kMaxAbsentClients = 10'000;

void require(bool rule, const char* what) {
  if (!rule) throw std::logic_error(std::string("scheduler: ") + what);
}

}  // namespace

std::string Refusal::text() const {
  switch (reason) {
    case Reason::empty:
      return "no tokens";
    case Reason::too_long:
      return message("needs {} positions, but a sequence can have {} at most", need, capacity);
    case Reason::queue_full:
      return message("{} sequences would wait, but the limit is {}", need, capacity);
    case Reason::tokens_full:
      return message("{} tokens would wait in {} sequences, but the limit is {}", need,
                     queue_length, capacity);
    case Reason::unknown:
      return "no such sequence";
  }
  return {};
}

Scheduler::Scheduler(const SchedulerOptions& options)
    : options_(options),
      checkpoints_(options.n_state_slots > 0 ? std::make_unique<StateCheckpoints>(
                                                   options.n_state_slots, options.state_grid)
                                             : nullptr),
      pool_(options.n_pages, checkpoints_.get(), options.hash_mask, options.rows) {
  const auto at_least_one = [](int64_t value, const char* name) {
    if (value < 1) throw ArgumentError("scheduler: {} is {}; expected 1 or more", name, value);
  };
  at_least_one(options.n_ctx, "n_ctx");
  at_least_one(options.max_running, "max_running");
  at_least_one(options.max_waiting, "max_waiting");
  at_least_one(options.min_chunk, "min_chunk");
  if (checkpoints_) options_.max_running = std::min(options_.max_running, options.n_state_slots);
}

int64_t Scheduler::capacity() const {
  return std::min(options_.n_ctx, pool_.n_pages() * kPagePositions);
}

Scheduler::Entry* Scheduler::find(SequenceId id) {
  const auto found = entries_.find(id);
  return found == entries_.end() ? nullptr : found->second.get();
}

Scheduler::Entry& Scheduler::entry(SequenceId id) {
  if (Entry* found = find(id)) return *found;
  throw ArgumentError("no sequence {}", id);
}

const Scheduler::Entry& Scheduler::entry(SequenceId id) const {
  return const_cast<Scheduler*>(this)->entry(id);
}

const Sequence& Scheduler::sequence(SequenceId id) const { return entry(id).sequence; }

void Scheduler::require_between_steps(const char* what) const {
  if (in_step_) throw ArgumentError("{} between plan() and commit()", what);
}

Refusal Scheduler::refuse(Refusal::Reason reason, int64_t need, int64_t capacity) const {
  return {reason, need, capacity, static_cast<int64_t>(waiting_.size())};
}

std::optional<Refusal> Scheduler::refuse_queue(int64_t n, int64_t n_tokens) const {
  const auto length = static_cast<int64_t>(waiting_.size()) + n;
  if (length > options_.max_waiting)
    return refuse(Refusal::Reason::queue_full, length, options_.max_waiting);
  const int64_t tokens = n_waiting_tokens_ + n_tokens;
  if (options_.max_waiting_tokens > 0 && tokens > options_.max_waiting_tokens)
    return refuse(Refusal::Reason::tokens_full, tokens, options_.max_waiting_tokens);
  return std::nullopt;
}

// Sequences and clients come and go.

Submitted Scheduler::submit(std::vector<int32_t> prompt, SequenceParameters parameters,
                            int64_t now_us) {
  if (parameters.max_tokens < 0)
    throw ArgumentError("max_tokens is {}; expected 0 or more", parameters.max_tokens);
  const auto n = static_cast<int64_t>(prompt.size());
  if (n == 0) return {0, refuse(Refusal::Reason::empty, 1, 0)};
  // The last token drawn is not computed.
  const int64_t n_drawn = std::max<int64_t>(0, parameters.max_tokens - 1);
  const int64_t need = n + std::min(n_drawn, std::numeric_limits<int64_t>::max() - n);
  if (need > capacity()) return {0, refuse(Refusal::Reason::too_long, need, capacity())};
  if (const auto refusal = refuse_queue(1, n)) return {0, refusal};

  Sequence sequence;
  sequence.wanted = parameters.logits;
  sequence.wanted_from = std::clamp<int64_t>(parameters.wanted_from, 0, n - 1);
  sequence.parameters = std::move(parameters);
  sequence.arrival_us = now_us;
  sequence.tokens = std::move(prompt);
  sequence.n_prompt = n;
  return {add(std::move(sequence)).sequence.id, std::nullopt};
}

Scheduler::Entry& Scheduler::add(Sequence sequence) {
  auto made = std::make_unique<Entry>();
  Entry& entry = *made;
  sequence.id = ++last_id_;
  entry.sequence = std::move(sequence);
  entries_.emplace(entry.sequence.id, std::move(made));
  waiting_.push_back(&entry);
  n_waiting_tokens_ += entry.sequence.size();
  join_client(entry);
  return entry;
}

void Scheduler::remove(Entry& entry) {
  if (is_running(entry)) stop(entry, true);
  std::erase(waiting_, &entry);
  n_waiting_tokens_ -= entry.sequence.size();
  leave_client(entry);
  entries_.erase(entry.sequence.id);
}

void Scheduler::join_client(Entry& entry) {
  Client& client = clients_[entry.sequence.parameters.client];
  if (client.n_sequences == 0) {
    double least = std::numeric_limits<double>::infinity();
    for (const auto& [key, other] : clients_)
      if (other.n_sequences > 0) least = std::min(least, other.served);
    if (least < std::numeric_limits<double>::infinity())
      client.served = std::max(client.served, least);
  }
  ++client.n_sequences;
  entry.client = &client;
}

void Scheduler::leave_client(Entry& entry) {
  if (--entry.client->n_sequences > 0) return;
  double least = std::numeric_limits<double>::infinity();
  size_t n_absent = 0;
  for (const auto& [key, client] : clients_) {
    if (client.n_sequences > 0)
      least = std::min(least, client.served);
    else
      ++n_absent;
  }
  // An absent client that was served no more than `least` need not be remembered: it would be
  // lifted to that when it comes back.
  std::erase_if(clients_, [&](const auto& item) {
    const Client& client = item.second;
    return client.n_sequences == 0 && (client.served <= least || n_absent > kMaxAbsentClients);
  });
}

void Scheduler::run(Entry& entry) {
  std::erase(waiting_, &entry);
  n_waiting_tokens_ -= entry.sequence.size();
  running_.push_back(&entry);
  entry.sequence.state = SequenceState::running;
  entry.prefix_wait_since_us = -1;
}

void Scheduler::stop(Entry& entry, bool state_valid) {
  Sequence& s = entry.sequence;
  if (s.state_slot >= 0) {
    // The state after the last position is a checkpoint for sequences that go on from there.
    const int64_t k = (s.n_computed - 1) / kPagePositions;
    const int64_t n = s.n_computed - k * kPagePositions;
    if (state_valid && s.n_computed > 0 &&
        static_cast<int64_t>(pool_.contents(s.pages[static_cast<size_t>(k)]).size()) >= n)
      checkpoints_->keep(s.state_slot, s.pages[static_cast<size_t>(k)], n);
    else
      checkpoints_->give_back(s.state_slot);
    s.state_slot = -1;
  }
  pool_.release(s.pages);
  s.n_computed = 0;
  entry.just_admitted = false;
  s.draft.clear();
  s.state = SequenceState::waiting;
  std::erase(running_, &entry);
  waiting_.push_back(&entry);
  n_waiting_tokens_ += s.size();
}

bool Scheduler::cancel(SequenceId id) {
  Entry* found = find(id);
  if (!found || found->cancelled) return false;
  if (!in_step_) {
    remove(*found);
    return true;
  }
  found->cancelled = true;
  cancelled_.push_back(id);
  return true;
}

Forked Scheduler::fork(SequenceId id, int64_t n, int64_t now_us) {
  const Entry* parent = find(id);
  if (!parent || parent->cancelled) return {{}, refuse(Refusal::Reason::unknown, 0, 0)};
  if (n < 1) throw ArgumentError("{} forks; expected 1 or more", n);
  const bool at_once =
      is_running(*parent) && static_cast<int64_t>(running_.size()) + n <= options_.max_running;
  if (!at_once)
    if (const auto refusal = refuse_queue(n, n * parent->sequence.size())) return {{}, refusal};

  Forked forked;
  for (int64_t i = 0; i < n; ++i) {
    const Sequence& from = parent->sequence;
    Sequence sequence;
    sequence.parameters = from.parameters;
    sequence.arrival_us = now_us;
    sequence.tokens = from.tokens;
    sequence.n_prompt = from.n_prompt;
    // The rows of a prompt are its own sequence's.
    sequence.wanted = from.wanted == LogitRows::none ? LogitRows::none : LogitRows::last;
    Entry& child = add(std::move(sequence));
    forked.ids.push_back(child.sequence.id);
    if (in_step_) {
      forks_.push_back({id, child.sequence.id});
      continue;
    }
    begin_fork(*parent, child);
    finish_fork(child);  // the parent's token may be late
  }
  return forked;
}

// If the parent is complete but for the last token, the child has the same pages.
void Scheduler::begin_fork(const Entry& parent, Entry& child) {
  const Sequence& from = parent.sequence;
  Sequence& to = child.sequence;
  const int64_t n = std::min(from.n_computed, to.size());
  if (child.cancelled || !is_running(parent) || n == 0 || n < to.size() - 1 ||
      static_cast<int64_t>(running_.size()) >= options_.max_running)
    return;
  if (checkpoints_) {
    if (n != from.n_computed) return;  // the parent took guesses
    to.state_slot = checkpoints_->take();
    if (to.state_slot < 0) return;
    state_copies_.push_back({from.state_slot, to.state_slot});
  }
  to.pages = pool_.fork(from.pages);
  pool_.truncate(to.pages, n);
  to.n_computed = to.n_done = to.n_cached = n;
  run(child);
}

void Scheduler::set_draft(SequenceId id, std::vector<int32_t> draft) {
  Entry& e = entry(id);
  require_between_steps("a draft");
  if (!checkpoints_ || options_.n_log_rows > 0) e.sequence.draft = std::move(draft);
}

void Scheduler::set_ready(SequenceId id, bool ready) { entry(id).ready = ready; }

std::optional<Refusal> Scheduler::append(SequenceId id, std::span<const int32_t> tokens,
                                         LogitRows logits) {
  Sequence& s = entry(id).sequence;
  require_between_steps("tokens appended");
  if (tokens.empty()) return refuse(Refusal::Reason::empty, 1, 0);
  const int64_t n = s.size() + static_cast<int64_t>(tokens.size());
  const int64_t need = n + std::max<int64_t>(0, s.parameters.max_tokens - 1);
  if (need > capacity()) return refuse(Refusal::Reason::too_long, need, capacity());
  if (s.state == SequenceState::waiting) n_waiting_tokens_ += static_cast<int64_t>(tokens.size());
  s.wanted = logits;
  s.wanted_from = s.size();
  s.tokens.insert(s.tokens.end(), tokens.begin(), tokens.end());
  s.n_prompt = n;
  s.draft.clear();
  return std::nullopt;
}

void Scheduler::truncate(SequenceId id, int64_t n) {
  Entry& e = entry(id);
  Sequence& s = e.sequence;
  require_between_steps("tokens cut");
  if (n < 1 || n > s.size())
    throw ArgumentError("sequence {} of {} tokens cut to {}; expected 1 to {}", id, s.size(), n,
                        s.size());
  if (is_running(e) && n < s.n_computed) {
    if (checkpoints_) {
      stop(e, true);  // it goes on from the last checkpoint
    } else {
      s.n_computed = n;
      pool_.truncate(s.pages, n);
    }
  }
  if (!is_running(e)) n_waiting_tokens_ -= s.size() - n;
  s.tokens.resize(static_cast<size_t>(n));
  s.n_prompt = n;
  s.n_done = std::min(s.n_done, n);
  s.wanted_from = std::min(s.wanted_from, n);
  s.draft.clear();
}

// The results of a step.

void Scheduler::check_results(const StepPlan& plan, std::span<const StepResult> results) const {
  if (!in_step_ || plan.number != step_)
    throw ArgumentError("results of step {}, but step {} is {}", plan.number, step_,
                        in_step_ ? "in progress" : "over");
  std::unordered_set<SequenceId> seen;
  for (const StepResult& result : results) {
    const Entry& e = entry(result.id);
    const Sequence& s = e.sequence;
    if (!seen.insert(result.id).second)
      throw ArgumentError("two results of sequence {}", result.id);
    const auto n = static_cast<int64_t>(result.tokens.size());
    if (n == 0) continue;
    const Fork* fork = fork_of(result.id);
    const Entry& planned = fork ? entry(fork->parent) : e;
    if (planned.span == 0) throw ArgumentError("tokens of sequence {} without rows", result.id);
    const Span& span = plan.spans[planned.span - 1];
    if (span.first + span.n_rows - span.n_draft != s.size())
      throw ArgumentError("tokens of sequence {} before it is complete", result.id);
    const int64_t n_draft = fork ? 0 : span.n_draft;
    if (n > n_draft + 1)
      throw ArgumentError("{} tokens of sequence {} with a draft of {}", n, result.id, n_draft);
    if (!std::equal(result.tokens.begin(), result.tokens.end() - 1, s.draft.begin()))
      throw ArgumentError("tokens of sequence {} that are not those of its draft", result.id);
    const int64_t left = s.n_prompt + s.parameters.max_tokens - s.size();
    if (n > left)
      throw ArgumentError("{} tokens of sequence {}, but only {} may be drawn", n, result.id, left);
  }
}

const Scheduler::Fork* Scheduler::fork_of(SequenceId child) const {
  const auto found = std::find_if(forks_.begin(), forks_.end(),
                                  [&](const Fork& fork) { return fork.child == child; });
  return found == forks_.end() ? nullptr : &*found;
}

void Scheduler::commit(const StepPlan& plan, std::span<const StepResult> results) {
  check_results(plan, results);
  for (const Span& span : plan.spans) {
    Sequence& s = entry(span.id).sequence;
    advance(s, span.first + span.n_rows - span.n_draft);
  }
  for (const StateSave& save : saves_) {
    const Sequence& s = sequence(save.id);
    const int64_t k = (save.position - 1) / kPagePositions;
    checkpoints_->keep(save.slot, s.pages[static_cast<size_t>(k)],
                       save.position - k * kPagePositions);
  }
  saves_.clear();
  for (const StepResult& result : results)
    if (!fork_of(result.id)) append_drawn(entry(result.id), result);
  for (const Span& span : plan.spans)
    if (span.state_to >= 0) settle_state(entry(span.id).sequence, span);
  for (const Fork& fork : forks_) begin_fork(entry(fork.parent), entry(fork.child));
  for (const StepResult& result : results)
    if (fork_of(result.id)) append_drawn(entry(result.id), result);
  for (const Fork& fork : forks_) finish_fork(entry(fork.child));
  for (const StepResult& result : results)
    if (result.finished) cancelled_.push_back(result.id);
  end_step(plan);
}

void Scheduler::advance(Sequence& s, int64_t end) {
  pool_.computed(s.pages, s.tokens, s.parameters.salt, s.n_computed, end);
  s.n_computed = end;
  s.n_done = std::max(s.n_done, end);
}

void Scheduler::append_drawn(Entry& entry, const StepResult& result) {
  Sequence& s = entry.sequence;
  if (result.tokens.empty() || entry.cancelled) return;
  s.tokens.insert(s.tokens.end(), result.tokens.begin(), result.tokens.end());
  if (!is_running(entry)) {  // a fork that found no place
    n_waiting_tokens_ += static_cast<int64_t>(result.tokens.size());
  } else {
    const auto n_accepted = static_cast<int64_t>(result.tokens.size()) - 1;
    advance(s, s.n_computed + n_accepted);
    stats_.n_draft_accepted += n_accepted;
  }
  s.wanted = LogitRows::last;
}

// The state behind all guesses, or that behind those that were accepted.
void Scheduler::settle_state(Sequence& s, const Span& span) {
  int32_t unused = span.state_to;
  if (const int64_t n = s.n_computed - span.first; n == span.n_rows)
    std::swap(s.state_slot, unused);
  else
    state_redos_.push_back({s.state_slot, span.log_row, n});
  checkpoints_->give_back(unused);
}

void Scheduler::append_late(const StepResult& result) {
  require_between_steps("a late token");
  Entry& e = entry(result.id);
  const Sequence& s = e.sequence;
  const auto n = static_cast<int64_t>(result.tokens.size());
  if (n > 1 || (n == 0 && !result.finished))
    throw ArgumentError("{} late tokens of sequence {}; expected 1", n, result.id);
  if (s.n_done < s.size())
    throw ArgumentError("a late token of sequence {} before it is complete", result.id);
  if (s.n_prompt + s.parameters.max_tokens - s.size() < n)
    throw ArgumentError("a late token of sequence {}, but none may be drawn", result.id);
  append_drawn(e, result);
  if (result.finished) remove(e);
}

// A fork without a token of its own computes the last position again.
void Scheduler::finish_fork(Entry& child) {
  Sequence& s = child.sequence;
  if (!is_running(child) || s.n_computed < s.size()) return;
  s.n_done = s.size() - 1;
  if (checkpoints_) return stop(child, false);
  s.n_computed = s.n_done;
  pool_.truncate(s.pages, s.n_computed);
}

void Scheduler::abandon(const StepPlan& plan) {
  check_results(plan, {});
  for (const StateSave& save : saves_) checkpoints_->give_back(save.slot);
  saves_.clear();
  // Copies may be undone and states half way on.
  for (const StateCopy& copy : plan.state_copies) checkpoints_->forget(copy.to);
  for (const StateRedo& redo : plan.state_redos) checkpoints_->forget(redo.slot);
  for (const Span& span : plan.spans)
    if (span.state_to >= 0) checkpoints_->give_back(span.state_to);
  const std::vector<Entry*> running = running_;
  for (Entry* e : running)
    if (e->span != 0 || e->just_admitted || checkpoints_) stop(*e, false);
  end_step(plan);
}

void Scheduler::end_step(const StepPlan& plan) {
  for (const Span& span : plan.spans) entry(span.id).span = 0;
  for (Entry* e : running_) {
    e->just_admitted = false;
    e->sequence.draft.clear();
  }
  forks_.clear();
  in_step_ = false;
  for (const SequenceId id : std::exchange(cancelled_, {}))
    if (Entry* e = find(id)) remove(*e);
}

SchedulerStats Scheduler::stats() const {
  SchedulerStats stats = stats_;
  stats.pool = pool_.stats();
  stats.n_running = static_cast<int64_t>(running_.size());
  stats.n_waiting = static_cast<int64_t>(waiting_.size());
  stats.n_waiting_tokens = n_waiting_tokens_;
  return stats;
}

void Scheduler::clear_cache() {
  require_between_steps("the cache cleared");
  pool_.clear_cache();
}

void Scheduler::check() const {
  pool_.check();
  std::vector<int64_t> n_holders(static_cast<size_t>(pool_.n_pages()));
  int64_t n_live = static_cast<int64_t>(saves_.size());
  for (const Entry* e : running_) {
    const Sequence& s = e->sequence;
    require(is_running(*e), "a waiting sequence among the running");
    require(s.n_computed <= static_cast<int64_t>(s.pages.size()) * kPagePositions &&
                s.n_computed <= s.size() && s.n_computed <= s.n_done,
            "positions without pages");
    require((s.state_slot >= 0) == (checkpoints_ != nullptr), "a state without a slot");
    n_live += s.state_slot >= 0;
    for (const PageId page : s.pages) ++n_holders[static_cast<size_t>(page)];
    if (in_step_) continue;
    for (int64_t k = 0; k < pages_of(s.n_computed); ++k) {
      const auto known = pool_.contents(s.pages[static_cast<size_t>(k)]);
      const int64_t first = k * kPagePositions;
      const int64_t n = std::min(kPagePositions, s.n_computed - first);
      require(static_cast<int64_t>(known.size()) >= n &&
                  std::equal(known.begin(), known.begin() + n, s.tokens.begin() + first),
              "a page of other tokens");
    }
  }
  for (PageId page = 0; page < pool_.n_pages(); ++page)
    require(n_holders[static_cast<size_t>(page)] == pool_.n_holders(page), "holders miscounted");
  require(!checkpoints_ || n_live == checkpoints_->n_live(), "a slot is lost");
  int64_t n_tokens = 0;
  for (const Entry* e : waiting_) {
    require(!is_running(*e) && e->sequence.pages.empty(), "a waiting sequence has pages");
    n_tokens += e->sequence.size();
  }
  require(n_tokens == n_waiting_tokens_, "waiting tokens miscounted");
  require(running_.size() + waiting_.size() == entries_.size(), "a sequence is lost");
}

}  // namespace hrun
