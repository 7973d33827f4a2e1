// The scheduler under random events: whatever is submitted, cancelled, forked, cut or finished, in
// whatever pool, every row reads the prefix it should, all pages are free in the end, and everybody
// gets what they asked for.
#include <algorithm>
#include <cstdio>
#include <optional>
#include <set>
#include <string>

#include "fake_executor.h"

namespace {

using namespace hrun;

struct World {
  const char* name;
  SchedulerOptions options;
  int64_t n_rows;  // of a step
  bool drafts = false;
  bool failures = false;  // steps that fail half way
  bool quiet = false;
  bool coded = false;  // pages lose their rows
};

class Simulation {
 public:
  Simulation(const World& world)
      : world_(world),
        scheduler_(options_of(world, executor_)),
        executor_(world.options.n_pages, world.options.n_state_slots, world.options.n_log_rows),
        capacity_(std::min(world.options.n_ctx, world.options.n_pages * kPagePositions)) {
    executor_.coded = world.coded;
    for (auto& text : texts_)
      for (int64_t n = 20 + random_below(capacity_); n > 0; --n)
        text.push_back(static_cast<int32_t>(random_below(FakeExecutor::kVocabulary)));
  }

  static SchedulerOptions options_of(const World& world, FakeExecutor& executor) {
    SchedulerOptions options = world.options;
    if (world.coded) options.rows = executor.page_rows();
    return options;
  }

  void run(int n_events) {
    for (int event = 0; event < n_events; ++event) {
      happen();
      if (random_below(3) == 0) step();
      if (event % 64 == 0) scheduler_.check();
    }
    for (auto& [id, client] : clients_) {
      client.held = false;
      scheduler_.set_ready(id, true);
    }
    int64_t n_idle = 0;
    while (!scheduler_.idle() && n_idle < 3) n_idle = step() ? 0 : n_idle + 1;
    check(scheduler_.idle(), "everything finishes");
    scheduler_.check();
    const SchedulerStats stats = scheduler_.stats();
    check(stats.pool.n_used == 0, "all pages are free at the end");
    check(clients_.empty(), "no sequence is left over");
    if (!world_.quiet)
      std::printf(
          "%-12s %5lld steps, %4lld preemptions, %6lld prompt rows, %6lld drawn, %5lld guesses "
          "(%lld "
          "right), %lld of %lld looked-up tokens cached, %lld evictions, %lld copies, %lld merged, "
          "%lld collisions, %lld refused, longest wait %.1f s\n",
          world_.name, ll(stats.n_steps), ll(stats.n_preemptions), ll(stats.n_prompt_rows),
          ll(stats.n_decode_rows), ll(stats.n_draft_rows), ll(stats.n_draft_accepted),
          ll(stats.pool.n_hits), ll(stats.pool.n_looked_up), ll(stats.pool.n_evictions),
          ll(stats.pool.n_copies), ll(stats.pool.n_duplicates), ll(stats.pool.n_hash_collisions),
          ll(n_refused_), static_cast<double>(longest_wait_us_) * 1e-6);
    check(longest_wait_us_ < world_.options.max_wait_us + 15'000'000, "nobody starves");
    scheduler_.clear_cache();
    check(executor_.n_pages_with_rows() == 0, "rows of no page are left over");
    check(scheduler_.stats().pool.n_empty == world_.options.n_pages, "the cache can be cleared");
    scheduler_.check();
  }

 private:
  static long long ll(int64_t n) { return n; }

  // The client's side of a sequence: the tokens that were asked for and those that came.
  struct ClientSide {
    std::vector<int32_t> prompt;
    LogitRows logits = LogitRows::last;
    int64_t max_tokens = 0;
    int64_t stop_after = 0;  // it ends before max_tokens
    int64_t submitted_us = 0;
    std::vector<int32_t> drawn;
    bool held = false;
    bool was_held = false;
    bool chat = false;  // goes on with more tokens when it is complete
    bool forked_in_step = false;
    bool late = false;  // its next token is drawn between steps
  };

  std::vector<int32_t> some_prompt() {
    const auto& text = texts_[static_cast<size_t>(random_below(4))];
    const int64_t n = 1 + random_below(static_cast<int64_t>(text.size()));
    std::vector<int32_t> prompt(text.begin(), text.begin() + n);
    for (int64_t more = random_below(40); more > 0; --more)
      prompt.push_back(static_cast<int32_t>(random_below(FakeExecutor::kVocabulary)));
    if (random_below(4) == 0 && !ended_.empty()) {  // the next turn of a conversation
      prompt = ended_[static_cast<size_t>(random_below(static_cast<int64_t>(ended_.size())))];
      prompt.push_back(1);
    }
    return prompt;
  }

