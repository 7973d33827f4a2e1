// The scheduler puts a step together here.
#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <tuple>

#include "base/error.h"
#include "engine/scheduler.h"

namespace hrun {
namespace {

// Waiting prompts that are looked up per step, while those before them wait for another's prefix.
constexpr int kMaxLookups = 32;
constexpr double kDrawnWeight = 2;  // a drawn token's row counts as two of a prompt
// Each prompt that waits besides the first makes a step longer by this part, up to the largest.
constexpr double kLongerPerPrompt = 0.25;
constexpr double kLongest = 2;

}  // namespace

class Scheduler::Planner {
 public:
  Planner(Scheduler& scheduler, const StepBudget& budget, int64_t now_us)
      : s_(scheduler), pool_(scheduler.pool_), budget_(budget), now_us_(now_us) {}

  StepPlan make() {
    plan_.number = s_.step_;
    plan_.state_copies = std::exchange(s_.state_copies_, {});
    plan_.state_redos = std::exchange(s_.state_redos_, {});
    rows_left_ = budget_.n_rows;
    pool_.trim_rows();
    go_back();
    find_least_served();
    n_prompts_ = count_prompts();
    const bool prompts = n_prompts_ > 0;
    plan_single_rows(prompts ? std::min(s_.options_.min_chunk, rows_left_ / 2) : 0);
    plan_drafts(prompts ? rows_left_ / 2 : 0);
    if (prompts) plan_prompts();
    finish();
    return std::move(plan_);
  }

 private:
  // Some sequences stand in a page whose rows are gone, because others went on from it meanwhile or
  // because they were cut.  They begin again at what is cached.
  void go_back() {
    const std::vector<Entry*> running = s_.running_;
    for (Entry* e : running)
      if (!pool_.can_go_on(e->sequence.pages, e->sequence.n_computed)) s_.stop(*e, true);
  }

  bool works(const Entry& e) const { return e.ready && e.sequence.has_work(); }
  static int64_t n_left(const Entry& e) { return e.sequence.size() - e.sequence.n_computed; }
  static bool single(const Entry& e) { return n_left(e) == 1; }
  bool aged(const Entry& e) const {
    return now_us_ - e.sequence.arrival_us >= s_.options_.max_wait_us;
  }
  static std::pair<int64_t, SequenceId> arrival(const Entry& e) {
    return {e.sequence.arrival_us, e.sequence.id};
  }
  // The sequence with the smaller rank keeps its pages longer.
  auto rank(const Entry& e) const {
    return std::tuple(!aged(e), aged(e) ? 0 : e.sequence.parameters.priority, arrival(e));
  }
  // The prompt with the smaller turn goes first.
  auto turn(const Entry& e) const {
    const bool old = aged(e);
    const double lead = static_cast<double>(s_.options_.lead_rows);
    return std::tuple(!old, old ? 0 : e.sequence.parameters.priority,
                      old ? 0 : std::max(0.0, e.client->served - least_served_ - lead), arrival(e));
  }

  void find_least_served() {
    least_served_ = std::numeric_limits<double>::infinity();
    for (const auto& [name, client] : s_.clients_)
      if (client.n_sequences > 0) least_served_ = std::min(least_served_, client.served);
  }

  int64_t count_prompts() const {
    return std::count_if(s_.running_.begin(), s_.running_.end(),
                         [&](const Entry* e) { return works(*e) && !single(*e); }) +
           std::count_if(s_.waiting_.begin(), s_.waiting_.end(),
                         [&](const Entry* e) { return works(*e); });
  }

  // Room for pages.

  const Entry* oldest() const {
    const Entry* oldest = nullptr;
    for (const Entry* e : s_.running_)
      if (works(*e) && (!oldest || arrival(*e) < arrival(*oldest))) oldest = e;
    return oldest;
  }

