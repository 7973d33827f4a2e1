// The scheduler's promises, one by one; engine_random.cpp tries them together.
#include "engine/scheduler.h"

#include <cstdio>
#include <functional>
#include <string>

#include "fake_executor.h"

namespace {

using namespace hrun;

std::vector<int32_t> text(int64_t n, int32_t seed) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < n; ++i) tokens.push_back(static_cast<int32_t>(seed * 1000 + i % 7));
  return tokens;
}

// A scheduler, its executor and a clock; sequences end at max_tokens.
struct Bench {
  explicit Bench(const SchedulerOptions& o) : scheduler(o), executor(o.n_pages, o.n_state_slots) {}

  SequenceId submit(std::vector<int32_t> prompt, int64_t max_tokens,
                    SequenceParameters parameters = {}) {
    parameters.max_tokens = max_tokens;
    const Submitted submitted = scheduler.submit(std::move(prompt), parameters, now_us);
    check(!submitted.refusal, "accepted");
    return submitted.id;
  }

  // Runs one step of 10 ms; in_step is called while it runs.
  StepPlan step(const std::function<void()>& in_step = {}) {
    now_us += 10'000;
    const StepPlan plan = scheduler.plan(budget, now_us);
    executor.run(scheduler, plan);
    if (in_step) in_step();
    std::vector<StepResult> results = extra;
    extra.clear();
    for (const Span& span : plan.spans) {
      const Sequence& s = scheduler.sequence(span.id);
      if (span.first + span.n_rows - span.n_draft < s.size()) continue;
      StepResult result{span.id, {}, false};
      if (s.parameters.max_tokens > 0) result.tokens = executor.draw(s, span);
      result.finished = s.size() + static_cast<int64_t>(result.tokens.size()) >=
                        s.n_prompt + s.parameters.max_tokens;
      results.push_back(result);
    }
    scheduler.commit(plan, results);
    scheduler.check();
    for (const StepResult& result : results)
      if (result.finished) finished[result.id] = now_us;
    return plan;
  }
  int64_t finish(int64_t at_most = 100'000) {
    int64_t n = 0;
    while (!scheduler.idle() && n < at_most) step(), ++n;
    check(scheduler.idle(), "everything finishes");
    return n;
  }
  int64_t rows(SequenceId id) { return executor.delivered[id].n_rows; }

  Scheduler scheduler;
  FakeExecutor executor;
  StepBudget budget{.n_rows = 256};
  int64_t now_us = 0;
  std::vector<StepResult> extra;
  std::map<SequenceId, int64_t> finished;
};

const SchedulerOptions kRoomy{.n_ctx = 8192, .n_pages = 1024};

const Span* span_of(const StepPlan& plan, SequenceId id) {
  for (const Span& span : plan.spans)
    if (span.id == id) return &span;
  return nullptr;
}
int64_t rows_of(const StepPlan& plan, SequenceId id) {
  const Span* span = span_of(plan, id);
  return span ? span->n_rows : 0;
}

void refusals_are_exact() {
  SchedulerOptions options{.n_ctx = 1000, .n_pages = 10, .max_waiting = 3};
  options.max_waiting_tokens = 700;
  Scheduler scheduler(options);
  const auto refusal = [&](int64_t n, int64_t max_tokens) {
    SequenceParameters parameters;
    parameters.max_tokens = max_tokens;
    return scheduler.submit(text(n, 1), parameters, 0).refusal;
  };
  check(refusal(0, 1)->reason == Refusal::Reason::empty, "an empty prompt");
  auto refused = refusal(641, 0);
  check(refused && refused->reason == Refusal::Reason::too_long && refused->need == 641 &&
            refused->capacity == 640,
        "a prompt longer than the pool");
  refused = refusal(600, 42);
  check(refused && refused->need == 641, "with what may be drawn");
  check(refused->text() == "needs 641 positions, but a sequence can have 640 at most", "its text");
  check(refusal(600, INT64_MAX)->reason == Refusal::Reason::too_long, "without overflow");
  check(!refusal(600, 41), "just fitting: the last token drawn needs no position");
  refused = refusal(101, 1);
  check(refused && refused->reason == Refusal::Reason::tokens_full && refused->need == 701 &&
            refused->capacity == 700 && refused->queue_length == 1,
        "too many tokens wait");
  check(!refusal(50, 1) && !refusal(50, 1), "three wait");
  refused = refusal(1, 1);
  check(refused && refused->reason == Refusal::Reason::queue_full && refused->need == 4 &&
            refused->capacity == 3 && refused->queue_length == 3,
        "a full queue");
  check(refused->text() == "4 sequences would wait, but the limit is 3", "its text");
  check(scheduler.fork(1, 1, 0).refusal->reason == Refusal::Reason::queue_full, "forks too");
  check(scheduler.fork(77, 1, 0).refusal->reason == Refusal::Reason::unknown, "unknown");
  SchedulerOptions short_context = options;
  short_context.n_ctx = 100;
  Scheduler other(short_context);
  SequenceParameters parameters;
  check(other.submit(text(101, 1), parameters, 0).refusal->capacity == 100, "the context's length");
}

