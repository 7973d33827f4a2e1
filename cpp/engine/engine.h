// One thread that runs the sequences of many callers through a model.
//
// Callers submit() requests from any thread and read the answers from handles.  The engine's thread
// plans a step, computes its rows as one batch, draws the tokens and hands them out, over and over;
// it knows nothing of Python.  By the numeric contract a sequence's logits do not depend on what
// else is in a batch, so neither do the answers.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/event_fd.h"
#include "base/fork_condition.h"
#include "engine/mask_desk.h"
#include "engine/request.h"
#include "engine/scheduler.h"
#include "engine/step_cost.h"
#include "model/cache.h"
#include "model/forward.h"
#include "model/model.h"

namespace hrun {

struct EngineOptions {
  int64_t n_ctx = 0;      // positions of one sequence at most; 0: what the model was trained with
  int64_t n_batch = 512;  // rows per step at most
  int64_t kv_tokens = 0;  // positions of all sequences together; 0: as n_ctx
  std::string type_k = "f16";
  std::string type_v = "f16";
  int64_t max_running = 64;
  int64_t max_waiting = 1 << 20;
  int64_t max_waiting_tokens = 0;  // 0: no limit
  // While others wait for their next token a step takes about this long.
  double step_seconds = 0.05;
};

struct EngineStats {
  SchedulerStats scheduler;
  int64_t n_generated = 0;
  int64_t n_late_masks = 0;    // draws that waited for their mask
  double busy_seconds = 0;     // in steps
  double forward_seconds = 0;  // of them, in the model
};

class Engine {
 public:
  // Throws OutOfMemoryError, ArgumentError.
  Engine(std::shared_ptr<const Model> model, const EngineOptions& options);
  // Ends the requests that still run as cancelled.  In a process that was forked off, it does
  // nothing.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  // Throws ContextOverflowError for what can never fit, QueueFullError, ArgumentError for tokens
  // outside the vocabulary, GenerationError once the engine is closed or after a fork.
  std::shared_ptr<RequestHandle> submit(Request request);
  // The request finishes as cancelled, soon.
  void cancel(const RequestHandle& handle);
  void cancel_all();
  // The reader has taken tokens: a sequence that rested goes on.
  void resume(const RequestHandle& handle);
  // Cancels everything and waits for the thread.  submit() throws from now on.
  void close();

  // Requests with a constraint ask for their masks here.
  const std::shared_ptr<MaskDesk>& mask_desk() const { return mask_desk_; }

  // A file descriptor that becomes readable after each step, until drain() is called for
  // it: for event loops, which then look at their handles.  Closed by drop_wakeup() or the engine.
  int make_wakeup();
  void drain(int wakeup) const;
  void drop_wakeup(int wakeup);

  // Throws GenerationError in a process that was forked off.
  void require_usable() const;

  EngineStats stats() const;
  int64_t n_ctx() const { return n_ctx_; }
  int64_t n_pages() const { return cache_.n_pages(); }
  size_t memory_bytes() const { return memory_bytes_; }
  const Model& model() const { return *model_; }
  // Forgets the contents of pages that no sequence holds.
  void clear_cache();

 private:
  struct Active {
    Request request;
    std::shared_ptr<RequestHandle> handle;
    std::vector<double> sum = {};  // of hidden states, for the mean
    int64_t n_drawn = 0;
    bool cancelled = false;
    bool rests = false;
    std::vector<float> late_logits = {};  // of its last token, whose mask was not there
  };
  // The results of a step for its sequences: some end, some fail.
  struct Ending {
    SequenceId id;
    Finish how;
  };
  struct Failure {
    SequenceId id;
    std::exception_ptr error;
  };
  struct Outcome {
    std::vector<StepResult> results;
    std::vector<Ending> endings;
    std::vector<Failure> failures;
  };
  class Step;

  void run();
  void run_step(std::unique_lock<std::mutex>& lock);
  void finish(SequenceId id, Finish how, std::exception_ptr error = nullptr);
  void end(const Active& active, Finish how, std::exception_ptr error = nullptr);
  // The draw of a sequence's next token by the host, and what follows from a token that was drawn.
  void draw(SequenceId id, Active& active, std::span<const float> logits, Outcome& outcome);
  void take_drawn(SequenceId id, Active& active, int32_t token, std::optional<TokenLogprob> logprob,
                  Outcome& outcome);
  void draw_late();
  void settle(const Outcome& outcome);
  void wake();
  bool all_cancelled(const StepPlan& plan) const;
  int64_t now_us() const;

  std::shared_ptr<const Model> model_;
  EngineOptions options_;
  int64_t n_ctx_;
  ModelCache cache_;
  std::vector<Workspace> workspaces_;  // one per backend
  size_t memory_bytes_ = 0;
  StepCost cost_;  // of the engine's thread

  mutable std::mutex mutex_;
  ForkCondition work_;     // for the thread: something was asked
  ForkCondition changed_;  // for clear_cache(): a step has ended
  Scheduler scheduler_;
  std::unordered_map<SequenceId, Active> active_;
  const std::shared_ptr<MaskDesk> mask_desk_ = std::make_shared<MaskDesk>();
  const StepPlan* in_step_ = nullptr;
  std::atomic<bool> abort_step_ = false;
  std::vector<std::unique_ptr<EventFd>> wakeups_;
  bool closing_ = false;
  EngineStats stats_;
  int process_;
  std::thread thread_;
};

}  // namespace hrun
