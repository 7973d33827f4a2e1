// Which rows of which sequences the next step computes.  A pure data structure: it knows no model,
// no thread and no clock but the one that is passed.
//
// The engine's thread does, over and over: plan(), the copies of the plan and then its rows,
// commit() with the tokens that were drawn.  Logits of a row do not depend on the plan, so no
// decision here can change an answer.
//
// Order.  Every running sequence that has one token to compute gets its row first.  Guessed tokens
// (drafts) and chunks of prompts share what is left of the step.  Prompts go by class, then by the
// service their client had beyond lead_rows more than the least of those present (the client with
// the least goes first; one that comes back starts there, so that idle time cannot be saved up),
// then by arrival; a sequence older than max_wait_us goes before all classes.  One prompt takes at
// most half of what prompts get while another can go on.  A prompt whose beginning is just being
// computed for another waits for it, for prefix_wait_us at most.
//
// Room.  A sequence is admitted when all its tokens have room beside what running ones still need
// for theirs, and a watermark.  When a running sequence finds no page the newest of the lowest
// class gives its pages back and waits (preemption by recompute; what is not overwritten meanwhile
// is found again).  The oldest sequence is never preempted, so that something always gets on.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "engine/page_pool.h"
#include "engine/sequence.h"
#include "engine/state_checkpoints.h"
#include "engine/step_cost.h"

namespace hrun {

struct SchedulerOptions {
  int64_t n_ctx = 0;               // positions of one sequence at most
  int64_t n_pages = 0;             // of the pool
  int64_t max_running = 64;        // sequences that hold pages
  int64_t max_waiting = 256;       // a full queue refuses: by sequences ...
  int64_t max_waiting_tokens = 0;  // ... and by their tokens; 0: no limit
  int64_t max_wait_us = 30'000'000;
  int64_t prefix_wait_us = 2'000'000;
  double watermark = 0.01;  // of the pool, kept free of admissions besides a page per running one
  int64_t min_chunk = 16;   // rows that prompts get of each step at least, cost or not
  // Clients whose service differs by no more are equals, whose prompts go in the order in which
  // they came: else a client with one long prompt waits for many short ones of the others.
  int64_t lead_rows = 1024;
  // Models with recurrent layers: slots for states, 0 for none.
  int64_t n_state_slots = 0;
  int64_t state_grid = 512;
  int64_t n_log_rows = 0;  // of the states' redo log; without one such models take no guesses
  uint64_t hash_mask = ~uint64_t{0};  // see PagePool
  PageRows rows{};
};

struct Refusal {
  enum class Reason : uint8_t {
    empty,        // no tokens
    too_long,     // can never fit: need > capacity positions
    queue_full,   // need: the queue's length with this one, capacity: its limit
    tokens_full,  // the same in tokens
    unknown,      // no sequence of this id
  };
  Reason reason;
  int64_t need = 0;
  int64_t capacity = 0;
  int64_t queue_length = 0;  // sequences that wait

  std::string text() const;
};

struct Submitted {
  SequenceId id = 0;  // 0: refused
  std::optional<Refusal> refusal;
};

struct Forked {
  std::vector<SequenceId> ids;  // all or none
  std::optional<Refusal> refusal;
};

// The limits of one step.
struct StepBudget {
  int64_t n_rows = 512;
  // With both: chunks of prompts are cut so that the step takes about this long; up to twice as
  // long where several prompts wait, for whom larger steps are worth longer gaps of the others.
  double seconds = 0;
  const StepCost* cost = nullptr;
};

// The rows of one sequence: positions [first, first + n_rows).  Its tokens and pages are those of
// Scheduler::sequence(id); rows beyond tokens.size() are its draft.
struct Span {
  SequenceId id = 0;
  int64_t first = 0;
  int64_t n_rows = 0;
  int64_t n_draft = 0;  // of the rows, the last ones
  LogitRows logits = LogitRows::none;
  // Where a guess may be refused, the state goes on in this slot, and the sequence's own keeps what
  // it is before the first row, whose record in the redo log is log_row.
  int32_t state_to = -1;
  int64_t log_row = -1;
};

// A state goes on by n tokens whose records in the redo log begin at log_row.
struct StateRedo {
  int32_t slot;
  int64_t log_row;
  int64_t n;
};

struct StateCopy {
  int32_t from;  // -1: the state of an empty sequence
  int32_t to;
};

struct StepPlan {
  uint64_t number = 0;
  std::vector<PageCopy> page_copies;    // first, in this order
  std::vector<StateRedo> state_redos;   // before the copies of states
  std::vector<StateCopy> state_copies;  // also before the rows, in this order
  std::vector<Span> spans;
  std::vector<StateCopy> state_saves;  // after the rows, in this order
  std::vector<SequenceId> preempted;   // for the record
  int64_t n_rows = 0;
  double attended = 0;  // see StepCost

  bool empty() const { return spans.empty(); }
};

// The result of a step for one sequence.
struct StepResult {
  SequenceId id = 0;
  // The drawn tokens; for a span with a draft, the accepted guesses and one more.  Empty while a
  // prompt is not complete, or if nothing is to be drawn.
  std::vector<int32_t> tokens;
  bool finished = false;  // it gives up its pages (they stay cached) and its id
};

struct SchedulerStats {
  PagePoolStats pool;
  int64_t n_running = 0;
  int64_t n_waiting = 0;
  int64_t n_waiting_tokens = 0;
  int64_t n_preemptions = 0;
  int64_t n_steps = 0;
  int64_t n_prompt_rows = 0;
  int64_t n_decode_rows = 0;
  int64_t n_draft_rows = 0;
  int64_t n_draft_accepted = 0;
};

class Scheduler {
 public:
  explicit Scheduler(const SchedulerOptions& options);