void running_ones_go_first_and_prompts_share() {
  Bench bench(kRoomy);
  const SequenceId stream = bench.submit(text(30, 1), 200);
  bench.step();
  const SequenceId a = bench.submit(text(4096, 2), 1), b = bench.submit(text(4096, 3), 1);
  int64_t n = 0;
  while (!bench.finished.contains(a)) {
    const StepPlan plan = bench.step();
    ++n;
    check(plan.spans[0].id == stream && plan.spans[0].n_rows == 1,
          "a stream has a row in each step");
    check(plan.n_rows <= 256, "the budget holds");
    if (n < 30) {
      check(rows_of(plan, a) >= 64 && rows_of(plan, a) <= 128, "a long prompt takes half");
      check(rows_of(plan, b) >= 64, "so that another gets on");
      check(plan.n_rows == 256, "no row is left unused");
    }
  }
  // A short prompt does not wait for long ones.
  const SequenceId c = bench.submit(text(4000, 4), 1), d = bench.submit(text(20, 5), 1);
  const int64_t asked = bench.now_us;
  bench.finish();
  check(bench.finished[d] - asked <= 30'000, "a short prompt is through at once");
  check(bench.finished[c] > bench.finished[d], "before a long one");
  (void)b;
}

void one_prompt_has_all() {
  Bench bench(kRoomy);
  const SequenceId id = bench.submit(text(1000, 2), 1);
  check(rows_of(bench.step(), id) == 256, "a single prompt takes the whole step");
}

void classes_and_age() {
  SchedulerOptions options = kRoomy;
  options.max_running = 1;
  options.max_waiting = 2000;
  options.max_wait_us = 1'000'000;
  Bench bench(options);
  SequenceParameters low, high;
  low.priority = 1;
  // Before it is old a lower class waits while a higher one always has somebody waiting.
  bench.now_us = 5'000'000;
  const SequenceId waits = bench.submit(text(10, 1), 3, low);
  for (int i = 0; i < 300 && !bench.finished.contains(waits); ++i) {
    bench.submit(text(10, 2), 2, high);
    bench.step();
  }
  check(bench.finished.contains(waits), "a low class does not starve");
  check(bench.finished[waits] >= 6'000'000, "but waits for higher ones");
  check(bench.finished[waits] <= 6'200'000, "until it is old, and not longer");
}

void clients_share() {
  SchedulerOptions options = kRoomy;
  options.max_running = 2;
  options.max_waiting = 2000;
  SequenceParameters greedy, modest;
  greedy.client = "greedy";
  modest.client = "modest";
  std::vector<SequenceId> many, few;
  // The number of the greedy one's sequences that finish before the last of the other's.
  const auto n_before = [&](int64_t lead_rows) {
    options.lead_rows = lead_rows;
    Bench bench(options);
    bench.budget.n_rows = 64;
    many.clear();
    few.clear();
    for (int i = 0; i < 60; ++i) many.push_back(bench.submit(text(200, 10 + i), 5, greedy));
    for (int i = 0; i < 10; ++i) few.push_back(bench.submit(text(200, 100 + i), 5, modest));
    bench.finish();
    int64_t last_few = 0, n = 0;
    for (const SequenceId id : few) last_few = std::max(last_few, bench.finished[id]);
    for (const SequenceId id : many) n += bench.finished[id] <= last_few;
    return n;
  };
  const int64_t n_alike = n_before(0);
  check(n_alike >= 8 && n_alike <= 13, "as many of the one as of the other");
  // A sequence is served 208 rows; equals go in the order in which they came.
  const int64_t n_ahead = n_before(1040) - n_alike;
  check(n_ahead >= 4 && n_ahead <= 6, "besides those by which one may be ahead");
  options.lead_rows = 0;

  // Idle time is not saved up: a client that comes back begins level with the others.
  Bench back(options);
  back.budget.n_rows = 64;
  const SequenceId early = back.submit(text(200, 1), 5, modest);
  back.finish();
  check(back.finished.contains(early), "finished");
  many.clear();
  few.clear();
  for (int i = 0; i < 40; ++i) many.push_back(back.submit(text(200, 10 + i), 5, greedy));
  for (int i = 0; i < 60; ++i) back.step();
  for (int i = 0; i < 20; ++i) few.push_back(back.submit(text(200, 100 + i), 5, modest));
  int64_t n_greedy = 0;
  for (const SequenceId id : many) n_greedy += back.finished.contains(id);
  while (!back.finished.contains(few[9])) back.step();
  int64_t n_greedy_since = -n_greedy;
  for (const SequenceId id : many) n_greedy_since += back.finished.contains(id);
  check(n_greedy_since >= 7, "the other goes on meanwhile");
}

// A client with one long prompt behind it has its next answer begin when its turn comes.
void equals_go_in_order() {
  SchedulerOptions options = kRoomy;
  options.max_running = 2;
  Bench bench(options);
  bench.budget.n_rows = 64;
  SequenceParameters one, other;
  one.client = "one";
  other.client = "other";
  bench.submit(text(900, 2), 1, one);
  const SequenceId next = bench.submit(text(50, 3), 1, one);
  std::vector<SequenceId> later;
  for (int i = 0; i < 20; ++i) later.push_back(bench.submit(text(50, 10 + i), 1, other));
  bench.finish();
  int64_t n_before = 0;
  for (const SequenceId id : later) n_before += bench.finished[id] < bench.finished[next];
  check(n_before == 0, "none that came later overtakes it");
}

// Eight clients of four users, each of whom asks again at once, on a machine with the costs of one
// that was measured.
struct Waits {
  std::vector<double> first;  // seconds until the first token, ascending
  double longest_gap = 0;
  double seconds = 0, rows_seconds = 0;  // of all steps, and of that for rows alone
};

Waits waits_of_clients(int64_t lead_rows, int n_rounds) {
  Waits waits;
  uint64_t drawn = 1;
  const auto draw = [&] {
    return (drawn = drawn * 6364136223846793005u + 1442695040888963407u) >> 40;
  };
  for (int round = 0; round < n_rounds; ++round) {
    SchedulerOptions options = kRoomy;
    options.lead_rows = lead_rows;
    Scheduler scheduler(options);
    StepCost cost;
    struct Asked {
      double at = 0, last = -1;
      int n = 0;
    };
    std::map<SequenceId, Asked> asked;
    double now = 0;
    int n_asked = 0;
    const auto ask = [&] {
      if (n_asked == 32) return;
      SequenceParameters parameters;
      parameters.client = std::to_string(n_asked++ % 4);
      parameters.max_tokens = 64;
      std::vector<int32_t> prompt(draw() % 4 ? 64 : 512);
      for (int32_t& token : prompt) token = static_cast<int32_t>(draw() & 0xffff);
      asked[scheduler.submit(prompt, parameters, static_cast<int64_t>(now * 1e6)).id].at = now;
    };
    for (int i = 0; i < 8; ++i) ask();
    while (!asked.empty()) {
      const StepBudget budget{.n_rows = 512, .seconds = 0.05, .cost = &cost};
      const StepPlan plan = scheduler.plan(budget, static_cast<int64_t>(now * 1e6));
      const double rows_seconds = 0.0017 * static_cast<double>(plan.n_rows);
      const double seconds = 0.006 + rows_seconds;
      waits.rows_seconds += rows_seconds;
      cost.observe(plan.n_rows, plan.attended, seconds);
      now += seconds;
      std::vector<StepResult> results;
      int n_finished = 0;
      for (const Span& span : plan.spans) {
        if (span.first + span.n_rows < scheduler.sequence(span.id).size()) continue;
        Asked& one = asked[span.id];
        if (one.last < 0) waits.first.push_back(now - one.at);
        if (one.last >= 0) waits.longest_gap = std::max(waits.longest_gap, now - one.last);
        one.last = now;
        const bool finished = ++one.n == 40;
        results.push_back({span.id, {static_cast<int32_t>(draw() & 0xffff)}, finished});
        if (finished) asked.erase(span.id);
        n_finished += finished;
      }
      scheduler.commit(plan, results);
      for (int i = 0; i < n_finished; ++i) ask();
    }
    waits.seconds += now;
  }
  std::sort(waits.first.begin(), waits.first.end());
  return waits;
}

void many_clients_wait_little() {
  const Waits strict = waits_of_clients(0, 20);
  const Waits waits = waits_of_clients(SchedulerOptions{}.lead_rows, 20);
  const auto p99 = [](const Waits& w) { return w.first[w.first.size() * 99 / 100]; };
  check(waits.first.size() == 640, "all are answered");
  check(p99(waits) < 0.95 * p99(strict), "strict shares make some wait longer");
  // Twice 50 ms, which no step passes by more than a row that the model of costs is wrong about.
  check(waits.longest_gap < 0.102, "no gap is longer than a long step");
  // Of a step of 50 ms 6 are fixed.
  check(waits.seconds < waits.rows_seconds * 50 / 44, "steps are large where prompts wait");
}

void equal_prompts_are_computed_once() {
  Bench bench(kRoomy);
  std::vector<SequenceId> ids;
  for (int i = 0; i < 8; ++i) ids.push_back(bench.submit(text(1000, 1), 4));
  bench.finish();
  int64_t n_rows = 0;
  for (const SequenceId id : ids) n_rows += bench.rows(id);
  check(n_rows <= 1000 + 7 + 8 * 3, "the prompt once, and a last token for each");

  // The wait is not longer than allowed, even if the sequence that computes the prompt sits out.
  SchedulerOptions options = kRoomy;
  options.prefix_wait_us = 500'000;
  Bench bounded(options);
  const SequenceId stuck = bounded.submit(text(1000, 1), 4);
  bounded.step();
  bounded.scheduler.set_ready(stuck, false);
  const SequenceId other = bounded.submit(text(1000, 1), 4);
  while (!bounded.finished.contains(other) && bounded.now_us < 2'000'000) bounded.step();
  check(bounded.finished.contains(other), "it does not wait for one that sits out");
  bounded.scheduler.cancel(stuck);

  // A higher class does not wait for a lower one's chunks.
  Bench classes(kRoomy);
  SequenceParameters low;
  low.priority = 5;
  classes.submit(text(4000, 1), 1, low);
  classes.step();
  const SequenceId high = classes.submit(text(4000, 1), 1);
  check(rows_of(classes.step(), high) > 0, "a higher class begins at once");
}

void most_of_a_long_prompt_is_cached() {
  Bench bench(kRoomy);
  auto first = text(2000, 1);
  bench.submit(first, 4);
  bench.finish();
  auto second = first;
  for (const int32_t token : text(48, 9)) second.push_back(token);
  const SequenceId id = bench.submit(second, 2);
  bench.step();
  check(bench.scheduler.sequence(id).n_cached == 2000, "what was cached is told");
  check(bench.rows(id) == 48, "only what is new is computed");
  check(bench.scheduler.stats().pool.n_hits == 2000 &&
            bench.scheduler.stats().pool.n_looked_up == 4048,
        "and that is counted");

  // A conversation: the next turn begins with the last one's answer.
  const SequenceId turn = bench.submit(text(500, 2), 30);
  while (bench.scheduler.sequence(turn).size() < 529) bench.step();
  auto next = bench.scheduler.sequence(turn).tokens;
  bench.finish();
  for (const int32_t token : text(20, 8)) next.push_back(token);
  const SequenceId reply = bench.submit(next, 1);
  bench.finish();
  check(bench.rows(reply) <= 21, "drawn tokens are found too");
}

void rows_that_were_asked_for() {
  Bench bench(kRoomy);
  bench.submit(text(300, 1), 2);
  bench.finish();
  SequenceParameters all;
  all.logits = LogitRows::all;
  const SequenceId echo = bench.submit(text(300, 1), 2, all);
  bench.finish();
  const auto& rows = bench.executor.delivered[echo].rows;
  check(rows.size() == 301 && rows[299] == 299 && rows[300] == 300,
        "every row of a prompt, though it was cached");
  SequenceParameters none;
  none.logits = LogitRows::none;
  const SequenceId quiet = bench.submit(text(100, 3), 0, none);
  bench.finish();
  check(bench.executor.delivered[quiet].rows.empty(), "no rows where none are wanted");
  SequenceParameters alone;
  alone.reuse_prefix = false;
  const SequenceId own = bench.submit(text(300, 1), 1, alone);
  bench.finish();
  check(bench.rows(own) == 300, "nothing cached where that was asked for");
}

// Echo rows that were given before a preemption are not given again.
void echo_goes_on_after_preemption() {
  SchedulerOptions options{.n_ctx = 640, .n_pages = 10};
  Bench bench(options);
  bench.budget.n_rows = 64;
  const SequenceId oldest = bench.submit(text(60, 1), 500);
  bench.step();
  SequenceParameters all;
  all.logits = LogitRows::all;
  const SequenceId echo = bench.submit(text(300, 2), 100, all);
  bench.finish();
  const auto& rows = bench.executor.delivered[echo].rows;
  bool once = rows.size() == 300 + 99;
  for (size_t i = 0; once && i < rows.size(); ++i) once = rows[i] == static_cast<int64_t>(i);
  check(once, "each row once");
  check(bench.finished.contains(oldest), "and the other finishes");
}

void the_newest_of_the_lowest_class_gives_way() {
  SchedulerOptions options{.n_ctx = 640, .n_pages = 12};
  Bench bench(options);
  SequenceParameters low;
  low.priority = 1;
  const SequenceId oldest = bench.submit(text(100, 1), 300, low);
  const SequenceId a = bench.submit(text(100, 2), 300);
  const SequenceId b = bench.submit(text(100, 3), 300, low);
  const SequenceId c = bench.submit(text(100, 4), 300);
  std::vector<SequenceId> preempted;
  while (!bench.finished.contains(oldest)) {
    const StepPlan plan = bench.step();
    preempted.insert(preempted.end(), plan.preempted.begin(), plan.preempted.end());
  }
  check(!preempted.empty() && preempted[0] == b, "the low class first");
  for (const SequenceId id : preempted) check(id != oldest, "the oldest never");
  check(std::find(preempted.begin(), preempted.end(), c) != preempted.end(), "then the newest");
  const int64_t n_before = bench.scheduler.stats().n_preemptions;
  check(n_before == static_cast<int64_t>(preempted.size()), "preemptions are counted");
  bench.finish();
  for (const SequenceId id : {oldest, a, b, c}) check(bench.finished.contains(id), "all finish");
}

// The newer sequence waits for a page and keeps those it has.
void a_newer_one_does_not_displace_older_ones() {
  SchedulerOptions options{.n_ctx = 640, .n_pages = 10};
  Bench bench(options);
  const SequenceId a = bench.submit(text(60, 1), 68);
  const SequenceId b = bench.submit(text(250, 2), 70);
  const SequenceId c = bench.submit(text(130, 3), 100);
  bench.budget.n_rows = 512;
  int64_t n_stalls = 0;
  while (!bench.finished.contains(a)) {
    const StepPlan plan = bench.step();
    check(plan.preempted.empty(), "nobody is displaced");
    n_stalls += rows_of(plan, c) == 0;
  }
  check(n_stalls > 0, "the newest waits");
  bench.finish();
  check(bench.rows(c) == 229 && bench.rows(b) == 319, "nothing is computed twice");
}

// Sequences that have nothing to do give up their pages before all others.
void idle_ones_give_way() {
  SchedulerOptions options{.n_ctx = 640, .n_pages = 10};
  Bench bench(options);
  const SequenceId idle = bench.submit(text(300, 1), 10);
  bench.step();
  bench.scheduler.set_ready(idle, false);
  const SequenceId a = bench.submit(text(100, 2), 100), b = bench.submit(text(100, 3), 300);
  while (!bench.finished.contains(b)) {
    const StepPlan plan = bench.step();
    for (const SequenceId id : plan.preempted) check(id == idle, "only the idle one");
  }
  check(bench.finished.contains(a) && bench.scheduler.sequence(idle).n_preemptions == 1, "once");
  bench.scheduler.set_ready(idle, true);
  bench.finish();
}

void what_just_fits_runs() {
  SchedulerOptions options{.n_ctx = 640, .n_pages = 10};
  Bench bench(options);
  const SequenceId id = bench.submit(text(600, 1), 41);
  check(bench.finish(1000) < 1000 && bench.rows(id) == 640, "in all pages");
  const SequenceId next = bench.submit(text(640, 2), 1);
  check(bench.finish(1000) < 1000 && bench.rows(next) == 640, "and another after it");
}

// The part of the cache that was not overwritten meanwhile is found again.
void a_preempted_one_goes_on_from_the_cache() {
  SchedulerOptions options = kRoomy;
  options.max_running = 1;
  Bench bench(options);
  SequenceParameters low;
  low.priority = 1;
  bench.submit(text(10, 9), 1);  // the oldest is never displaced
  const SequenceId victim = bench.submit(text(500, 1), 50, low);
  bench.step();
  for (int i = 0; i < 20; ++i) bench.step();
  bench.submit(text(10, 2), 5);
  bench.finish();
  check(bench.rows(victim) <= 500 + 50 + 1, "little is computed twice");
}

void two_old_ones_do_not_block_each_other() {
  // Together they need more than there is; the higher class came later.
  SchedulerOptions options{.n_ctx = 640, .n_pages = 10};
  Bench bench(options);
  SequenceParameters low;
  low.priority = 9;
  bench.submit(text(280, 1), 340, low);
  bench.step();
  bench.submit(text(200, 2), 430);
  check(bench.finish(3000) < 3000, "both finish");
}

void forks_share_the_prompt() {
  Bench bench(kRoomy);
  const SequenceId parent = bench.submit(text(300, 1), 10);
  bench.step();
  // The forks are asked for while the prompt's last row is computed: their first tokens come from
  // that row.
  std::vector<SequenceId> ids;
  bench.step([&] {
    ids = bench.scheduler.fork(parent, 3, bench.now_us).ids;
    for (int i = 0; i < 2; ++i) bench.extra.push_back({ids[static_cast<size_t>(i)], {i}, false});
  });
  check(ids.size() == 3, "three forks");
  for (const SequenceId id : ids)
    check(bench.scheduler.sequence(id).state == SequenceState::running, "run at once");
  check(bench.scheduler.sequence(ids[1]).tokens.back() == 1, "with a first token of their own");
  bench.finish();
  check(bench.rows(ids[0]) == 9 && bench.rows(ids[1]) == 9, "nothing of the prompt again");
  check(bench.rows(ids[2]) == 10, "without a token the last position once more");

  // The prompt that is forked still waits: its forks wait for it.
  const SequenceId later = bench.submit(text(700, 2), 10);
  const auto more = bench.scheduler.fork(later, 2, bench.now_us).ids;
  bench.finish();
  check(bench.rows(later) + bench.rows(more[0]) + bench.rows(more[1]) <= 700 + 2 + 27,
        "the prompt is computed once");
}

void guesses_take_what_is_left() {
  Bench bench(kRoomy);
  bench.budget.n_rows = 10;
  const SequenceId a = bench.submit(text(5, 1), 100);
  bench.step();
  bench.scheduler.set_draft(a, std::vector<int32_t>(30, 0));
  StepPlan plan = bench.step();
  check(rows_of(plan, a) == 10 && span_of(plan, a)->logits == LogitRows::all, "up to the budget");
  bench.submit(text(500, 2), 1);
  bench.scheduler.set_draft(a, std::vector<int32_t>(30, 0));
  plan = bench.step();
  check(rows_of(plan, a) > 1 && plan.spans.size() == 2 && plan.spans[1].n_rows >= 4,
        "prompts keep half of it");
  check(bench.scheduler.sequence(a).draft.empty(), "a draft is for one step");
  bench.finish();

  // Right guesses save steps, wrong ones cost nothing; the tokens are the same.
  const auto n_steps = [&](int64_t n_guesses, bool right) {
    Bench b(kRoomy);
    const SequenceId id = b.submit(text(5, 1), 41);
    int64_t n = 0;
    for (; !b.scheduler.idle(); ++n) {
      const Sequence& s = b.scheduler.sequence(id);
      std::vector<int32_t> draft;
      uint64_t hash = FakeExecutor::chain(s.tokens, s.size());
      for (int64_t i = 0; i < n_guesses; ++i) {
        const int32_t token = FakeExecutor::drawn(hash);
        draft.push_back(right ? token : token + 1);
        hash = FakeExecutor::step(hash, token);
      }
      if (n > 0) b.scheduler.set_draft(id, draft);
      b.step();
    }
    check(b.rows(id) >= 45, "rows of every token");
    check(b.scheduler.stats().n_draft_accepted == (right ? 40 - n + 1 : 0), "counted");
    return n;
  };
  check(n_steps(0, true) == 41 && n_steps(4, false) == 41, "a token a step");
  check(n_steps(3, true) == 1 + 10, "four tokens a step");
}

void cancelled_ones_are_freed() {
  Bench bench(kRoomy);
  const SequenceId a = bench.submit(text(300, 1), 10), b = bench.submit(text(300, 2), 10);
  bench.step([&] {
    check(bench.scheduler.cancel(a) && !bench.scheduler.cancel(a), "once");
    check(bench.scheduler.contains(a), "not within the step");
  });
  check(!bench.scheduler.contains(a), "but at its end");
  check(bench.scheduler.cancel(b) && bench.scheduler.idle(), "between steps at once");
  check(bench.scheduler.stats().pool.n_used == 0, "their pages are free");
  const SequenceId again = bench.submit(text(300, 1), 1);
  bench.finish();
  check(bench.rows(again) < 300 - 64, "and cached");
}

// Behind many positions a row costs more, and in the end the least chunk more than a step may.
void deep_chunks_get_smaller() {
  StepCost cost;
  const auto seconds = [](int64_t n, double attended) {
    return 0.008 + 0.0015 * static_cast<double>(n) + 5e-7 * attended;
  };
  Bench bench(kRoomy);
  bench.budget.cost = &cost;
  bench.budget.seconds = 0.050;
  bench.submit(text(8, 1), 1000);
  bench.step();
  const SequenceId id = bench.submit(text(4096, 2), 1);
  int64_t n = 0, last = 0;
  for (int i = 0; n < 4096; ++i) {
    const StepPlan plan = bench.step();
    const double took = seconds(plan.n_rows, plan.attended);
    cost.observe(plan.n_rows, plan.attended, took);
    last = rows_of(plan, id);
    const double least = seconds(17, StepCost::attended_by(n, 16) + 1000);
    check(took < std::max(0.055, least), "a deep chunk is not longer than the least or the limit");
    n += last;
  }
  check(last <= 16, "the last chunks are the least ones");
}

// A running stream's first steps with another's prompt, whatever was seen before them.
void first_chunks_are_measured() {
  for (const int n_decoded : {0, 1, 40}) {
    StepCost cost;
    const auto seconds = [](int64_t n, double attended) {
      return 0.008 + 0.0015 * static_cast<double>(n) + 1e-7 * attended;
    };
    Bench bench(kRoomy);
    bench.budget.cost = &cost;
    bench.budget.seconds = 0.050;
    const auto timed_step = [&] {
      const StepPlan plan = bench.step();
      cost.observe(plan.n_rows, plan.attended, seconds(plan.n_rows, plan.attended));
      return plan;
    };
    const SequenceId stream = bench.submit(text(8, 1), 1000);
    for (int i = 0; i < 1 + n_decoded; ++i) timed_step();
    const SequenceId id = bench.submit(text(4096, 2), 1);
    int64_t most = 0;
    for (int i = 0; i < 10; ++i) {
      const StepPlan plan = timed_step();
      check(rows_of(plan, stream) == 1, "the stream goes on");
      check(seconds(plan.n_rows, plan.attended) < 0.055, "no step is much longer than wished");
      most = std::max(most, rows_of(plan, id));
    }
    check(most >= 24, "and the prompt gets what fits");
  }
  deep_chunks_get_smaller();
  StepCost cost;
  for (int i = 0; i < 20; ++i) cost.observe(1, 100, 0.010);
  check(cost.seconds(5, 500) > 0.049, "steps of one row: what they cost is the row's");
  check(cost.rows_believed() == 2, "and nothing is known of larger ones");
}

void time_limits_chunks() {
  StepCost cost;
  for (int i = 0; i < 40; ++i) {
    const int64_t n = 1 + i % 8 * 16;
    const double attended = StepCost::attended_by(i * 100, n);
    cost.observe(n, attended, 0.010 + 0.001 * static_cast<double>(n) + 1e-7 * attended);
  }
  check(std::abs(cost.seconds(100, 0) - 0.110) < 1e-4, "a step's cost is learnt");
  check(std::abs(cost.seconds(1, 1e6) - 0.111) < 1e-3, "and that of long contexts");
  check(cost.rows_within(0.110, 0, 0, 0, 1000) == 99, "rows within a time");
  check(cost.rows_within(0.001, 0, 0, 0, 1000) == 0, "none if there is no time");
  check(cost.rows_within(9, 0, 0, 0, 50) == 50, "at most what is asked for");
  cost.observe(0, 0, 1);
  cost.observe(1, 0, -1);
  check(std::abs(cost.seconds(100, 0) - 0.110) < 1e-4, "nonsense is not learnt");
  // The machine became slower.
  for (int i = 0; i < 300; ++i) {
    const int64_t n = 1 + i % 8 * 16;
    cost.observe(n, 0, 0.020 + 0.002 * static_cast<double>(n));
  }
  check(std::abs(cost.seconds(100, 0) - 0.220) < 5e-3, "new costs replace old ones");

  Bench bench(kRoomy);
  const SequenceId stream = bench.submit(text(30, 1), 100);
  bench.step();
  bench.budget.cost = &cost;
  bench.budget.seconds = 0.150;
  const SequenceId id = bench.submit(text(4096, 2), 1);
  const StepPlan plan = bench.step();
  check(rows_of(plan, stream) == 1 && rows_of(plan, id) == 64 &&
            cost.seconds(plan.n_rows, plan.attended) <= 0.151,
        "a chunk by the time it takes");
  // Others wait too: the step takes a quarter longer for each, and twice as long at most.
  std::vector<SequenceId> others;
  for (const int n_more : {2, 8}) {
    for (int i = 0; i < n_more; ++i) others.push_back(bench.submit(text(4096, 10 * n_more + i), 1));
    const StepPlan longer = bench.step();
    const double limit = 0.150 * (n_more == 2 ? 1.5 : 2.0);
    const double takes = cost.seconds(longer.n_rows, longer.attended);
    check(rows_of(longer, stream) == 1, "the stream goes on");
    check(takes <= limit + 0.001 && takes > limit - 0.01, "a longer step where several wait");
  }
  for (const SequenceId other : others) bench.scheduler.cancel(other);
  bench.budget.seconds = 1e-6;
  check(rows_of(bench.step(), id) == 16, "a prompt gets on, whatever it costs");

  // On this machine one row alone takes longer than wished.
  StepCost slow;
  for (int i = 0; i < 40; ++i) {
    const int64_t n = 1 + i % 8 * 16;
    slow.observe(n, 0, 0.060 + 0.0005 * static_cast<double>(n));
  }
  bench.budget.cost = &slow;
  bench.budget.seconds = 0.050;
  const StepPlan doubled = bench.step();
  check(rows_of(doubled, stream) == 1 && rows_of(doubled, id) > 100 &&
            slow.seconds(doubled.n_rows, 0) <= 2 * slow.seconds(1, 0),
        "a gap at most doubles");
}

bool throws(const std::function<void()>& call) {
  try {
    call();
  } catch (const ArgumentError&) { return true; }
  return false;
}

// A token that is drawn after its step counts as if it had been drawn in it.
void late_tokens() {
  Bench b({.n_ctx = 300, .n_pages = 10});
  const SequenceId id = b.submit(text(70, 1), 3);
  check(throws([&] { b.scheduler.append_late({id, {5}, false}); }), "before it is complete");
  StepPlan plan = b.scheduler.plan(b.budget, b.now_us);
  b.executor.run(b.scheduler, plan);
  check(throws([&] { b.scheduler.append_late({id, {5}, false}); }), "during a step");
  b.scheduler.commit(plan, std::vector<StepResult>{{id, {}, false}});
  plan = b.scheduler.plan(b.budget, b.now_us);
  check(plan.empty(), "without its token it has nothing to do");
  b.scheduler.commit(plan, {});
  check(throws([&] { b.scheduler.append_late({id, {5, 6}, false}); }), "one token");
  check(throws([&] { b.scheduler.append_late({id, {}, false}); }), "not nothing");
  const Forked forked = b.scheduler.fork(id, 1, b.now_us);
  b.scheduler.append_late({id, {5}, false});
  b.scheduler.check();
  plan = b.scheduler.plan(b.budget, b.now_us);
  check(plan.spans.size() == 2, "it goes on, and so does a fork, which draws for itself");
  for (const Span& span : plan.spans)
    check(span.first == (span.id == id ? 70 : 69) && span.n_rows == 1, "by one row");
  b.executor.run(b.scheduler, plan);
  b.scheduler.commit(plan, {});
  b.scheduler.append_late({id, {6}, false});
  b.scheduler.append_late({forked.ids[0], {}, true});
  check(!b.scheduler.contains(forked.ids[0]), "a late end");
  plan = b.scheduler.plan(b.budget, b.now_us);
  b.executor.run(b.scheduler, plan);
  b.scheduler.commit(plan, {});
  b.scheduler.append_late({id, {7}, true});
  check(b.scheduler.idle() && b.scheduler.stats().pool.n_used == 0, "and the end");
}

void results_are_checked() {
  Bench bench(kRoomy);
  const SequenceId id = bench.submit(text(300, 1), 2);
  const auto refused = [&](const StepPlan& plan, std::vector<StepResult> results) {
    try {
      bench.scheduler.commit(plan, results);
    } catch (const ArgumentError&) { return true; }
    return false;
  };
  const StepPlan plan = bench.scheduler.plan(bench.budget, 1);
  check(refused(plan, {{id, {1}, false}}), "a token before the prompt is complete");
  check(refused(plan, {{99, {}, false}}), "an unknown sequence");
  StepPlan other = plan;
  other.number = 7;
  check(refused(other, {}), "another step");
  bool told = false;
  try {
    bench.scheduler.plan(bench.budget, 2);
  } catch (const ArgumentError&) { told = true; }
  check(told, "two plans at once");
  bench.scheduler.abandon(plan);
  bench.scheduler.check();
  check(bench.scheduler.stats().pool.n_used == 0, "an abandoned step holds nothing");
  bench.step();
  const StepPlan last = bench.scheduler.plan(bench.budget, 3);
  check(refused(last, {{id, {1, 2}, false}}), "two tokens without a draft");
  check(refused(last, {{id, {1}, false}, {id, {1}, false}}), "two results");
  bench.scheduler.commit(last, std::vector<StepResult>{{id, {1}, false}});
  const StepPlan more = bench.scheduler.plan(bench.budget, 4);
  bench.scheduler.commit(more, std::vector<StepResult>{{id, {1}, false}});
  const StepPlan beyond = bench.scheduler.plan(bench.budget, 5);
  check(beyond.empty(), "nothing beyond max_tokens");
  bench.scheduler.commit(beyond, {});
}

void tokens_of_the_caller() {
  Bench bench(kRoomy);
  const SequenceId id = bench.submit(text(100, 1), 0);
  const auto idle_step = [&] {
    bench.now_us += 10'000;
    const StepPlan plan = bench.scheduler.plan(bench.budget, bench.now_us);
    bench.executor.run(bench.scheduler, plan);
    bench.scheduler.commit(plan, {});
    return plan.n_rows;
  };
  check(idle_step() == 100 && idle_step() == 0, "computed, then idle");
  check(!bench.scheduler.append(id, text(20, 2), LogitRows::all), "more tokens");
  check(idle_step() == 20, "are computed");
  check(bench.executor.delivered[id].rows.size() == 21, "with all their rows");
  bench.scheduler.truncate(id, 90);
  check(idle_step() == 0, "fewer are not computed again");
  check(!bench.scheduler.append(id, text(5, 3)), "others in their place");
  check(idle_step() == 5, "are");
  check(bench.scheduler.append(id, text(9000, 3))->reason == Refusal::Reason::too_long,
        "more than fit are refused");
  bench.scheduler.check();
}

void recurrent_states_are_kept() {
  SchedulerOptions options{.n_ctx = 4096, .n_pages = 200, .max_running = 8};
  options.n_state_slots = 20;
  options.state_grid = 512;
  Bench bench(options);
  SequenceParameters parameters;
  parameters.turn_ends = {700};
  const SequenceId first = bench.submit(text(1000, 1), 4, parameters);
  bench.finish();
  check(bench.rows(first) == 1003, "computed once");
  const auto computed_of = [&](std::vector<int32_t> prompt) {
    const SequenceId id = bench.submit(std::move(prompt), 1);
    bench.finish();
    return bench.rows(id);
  };
  auto same = text(1000, 1);
  check(computed_of(same) == 1000 - 960, "on from the start of the prompt's last page");
  auto turn = text(800, 1);
  for (const int32_t token : text(100, 5)) turn.push_back(token);
  check(computed_of(turn) == 200, "on from the end of a turn");
  auto grid = text(600, 1);
  grid.push_back(-1);
  check(computed_of(grid) == 601 - 512, "on from the grid");
  check(computed_of(text(400, 1)) == 400, "nothing to go on from");
  computed_of(text(640, 6));
  check(computed_of(text(640, 6)) == 64, "a prompt of whole pages, on from its last one");

  // An answer's end is a checkpoint, so that the next turn goes on there.
  const SequenceId turn_id = bench.submit(text(70, 3), 20);
  while (bench.scheduler.sequence(turn_id).size() < 89) bench.step();
  auto next = bench.scheduler.sequence(turn_id).tokens;
  bench.finish();
  next.insert(next.end(), 30, 3);
  check(computed_of(next) <= 119 - 88, "on from an answer's end");
  check(bench.scheduler.stats().pool.n_used == 0, "all pages free");

  const SequenceId parent = bench.submit(text(90, 4), 10);
  while (bench.scheduler.sequence(parent).size() == 90) bench.step();
  const SequenceId child = bench.scheduler.fork(parent, 1, bench.now_us).ids[0];
  check(bench.scheduler.sequence(child).state == SequenceState::running, "a fork runs at once");
  bench.finish();
  check(bench.rows(child) == 9, "with a copy of the state");
}

// The state least recently used gives way.
void used_states_stay() {
  StateCheckpoints checkpoints(3, 64);
  const int32_t a = checkpoints.take(), b = checkpoints.take(), c = checkpoints.take();
  check(checkpoints.take() == -1 && checkpoints.n_live() == 3, "all are live");
  checkpoints.keep(a, 1, 10);
  checkpoints.keep(b, 1, 20);
  checkpoints.keep(c, 2, 64);
  check(checkpoints.last(1, 64)->n == 20 && checkpoints.last(1, 19)->n == 10, "the last one");
  check(!checkpoints.last(1, 9) && !checkpoints.last(3, 64), "none");
  checkpoints.touch(a);
  check(checkpoints.take() == b, "the least recently used goes");
  checkpoints.keep(b, 2, 64);
  check(checkpoints.take() == b, "a second state of the same place is not kept");
  checkpoints.move(2, 5);
  check(!checkpoints.last(2, 64) && checkpoints.last(5, 64)->slot == c, "with its page");
  checkpoints.forget_beyond(1, 9);
  check(!checkpoints.last(1, 64) && checkpoints.n_checkpoints() == 1, "forgotten with its page");
  checkpoints.forget(c);
  check(checkpoints.n_checkpoints() == 0, "forgotten by its slot");
  const std::vector<int64_t> turns = {70, 130};
  check(checkpoints.next_stop(0, 500, 300, turns) == 64 &&
            checkpoints.next_stop(64, 500, 300, turns) == 70 &&
            checkpoints.next_stop(70, 100, 300, turns) == 100,
        "the grid, a turn, the end");
}

}  // namespace

int main() {
  refusals_are_exact();
  running_ones_go_first_and_prompts_share();
  one_prompt_has_all();
  classes_and_age();
  clients_share();
  equals_go_in_order();
  many_clients_wait_little();
  equal_prompts_are_computed_once();
  most_of_a_long_prompt_is_cached();
  rows_that_were_asked_for();
  echo_goes_on_after_preemption();
  the_newest_of_the_lowest_class_gives_way();
  a_newer_one_does_not_displace_older_ones();
  idle_ones_give_way();
  what_just_fits_runs();
  a_preempted_one_goes_on_from_the_cache();
  two_old_ones_do_not_block_each_other();
  forks_share_the_prompt();
  guesses_take_what_is_left();
  cancelled_ones_are_freed();
  first_chunks_are_measured();
  time_limits_chunks();
  late_tokens();
  results_are_checked();
  tokens_of_the_caller();
  recurrent_states_are_kept();
  used_states_stay();
  return failures == 0 ? 0 : 1;
}