  void submit() {
    ClientSide client;
    client.prompt = some_prompt();
    if (random_below(200) == 0) client.prompt.clear();
    client.max_tokens = random_below(80);
    client.stop_after = random_below(100);
    client.submitted_us = now_us_;
    SequenceParameters parameters;
    parameters.priority = static_cast<int32_t>(random_below(3));
    parameters.client = std::string("client ") + static_cast<char>('a' + random_below(4));
    parameters.salt = random_below(3) == 0 ? "other" : "";
    parameters.max_tokens = client.max_tokens;
    parameters.reuse_prefix = random_below(8) != 0;
    if (random_below(6) == 0) parameters.logits = LogitRows::all;
    if (client.max_tokens == 0 && random_below(2) == 0) parameters.logits = LogitRows::none;
    client.logits = parameters.logits;
    for (int64_t at = random_below(100); at < static_cast<int64_t>(client.prompt.size());
         at += 1 + random_below(200))
      parameters.turn_ends.push_back(at);

    const auto n = static_cast<int64_t>(client.prompt.size());
    const SchedulerStats before = scheduler_.stats();
    std::optional<Refusal::Reason> expected;
    const int64_t need = n + std::max<int64_t>(0, client.max_tokens - 1);
    const auto& o = world_.options;
    if (n == 0)
      expected = Refusal::Reason::empty;
    else if (need > capacity_)
      expected = Refusal::Reason::too_long;
    else if (before.n_waiting + 1 > o.max_waiting)
      expected = Refusal::Reason::queue_full;
    else if (o.max_waiting_tokens > 0 && before.n_waiting_tokens + n > o.max_waiting_tokens)
      expected = Refusal::Reason::tokens_full;
    const Submitted submitted = scheduler_.submit(client.prompt, parameters, now_us_);
    check(submitted.refusal.has_value() == expected.has_value(), "refused or not");
    if (submitted.refusal) {
      ++n_refused_;
      const Refusal& refusal = *submitted.refusal;
      check(submitted.id == 0 && refusal.reason == *expected, "the reason of a refusal");
      check(refusal.queue_length == before.n_waiting, "the queue's length in a refusal");
      if (*expected == Refusal::Reason::too_long)
        check(refusal.need == need && refusal.capacity == capacity_, "need and capacity");
      return;
    }
    clients_[submitted.id] = client;
  }

  SequenceId some_client() {
    if (clients_.empty()) return 0;
    auto found = clients_.begin();
    std::advance(found, random_below(static_cast<int64_t>(clients_.size())));
    return found->first;
  }

  void fork(SequenceId id, bool in_step) {
    const Sequence& s = scheduler_.sequence(id);
    ClientSide child = clients_.at(id);
    child.prompt = s.tokens;
    child.drawn.clear();
    child.max_tokens = s.n_prompt + s.parameters.max_tokens - s.size();
    child.logits = child.logits == LogitRows::none ? LogitRows::none : LogitRows::last;
    child.submitted_us = now_us_;
    child.held = false;
    child.late = false;
    child.forked_in_step = in_step;
    const SchedulerStats before = scheduler_.stats();
    const int64_t n = 1 + random_below(3);
    const Forked forked = scheduler_.fork(id, n, now_us_);
    check(forked.refusal ? forked.ids.empty() : static_cast<int64_t>(forked.ids.size()) == n,
          "all forks or none");
    if (forked.refusal)
      check(before.n_waiting + n > world_.options.max_waiting ||
                world_.options.max_waiting_tokens > 0,
            "a fork refused without need");
    for (const SequenceId child_id : forked.ids) clients_[child_id] = child;
  }

  void happen() {
    now_us_ += random_below(4000);
    switch (random_below(12)) {
      case 0:
      case 1:
      case 2:
      case 3:
        return submit();
      case 4:
        if (const SequenceId id = some_client()) {
          check(scheduler_.cancel(id), "a known sequence is cancelled");
          check(!scheduler_.cancel(id), "and only once");
          clients_.erase(id);
        }
        return;
      case 5:
        if (const SequenceId id = some_client(); id && random_below(2) == 0) fork(id, false);
        return;
      case 6:
        if (const SequenceId id = some_client(); id && random_below(3) == 0) {
          ClientSide& client = clients_.at(id);
          client.held = !client.held;
          client.was_held = true;
          scheduler_.set_ready(id, !client.held);
        }
        return;
      case 7:
        if (const SequenceId id = some_client(); id && random_below(4) == 0) cut(id);
        return;
      default:
        step();
    }
  }