  // Finds the sequence whose pages `for_whom` may have.  It is one that has nothing to do, or else
  // the last in rank behind `for_whom`; the oldest may have everyone's.  A waiting sequence may
  // only displace lower classes.
  Entry* victim(const Entry& for_whom) {
    Entry* idle = nullptr;
    Entry* last = nullptr;
    const Entry* protected_one = oldest();
    for (Entry* e : s_.running_) {
      if (e == &for_whom || e == protected_one) continue;
      if (!works(*e)) {
        if (!idle || e->last_step < idle->last_step) idle = e;
        continue;
      }
      const bool may = s_.is_running(for_whom)
                           ? &for_whom == protected_one || rank(*e) > rank(for_whom)
                           : !aged(*e) && e->sequence.parameters.priority >
                                              for_whom.sequence.parameters.priority;
      if (may && (!last || rank(*e) > rank(*last))) last = e;
    }
    return idle ? idle : last;
  }

  bool preempt_for(const Entry& for_whom) {
    Entry* found = victim(for_whom);
    if (!found) return false;
    const bool planned = found->span != 0;
    if (planned) unplan(*found);
    s_.stop(*found, !planned && !found->just_admitted);
    ++found->sequence.n_preemptions;
    ++s_.stats_.n_preemptions;
    plan_.preempted.push_back(found->sequence.id);
    admit_ = false;
    return true;
  }

  // The sequence's copies stay in the plan: those behind them in the list make up for them.
  void unplan(Entry& e) {
    Span& span = plan_.spans[e.span - 1];
    rows_left_ += span.n_rows;
    plan_.n_rows -= span.n_rows;
    plan_.attended -= StepCost::attended_by(span.first, span.n_rows);
    span.n_rows = 0;  // finish() takes it out
    if (span.state_to >= 0) s_.checkpoints_->give_back(std::exchange(span.state_to, -1));
    e.span = 0;
    for (const StateSave& save : s_.saves_) {
      if (save.id != e.sequence.id) continue;
      std::erase_if(plan_.state_saves, [&](const StateCopy& c) { return c.to == save.slot; });
      s_.checkpoints_->give_back(save.slot);
    }
    std::erase_if(s_.saves_, [&](const StateSave& save) { return save.id == e.sequence.id; });
  }

  // Makes positions [n_computed, end) of a running sequence writable; returns how far that was
  // possible.
  int64_t reserve(Entry& e, int64_t end, bool displace) {
    Sequence& s = e.sequence;
    while (pool_.n_needed(s.pages, s.n_computed, end) > pool_.n_available())
      if (!displace || !preempt_for(e)) {
        // Try one page less, up to the end of a whole page.
        const int64_t fewer = (pages_of(end) - 1) * kPagePositions;
        if (fewer <= s.n_computed) return s.n_computed;
        end = fewer;
      }
    pool_.reserve(s.pages, s.n_computed, end, plan_.page_copies);
    return end;
  }

  // The rows of the step.

  void add_rows(Entry& e, int64_t n, int64_t n_draft, LogitRows logits) {
    const Sequence& s = e.sequence;
    if (e.span == 0) {
      plan_.spans.push_back({s.id, s.n_computed, 0, 0, LogitRows::none});
      e.span = plan_.spans.size();
    }
    Span& span = plan_.spans[e.span - 1];
    const int64_t first = span.first + span.n_rows;
    plan_.attended += StepCost::attended_by(first, n);
    plan_.n_rows += n;
    rows_left_ -= n;
    span.n_rows += n;
    span.n_draft += n_draft;
    span.logits = logits;
    // Rows that are computed again after a preemption are not the client's fault.
    const int64_t n_new = std::max<int64_t>(0, first + n - std::max(first, s.n_done));
    e.client->served += static_cast<double>(n_new) * (first >= s.n_prompt ? kDrawnWeight : 1);
    e.last_step = s_.step_;
  }

  void plan_single_rows(int64_t kept_for_prompts) {
    std::vector<Entry*> rows;
    for (Entry* e : s_.running_)
      if (works(*e) && single(*e)) rows.push_back(e);
    const int64_t n_most = rows_left_ - kept_for_prompts;
    if (static_cast<int64_t>(rows.size()) > n_most)
      std::sort(rows.begin(), rows.end(), [&](const Entry* a, const Entry* b) {
        return std::tuple(a->last_step, rank(*a)) < std::tuple(b->last_step, rank(*b));
      });
    else
      std::sort(rows.begin(), rows.end(),
                [&](const Entry* a, const Entry* b) { return rank(*a) < rank(*b); });
    for (Entry* e : rows) {
      if (plan_.n_rows >= n_most) break;
      if (!s_.is_running(*e)) continue;  // displaced by one before it
      const Sequence& s = e->sequence;
      if (reserve(*e, s.n_computed + 1, true) == s.n_computed) {
        admit_ = false;  // it waits for a page with those it has
        continue;
      }
      const bool none = s.wanted == LogitRows::none;
      add_rows(*e, 1, 0, none ? LogitRows::none : LogitRows::last);
    }
  }