  // May be called at any time, also between plan() and commit().  now_us: monotonic, of the
  // caller's clock.
  Submitted submit(std::vector<int32_t> prompt, SequenceParameters parameters, int64_t now_us);
  // Makes n sequences that go on from where this one stands, with its parameters.  Between plan()
  // and commit() the forks begin after the rows of the step and before the tokens drawn in it.
  // Each takes its own first token by a StepResult of the same commit(), or else computes the last
  // position once more.  Forks of a prompt that is not complete wait for it like equal prompts.
  Forked fork(SequenceId id, int64_t n, int64_t now_us);
  // Returns false for an unknown id.  A sequence of the step in progress is freed by its commit().
  bool cancel(SequenceId id);

  // Sets guesses for the next step; they are dropped if the step has no room.  Models with
  // recurrent state need a redo log, since a state cannot be cut.
  void set_draft(SequenceId id, std::vector<int32_t> draft);
  // A sequence that is not ready (its grammar is not) sits the steps out.
  void set_ready(SequenceId id, bool ready);
  // append() adds tokens of the caller's (max_tokens counts from their end), and truncate() takes
  // tokens away; neither may be called between plan() and commit().  truncate() keeps at least one
  // token, and what it keeps counts as the prompt.
  std::optional<Refusal> append(SequenceId id, std::span<const int32_t> tokens,
                                LogitRows logits = LogitRows::last);
  void truncate(SequenceId id, int64_t n);

  // The next step; empty if nothing can be done.  Each plan is committed or abandoned before the
  // next.
  StepPlan plan(const StepBudget& budget, int64_t now_us);
  // Takes one result for each span whose rows are complete; a missing one stands for an empty one.
  // There may be results of forks, and any order will do.  Results of cancelled sequences are
  // dropped.
  void commit(const StepPlan& plan, std::span<const StepResult> results);
  // Adds a token drawn from the logits of an earlier step, or the end, to a sequence that is
  // complete; not between plan() and commit().
  void append_late(const StepResult& result);
  // Says that the step failed: its copies and rows count as not done.
  void abandon(const StepPlan& plan);

  bool idle() const { return entries_.empty(); }
  bool contains(SequenceId id) const { return entries_.contains(id); }
  const Sequence& sequence(SequenceId id) const;  // throws ArgumentError
  SchedulerStats stats() const;
  // Forgets everything that no running sequence holds; not between plan() and commit().
  void clear_cache();
  // Throws std::logic_error; for tests.
  void check() const;

 private:
  struct Client {
    double served = 0;  // rows, those of drawn tokens counted twice
    int64_t n_sequences = 0;
  };
  struct Entry {
    Sequence sequence;
    Client* client = nullptr;
    bool ready = true;
    bool cancelled = false;
    bool just_admitted = false;
    uint64_t last_step = 0;             // that computed rows of it
    size_t span = 0;                    // in the plan, from 1; 0: none
    int64_t prefix_wait_since_us = -1;  // it waits for another's prompt
  };
  struct Fork {
    SequenceId parent;
    SequenceId child;
  };
  struct StateSave {
    SequenceId id;
    int32_t slot;
    int64_t position;
  };
  class Planner;  // scheduler_plan.cpp

  Entry& entry(SequenceId id);
  const Entry& entry(SequenceId id) const;
  Entry* find(SequenceId id);
  int64_t capacity() const;
  Refusal refuse(Refusal::Reason reason, int64_t need, int64_t capacity) const;
  std::optional<Refusal> refuse_queue(int64_t n, int64_t n_tokens) const;
  Entry& add(Sequence sequence);
  void remove(Entry& entry);
  void join_client(Entry& entry);
  void leave_client(Entry& entry);
  bool is_running(const Entry& entry) const {
    return entry.sequence.state == SequenceState::running;
  }
  void run(Entry& entry);                     // from waiting to running
  void stop(Entry& entry, bool state_valid);  // from running to waiting, pages given back
  void begin_fork(const Entry& parent, Entry& child);
  void check_results(const StepPlan& plan, std::span<const StepResult> results) const;
  const Fork* fork_of(SequenceId child) const;
  void advance(Sequence& sequence, int64_t end);
  void append_drawn(Entry& entry, const StepResult& result);
  void settle_state(Sequence& sequence, const Span& span);
  void finish_fork(Entry& child);
  void require_between_steps(const char* what) const;
  void end_step(const StepPlan& plan);

  SchedulerOptions options_;
  std::unique_ptr<StateCheckpoints> checkpoints_;
  PagePool pool_;
  std::unordered_map<SequenceId, std::unique_ptr<Entry>> entries_;
  std::vector<Entry*> running_;
  std::vector<Entry*> waiting_;
  int64_t n_waiting_tokens_ = 0;
  std::unordered_map<std::string, Client> clients_;
  SequenceId last_id_ = 0;
  uint64_t step_ = 0;
  bool in_step_ = false;
  std::vector<SequenceId> cancelled_;    // to be removed at the step's end
  std::vector<Fork> forks_;              // asked for during the step
  std::vector<StateSave> saves_;         // of the step
  std::vector<StateCopy> state_copies_;  // of forks, for the next step
  std::vector<StateRedo> state_redos_;   // of refused guesses, likewise
  SchedulerStats stats_;
};

}  // namespace hrun