  // The caller takes tokens back and goes on with others.
  void cut(SequenceId id) {
    const Sequence& s = scheduler_.sequence(id);
    ClientSide& client = clients_.at(id);
    if (client.logits == LogitRows::none) return;
    const int64_t n = 1 + random_below(s.size());
    scheduler_.truncate(id, n);
    std::vector<int32_t> more;
    for (int64_t i = 1 + random_below(30); i > 0; --i)
      more.push_back(static_cast<int32_t>(random_below(FakeExecutor::kVocabulary)));
    const bool fits =
        n + static_cast<int64_t>(more.size()) + std::max<int64_t>(0, s.parameters.max_tokens - 1) <=
        capacity_;
    const auto refusal = scheduler_.append(id, more);
    check(refusal.has_value() != fits, "appended if it fits");
    if (refusal) {
      scheduler_.cancel(id);
      clients_.erase(id);
      return;
    }
    client.prompt = scheduler_.sequence(id).tokens;
    client.max_tokens = scheduler_.sequence(id).parameters.max_tokens;
    client.logits = LogitRows::last;
    client.drawn.clear();
    client.late = false;
    executor_.delivered.erase(id);
  }

  // Draws some tokens that were not drawn in their steps; true if there were any.
  bool draw_late() {
    std::vector<StepResult> results;
    for (auto& [id, client] : clients_) {
      if (!client.late || random_below(2) == 0) continue;
      client.late = false;
      const auto& tokens = scheduler_.sequence(id).tokens;
      StepResult result{id, {}, false};
      if (random_below(20) == 0) {  // or it ends there
        result.finished = true;
      } else {
        result.tokens = {
            FakeExecutor::drawn(FakeExecutor::chain(tokens, static_cast<int64_t>(tokens.size())))};
        give(result, client);
      }
      results.push_back(result);
    }
    for (const StepResult& result : results) {
      scheduler_.append_late(result);
      if (result.finished) end(result.id);
    }
    return !results.empty();
  }

  bool step() {
    now_us_ += 10'000;
    const bool any_late =
        std::any_of(clients_.begin(), clients_.end(), [](const auto& c) { return c.second.late; });
    draw_late();
    if (world_.drafts)
      for (const auto& [id, client] : clients_) {
        const Sequence& s = scheduler_.sequence(id);
        if (s.state != SequenceState::running) continue;
        std::vector<int32_t> draft;
        uint64_t hash = FakeExecutor::chain(s.tokens, s.size());
        for (int64_t n = random_below(8); n > 0; --n) {
          draft.push_back(random_below(4) == 0 ? 0 : FakeExecutor::drawn(hash));
          hash = FakeExecutor::step(hash, draft.back());
        }
        scheduler_.set_draft(id, draft);
      }
    const StepPlan plan = scheduler_.plan({.n_rows = world_.n_rows}, now_us_);
    int64_t n_rows = 0;
    std::set<SequenceId> planned;
    for (const Span& span : plan.spans) {
      n_rows += span.n_rows;
      check(planned.insert(span.id).second, "one span for a sequence");
      check(!clients_.at(span.id).held, "a sequence that is not ready sits out");
      check(!clients_.at(span.id).late, "a sequence whose token is late sits out");
    }
    check(n_rows == plan.n_rows && n_rows <= world_.n_rows, "the step's rows");
    if (world_.failures && random_below(15) == 0) {
      executor_.run(scheduler_, plan, random_below(4));
      scheduler_.abandon(plan);
      return true;
    }
    executor_.run(scheduler_, plan);

    std::vector<StepResult> results;
    for (const Span& span : plan.spans) {
      const Sequence& s = scheduler_.sequence(span.id);
      if (span.first + span.n_rows - span.n_draft < s.size()) continue;
      if (random_below(40) == 0) fork(span.id, true);
    }
    if (SequenceId id = some_client(); id && random_below(20) == 0) {
      scheduler_.cancel(id);
      clients_.erase(id);
    }
    for (const Span& span : plan.spans) {
      const Sequence& s = scheduler_.sequence(span.id);
      if (span.first + span.n_rows - span.n_draft < s.size()) continue;
      StepResult result{span.id, {}, false};
      if (const auto found = clients_.find(span.id); found != clients_.end()) {
        ClientSide& client = found->second;
        client.late = client.max_tokens > 0 && span.n_draft == 0 && random_below(8) == 0;
        if (client.max_tokens > 0 && !client.late) result.tokens = executor_.draw(s, span);
        if (!client.late) give(result, client);
      }
      results.push_back(result);
    }
    // Forks of this step draw from the same row, or do not.
    for (auto& [id, client] : clients_) {
      if (!client.forked_in_step) continue;
      client.forked_in_step = false;
      if (random_below(3) == 0 || client.max_tokens == 0) continue;
      StepResult result{id, {}, false};
      const auto& tokens = scheduler_.sequence(id).tokens;
      result.tokens = {
          FakeExecutor::drawn(FakeExecutor::chain(tokens, static_cast<int64_t>(tokens.size())))};
      give(result, client);
      results.push_back(result);
    }
    scheduler_.commit(plan, results);
    for (const StepResult& result : results)
      if (result.finished) end(result.id);
    return !plan.empty() || any_late;
  }