  // Guesses take the rows and pages that are free: they displace nobody.
  void plan_drafts(int64_t kept_for_prompts) {
    for (Entry* e : s_.running_) {
      Sequence& s = e->sequence;
      if (e->span == 0 || s.draft.empty() || s.wanted == LogitRows::none) continue;
      // A guess at the last token that may be drawn is of no use.
      int64_t n_wished =
          std::min({static_cast<int64_t>(s.draft.size()), rows_left_ - kept_for_prompts,
                    s.n_prompt + s.parameters.max_tokens - s.size() - 1});
      if (s_.checkpoints_)  // a record for each row of the span
        n_wished = std::min(n_wished, s_.options_.n_log_rows - n_logged_ - 1);
      if (n_wished <= 0) continue;
      int64_t end = s.size() + n_wished;
      if (pool_.n_available() - pool_.n_needed(s.pages, s.n_computed, end) < watermark())
        end = std::min(end, static_cast<int64_t>(s.pages.size()) * kPagePositions);
      const int64_t n = reserve(*e, end, false) - s.size();
      if (n <= 0) continue;
      const int32_t state_to = s_.checkpoints_ ? s_.checkpoints_->take() : -1;
      if (s_.checkpoints_ && state_to < 0) continue;
      s.draft.resize(static_cast<size_t>(n));
      add_rows(*e, n, n, LogitRows::all);
      if (s_.checkpoints_) {
        Span& span = plan_.spans[e->span - 1];
        span.state_to = state_to, span.log_row = n_logged_;
        n_logged_ += span.n_rows;
      }
      s_.stats_.n_draft_rows += n;
    }
    for (Entry* e : s_.running_)
      if (e->span == 0 || plan_.spans[e->span - 1].n_draft == 0) e->sequence.draft.clear();
  }

  void plan_prompts() {
    n_rows_before_prompts_ = plan_.n_rows;
    seconds_ = seconds_with_prompts();
    const int64_t n_total = rows_for_prompts(0, rows_left_);
    const int64_t rows_at_end = plan_.n_rows + n_total;
    // In the first round no prompt takes more than half while another can go on.
    std::vector<Entry*> planned;
    std::vector<const Entry*> tried;
    int n_lookups = 0;
    while (plan_.n_rows < rows_at_end) {
      Entry* next = next_prompt(tried);
      if (!next) break;
      tried.push_back(next);
      if (!s_.is_running(*next)) {
        if (n_lookups++ >= kMaxLookups) {
          admit_ = false;
          continue;
        }
        const CachedPrefix prefix = cached_prefix(*next);
        if (waits_for_prefix(*next, prefix)) continue;
        if (!admit(*next, prefix)) {
          admit_ = false;
          continue;
        }
      }
      const bool alone = !next_prompt(tried);
      const int64_t most = alone ? n_total : std::max(kPagePositions, (n_total + 1) / 2);
      if (add_chunk(*next, std::min(most, rows_at_end - plan_.n_rows))) planned.push_back(next);
    }
    for (Entry* e : planned)
      if (plan_.n_rows < rows_at_end && e->span != 0) add_chunk(*e, rows_at_end - plan_.n_rows);
  }

  // How long a step with prompts may take.  Where several prompts wait it is longer.  Where the
  // rows that are planned already take long, a step may take twice that: a stream's gap at most
  // doubles, and a prompt does not wait for ever on a machine that reads its weights slowly.
  double seconds_with_prompts() const {
    if (!budget_.cost) return 0;
    const double longer = 1 + kLongerPerPrompt * static_cast<double>(n_prompts_ - 1);
    return std::max(budget_.seconds * std::min(longer, kLongest),
                    2 * budget_.cost->seconds(plan_.n_rows, plan_.attended));
  }

  // The number of rows that prompts may still take: as many as the time allows, and not fewer than
  // are missing to min_chunk.
  int64_t rows_for_prompts(int64_t first, int64_t at_most) const {
    if (!budget_.cost || budget_.seconds <= 0) return at_most;
    const StepCost& cost = *budget_.cost;
    int64_t n =
        cost.known() ? cost.rows_within(seconds_, plan_.n_rows, plan_.attended, first, at_most) : 0;
    n = std::min(n, cost.rows_believed() - plan_.n_rows);
    const int64_t n_planned = plan_.n_rows - n_rows_before_prompts_;
    const int64_t least = std::max<int64_t>(s_.options_.min_chunk - n_planned, 0);
    return std::clamp(n, std::min(least, at_most), at_most);
  }

  Entry* next_prompt(const std::vector<const Entry*>& tried) const {
    Entry* best = nullptr;
    const auto consider = [&](Entry* e) {
      if (!works(*e) || e->span != 0) return;
      if (std::find(tried.begin(), tried.end(), e) != tried.end()) return;
      if (!best || turn(*e) < turn(*best)) best = e;
    };
    for (Entry* e : s_.running_)
      if (!single(*e)) consider(e);
    if (admit_)
      for (Entry* e : s_.waiting_) consider(e);
    return best;
  }

  // Adds at most `most` rows of a running prompt; false if there is no room for one.
  bool add_chunk(Entry& e, int64_t most) {
    Sequence& s = e.sequence;
    const int64_t planned = e.span == 0 ? 0 : plan_.spans[e.span - 1].n_rows;
    const int64_t first = s.n_computed + planned;
    if (planned > 0 && !can_grow(e, first)) return false;
    most = rows_for_prompts(first, std::min(most, rows_left_));
    int64_t end = std::min(s.size(), first + most);
    if (first < s.first_wanted() && s.wanted == LogitRows::all)
      end = std::min(end, s.first_wanted());
    if (s_.checkpoints_)
      end =
          std::min(end, s_.checkpoints_->next_stop(first, end, s.n_prompt, s.parameters.turn_ends));
    if (end <= first) return false;
    end = reserve(e, end, true);
    if (end <= first) {
      admit_ = false;
      return false;
    }
    add_rows(e, end - first, 0, logits_of(s, first, end));
    if (s_.checkpoints_ &&
        s_.checkpoints_->worth_keeping(end, s.n_prompt, s.parameters.turn_ends) && end < s.size())
      if (const int32_t slot = s_.checkpoints_->take(); slot >= 0) {
        plan_.state_saves.push_back({s.state_slot, slot});
        s_.saves_.push_back({s.id, slot, end});
      }
    return true;
  }

  static LogitRows logits_of(const Sequence& s, int64_t first, int64_t end) {
    if (s.wanted == LogitRows::none || end <= s.first_wanted()) return LogitRows::none;
    return s.wanted == LogitRows::all && first >= s.first_wanted() ? LogitRows::all
                                                                   : LogitRows::last;
  }

  // A chunk grows only into rows of the same kind, and not past a checkpoint.
  bool can_grow(const Entry& e, int64_t first) const {
    const Sequence& s = e.sequence;
    if (first >= s.size()) return false;
    if (s_.checkpoints_ &&
        s_.checkpoints_->worth_keeping(first, s.n_prompt, s.parameters.turn_ends))
      return false;
    return s.wanted != LogitRows::all || plan_.spans[e.span - 1].first >= s.first_wanted() ||
           first < s.first_wanted();
  }

  // Admission.

  CachedPrefix cached_prefix(const Entry& e) const {
    const Sequence& s = e.sequence;
    int64_t at_most = std::min(s.size() - 1, s.first_wanted());
    if (!s.parameters.reuse_prefix) at_most = std::min(at_most, s.n_done);
    return pool_.lookup(s.tokens, s.parameters.salt, at_most);
  }