  void give(StepResult& result, ClientSide& client) {
    client.drawn.insert(client.drawn.end(), result.tokens.begin(), result.tokens.end());
    const auto n = static_cast<int64_t>(client.drawn.size());
    check(n <= client.max_tokens, "no more tokens than asked for");
    result.finished = n >= client.max_tokens || n > client.stop_after;
  }

  void end(SequenceId id) {
    const auto found = clients_.find(id);
    if (found == clients_.end()) return;
    ClientSide& client = found->second;
    // The tokens are those that the prompt alone gives.
    uint64_t hash = FakeExecutor::chain(client.prompt, static_cast<int64_t>(client.prompt.size()));
    for (const int32_t token : client.drawn) {
      check(token == FakeExecutor::drawn(hash), "the tokens of the prompt alone");
      hash = FakeExecutor::step(hash, token);
    }
    if (client.logits == LogitRows::all) {
      const auto& rows = executor_.delivered[id].rows;
      const auto n = static_cast<int64_t>(client.prompt.size());
      bool once = static_cast<int64_t>(rows.size()) >= n;
      for (int64_t i = 0; once && i < n; ++i) once = rows[static_cast<size_t>(i)] == i;
      // A step that failed had handed out rows that did not count.
      check(once || world_.failures, "every row of the prompt once and in order");
    }
    check(!scheduler_.contains(id), "a finished sequence is gone");
    if (!client.was_held)
      longest_wait_us_ = std::max(longest_wait_us_, now_us_ - client.submitted_us);
    std::vector<int32_t> all = client.prompt;
    all.insert(all.end(), client.drawn.begin(), client.drawn.end());
    if (ended_.size() < 8) ended_.emplace_back();
    ended_[static_cast<size_t>(random_below(static_cast<int64_t>(ended_.size())))] = all;
    executor_.delivered.erase(id);
    clients_.erase(found);
  }

  World world_;
  Scheduler scheduler_;
  FakeExecutor executor_;
  int64_t capacity_;
  std::vector<int32_t> texts_[4];
  std::vector<std::vector<int32_t>> ended_;
  std::map<SequenceId, ClientSide> clients_;
  int64_t now_us_ = 0;
  int64_t n_refused_ = 0;
  int64_t longest_wait_us_ = 0;
};

}  // namespace

// A number of seeds, for long searches.
int main(int argc, char** argv) {
  const uint32_t n_seeds = argc > 1 ? static_cast<uint32_t>(std::stoul(argv[1])) : 2;
  const SchedulerOptions small{.n_ctx = 600, .n_pages = 12, .max_running = 8, .max_waiting = 24};
  SchedulerOptions roomy{.n_ctx = 500, .n_pages = 200, .max_running = 16, .max_waiting = 40};
  roomy.max_waiting_tokens = 4000;
  SchedulerOptions colliding = small;
  colliding.n_pages = 30;
  colliding.hash_mask = 1;
  SchedulerOptions recurrent = small;
  recurrent.n_pages = 24;
  recurrent.n_state_slots = 14;
  recurrent.state_grid = 128;
  SchedulerOptions tight = recurrent;
  tight.n_state_slots = 4;
  tight.n_pages = 10;
  SchedulerOptions guessing = recurrent;
  guessing.n_log_rows = 20;
  SchedulerOptions tight_guessing = tight;
  tight_guessing.n_log_rows = 100;
  SchedulerOptions impatient = small;
  impatient.max_wait_us = 300'000;
  impatient.prefix_wait_us = 50'000;
  const World worlds[] = {
      {"small", small, 48},
      {"roomy", roomy, 256},
      {"narrow", small, 3},
      {"impatient", impatient, 48},
      {"drafts", small, 40, true},
      {"failures", small, 64, true, true},
      {"collisions", colliding, 64, true},
      {"recurrent", recurrent, 96},
      {"few slots", tight, 64, false, true},
      {"guesses", guessing, 96, true},
      {"few, guesses", tight_guessing, 64, true, true},
      {.name = "coded", .options = small, .n_rows = 48, .drafts = true, .coded = true},
      {.name = "coded, failing",
       .options = colliding,
       .n_rows = 200,
       .drafts = true,
       .failures = true,
       .coded = true},
  };
  for (const World& world : worlds)
    for (uint32_t seed = 1; seed <= n_seeds; ++seed) {
      random_state = seed * 2654435761u + 1;
      try {
        World again = world;
        again.quiet = seed > 1;
        Simulation(again).run(10'000);
      } catch (const std::exception& e) {
        check(false, message("{} (seed {}): {}", world.name, seed, e.what()));
      }
    }
  return failures == 0 ? 0 : 1;
}