  bool waits_for_prefix(Entry& e, const CachedPrefix& prefix) {
    const Sequence& s = e.sequence;
    const int64_t have = prefix.n_positions();
    const int64_t most = std::min(s.size() - 1, s.first_wanted());
    if (!s.parameters.reuse_prefix || most < have + kPagePositions) return false;
    for (const Entry* other : s_.running_) {
      const Sequence& o = other->sequence;
      if (!works(*other) || single(*other) || o.parameters.salt != s.parameters.salt ||
          o.parameters.priority > s.parameters.priority)
        continue;
      int64_t shared =
          std::mismatch(s.tokens.begin(), s.tokens.begin() + most, o.tokens.begin(), o.tokens.end())
              .first -
          s.tokens.begin();
      if (s_.checkpoints_) shared -= shared % s_.checkpoints_->grid();
      if (shared < have + kPagePositions || o.n_computed >= shared) continue;
      if (e.prefix_wait_since_us < 0) e.prefix_wait_since_us = now_us_;
      return now_us_ - e.prefix_wait_since_us < s_.options_.prefix_wait_us;
    }
    return false;
  }

  int64_t watermark() const {
    return std::max(static_cast<int64_t>(s_.running_.size()),
                    static_cast<int64_t>(
                        std::ceil(s_.options_.watermark * static_cast<double>(pool_.n_pages()))));
  }

  // Pages that must be there before a sequence with this prefix begins.
  int64_t n_required(const Entry& e, const CachedPrefix& prefix) const {
    const int64_t own = pool_.n_unheld(prefix) + pages_of(e.sequence.size()) -
                        static_cast<int64_t>(prefix.pages.size());
    int64_t promised = 0;
    bool others = false;
    for (const Entry* other : s_.running_) {
      if (!works(*other)) continue;
      others = true;
      const Sequence& o = other->sequence;
      promised += std::max<int64_t>(0, pages_of(o.size()) - static_cast<int64_t>(o.pages.size()));
    }
    return others ? own + promised + watermark() : own;
  }

  bool admit(Entry& e, const CachedPrefix& prefix) {
    while (static_cast<int64_t>(s_.running_.size()) >= s_.options_.max_running)
      if (!preempt_for(e)) return false;
    while (n_required(e, prefix) > pool_.n_available())
      if (!preempt_for(e)) return false;
    Sequence& s = e.sequence;
    if (s_.checkpoints_) {
      // The state is in its slot before that can be given to another.
      const int32_t slot = s_.checkpoints_->take();
      if (slot < 0) return false;
      s.state_slot = slot;
      if (prefix.checkpoint != slot) plan_.state_copies.push_back({prefix.checkpoint, slot});
      if (prefix.checkpoint >= 0 && prefix.checkpoint != slot)
        s_.checkpoints_->touch(prefix.checkpoint);
    }
    pool_.take(prefix, s.size(), s.pages, plan_.page_copies);
    s.n_computed = prefix.n_positions();
    if (s.n_done == 0) s.n_cached = s.n_computed;
    s.n_done = std::max(s.n_done, s.n_computed);
    s_.run(e);
    e.just_admitted = true;
    return true;
  }

  void finish() {
    std::erase_if(plan_.spans, [](const Span& span) { return span.n_rows == 0; });
    for (size_t i = 0; i < plan_.spans.size(); ++i) {
      const Span& span = plan_.spans[i];
      Entry& e = s_.entry(span.id);
      e.span = i + 1;
      const int64_t n_prompt =
          std::clamp<int64_t>(e.sequence.n_prompt - span.first, 0, span.n_rows);
      s_.stats_.n_prompt_rows += n_prompt;
      s_.stats_.n_decode_rows += span.n_rows - n_prompt - span.n_draft;
    }
  }

  Scheduler& s_;
  PagePool& pool_;
  const StepBudget& budget_;
  int64_t now_us_;
  StepPlan plan_;
  int64_t rows_left_ = 0;
  int64_t n_prompts_ = 0;  // that wait for rows
  int64_t n_rows_before_prompts_ = 0;
  double seconds_ = 0;       // of a step with prompts
  double least_served_ = 0;  // of the clients that are present
  int64_t n_logged_ = 0;     // records of the redo log that the step writes
  bool admit_ = true;
};

StepPlan Scheduler::plan(const StepBudget& budget, int64_t now_us) {
  require_between_steps("another plan");
  if (budget.n_rows < 1)
    throw ArgumentError("a step of {} rows; expected 1 or more", budget.n_rows);
  in_step_ = true;
  ++step_;
  ++stats_.n_steps;
  return Planner(*this, budget, now_us).make();
}

}  // namespace hrun
