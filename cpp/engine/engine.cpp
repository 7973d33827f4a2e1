#include "engine/engine.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <numeric>

#include "base/error.h"
#include "engine/context.h"
#include "engine/logprobs.h"

namespace hrun {
namespace {

int64_t context_of(const Model& model, const EngineOptions& options) {
  const int64_t n_ctx = context_size(text_model(model), options.n_ctx, options.n_batch);
  if (options.kv_tokens < 0)
    throw ArgumentError("kv_tokens is {}, must be at least 1 (or 0 for n_ctx)", options.kv_tokens);
  if (options.kv_tokens > 0 && options.kv_tokens < n_ctx)
    throw ArgumentError("kv_tokens is {}, less than the context of one sequence, {}",
                        options.kv_tokens, n_ctx);
  return n_ctx;
}

// One page more than the positions need: a sequence that begins with part of a cached page writes
// to a copy of it.
int64_t page_count(const EngineOptions& options, int64_t n_ctx) {
  return cache_pages(std::max(options.kv_tokens, n_ctx)) + 1;
}

SchedulerOptions scheduler_options(const EngineOptions& options, int64_t n_ctx, ModelCache& cache) {
  SchedulerOptions s;
  s.n_ctx = n_ctx;
  s.n_pages = cache.n_pages();
  s.n_state_slots = cache.n_states();
  if (cache.is_coded())
    s.rows = {[&cache](PageId page) { return cache.keeps_rows(page); },
              [&cache](PageId page) { cache.drop_rows(page); }};
  s.max_running = options.max_running;
  s.max_waiting = options.max_waiting;
  s.max_waiting_tokens = options.max_waiting_tokens;
  return s;
}

// The ends of the last turns of a prompt: a conversation that is taken up again goes on from there.
std::vector<int64_t> turn_ends_of(const Request& request) {
  constexpr size_t kTurns = 2;
  std::vector<int64_t> ends;
  for (auto n = static_cast<int64_t>(request.prompt.size()) - 1; n > 0 && ends.size() < kTurns; --n)
    if (std::find(request.end_tokens.begin(), request.end_tokens.end(),
                  request.prompt[static_cast<size_t>(n) - 1]) != request.end_tokens.end())
      ends.insert(ends.begin(), n);
  return ends;
}

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

// The rows of one step, and what is wanted of them.
class Engine::Step {
 public:
  Step(Engine& engine, const StepPlan& plan) : engine_(engine), plan_(plan) {
    for (const Span& span : plan.spans) add(span);
  }

  // Runs without the engine's lock.
  void run();
  Outcome outcome;

 private:
  struct Wanted {
    SequenceId id;
    Active* active;
    int64_t position;
    bool is_last;  // of the sequence's tokens
  };

  void add(const Span& span);
  void take_logits(const Wanted& row, std::span<const float> logits);
  void take_hidden(const Wanted& row, std::span<const float> hidden);
  void draw_on_device();
  void complete(const Wanted& row);

  Engine& engine_;
  const StepPlan& plan_;
  BatchRows rows_;
  std::vector<int32_t> logit_rows_, hidden_rows_;
  std::vector<Wanted> logits_, hidden_;
  bool on_device_ = true;  // can all tokens be drawn there?
};

void Engine::Step::add(const Span& span) {
  const Sequence& s = engine_.scheduler_.sequence(span.id);
  Active& active = engine_.active_.at(span.id);
  const int64_t first_row = rows_.n_rows();
  rows_.add(std::span(s.tokens).subspan(static_cast<size_t>(span.first),
                                        static_cast<size_t>(span.n_rows)),
            span.first, s.pages, span.state_to < 0 ? s.state_slot : span.state_to);
  if (span.state_to >= 0) {
    rows_.last().kept = s.state_slot;
    rows_.last().log_row = static_cast<int32_t>(span.log_row);
  }
  active.handle->n_cached_ = s.n_cached;
  const Request& request = active.request;
  for (int64_t i = 0; i < span.n_rows; ++i) {
    const int64_t position = span.first + i;
    const bool is_last = position + 1 == s.size();
    const Wanted wanted{span.id, &active, position, is_last};
    const auto row = static_cast<int32_t>(first_row + i);
    switch (request.kind) {
      case RequestKind::generate:
        if (!is_last) continue;
        on_device_ = on_device_ && request.sampler->runs_on_device() &&
                     request.n_top_logprobs < 0 && !request.constraint;
        break;
      case RequestKind::logits:
      case RequestKind::score:
        on_device_ = false;
        if (position < request.first_row && !is_last) continue;
        break;
      case RequestKind::embed:
        if (request.pooling == Pooling::last && !is_last) continue;
        if (request.pooling == Pooling::cls && position > 0 && !is_last) continue;
        hidden_.push_back(wanted);
        hidden_rows_.push_back(row);
        continue;
    }
    logits_.push_back(wanted);
    logit_rows_.push_back(row);
  }
}

void Engine::Step::run() {
  const Model& model = *engine_.model_;
  for (const PageCopy& copy : plan_.page_copies)
    engine_.cache_.copy_page(copy.from, copy.to, copy.n_positions);
  for (const StateRedo& redo : plan_.state_redos)
    engine_.cache_.redo_state(redo.slot, redo.slot, redo.log_row, redo.n);
  for (const StateCopy& copy : plan_.state_copies) engine_.cache_.copy_state(copy.from, copy.to);
  const auto n_vocab = static_cast<size_t>(model.params().n_vocab);
  const auto n_embd = static_cast<size_t>(model.params().n_embd);
  const size_t head = model.runs().back().device;
  on_device_ =
      on_device_ && model.backend(head).samples() &&
      static_cast<int64_t>(logit_rows_.size()) <= engine_.workspaces_[head].max_logit_rows();
  PassOutputs outputs;
  outputs.logit_rows = logit_rows_;
  if (!on_device_)
    outputs.on_logits = [&](size_t first, std::span<const float> logits) {
      for (size_t i = 0; i * n_vocab < logits.size(); ++i)
        take_logits(logits_[first + i], logits.subspan(i * n_vocab, n_vocab));
    };
  std::vector<float> hidden(hidden_rows_.size() * n_embd);
  outputs.hidden_rows = hidden_rows_;
  outputs.hidden = hidden.data();
  const auto poll = [this] {
    if (engine_.abort_step_) throw Cancelled("cancelled");
  };
  forward(model, engine_.workspaces_, engine_.cache_, rows_.batch(), outputs, poll);
  model.file().check_readable();  // weights may lie in it
  for (const StateCopy& save : plan_.state_saves) engine_.cache_.copy_state(save.from, save.to);
  if (on_device_) draw_on_device();
  for (size_t i = 0; i < hidden_.size(); ++i)
    take_hidden(hidden_[i], std::span(hidden).subspan(i * n_embd, n_embd));
}

void Engine::Step::draw_on_device() {
  const size_t head = engine_.model_->runs().back().device;
  Backend& backend = engine_.model_->backend(head);
  const FloatView& logits = engine_.workspaces_[head].logits;
  const int64_t n_vocab = engine_.model_->params().n_vocab;
  for (size_t i = 0; i < logits_.size(); ++i) {
    const Wanted& row = logits_[i];
    Sampler& sampler = *row.active->request.sampler;
    try {
      const int32_t token = engine_.cache_.drawing([&] {
        return hrun::draw_on_device(backend, logits.row(static_cast<int64_t>(i)), n_vocab, sampler,
                                    sampler.edits(n_vocab));
      });
      engine_.take_drawn(row.id, *row.active, token, std::nullopt, outcome);
    } catch (const Error&) { outcome.failures.push_back({row.id, std::current_exception()}); }
  }
}

void Engine::Step::take_logits(const Wanted& row, std::span<const float> logits) {
  Active& active = *row.active;
  const Request& request = active.request;
  try {
    switch (request.kind) {
      case RequestKind::generate:
        if (request.constraint && !active.handle->has_mask())
          active.late_logits.assign(logits.begin(), logits.end());
        else
          engine_.draw(row.id, active, logits, outcome);
        break;
      case RequestKind::logits:
        if (row.position >= request.first_row)
          active.handle->values_.insert(active.handle->values_.end(), logits.begin(), logits.end());
        break;
      case RequestKind::score:
        if (row.position >= request.first_row && !row.is_last) {
          const int32_t next = request.prompt[static_cast<size_t>(row.position) + 1];
          active.handle->scores_.push_back(
              token_logprob(logits, next, std::max<int64_t>(request.n_top_logprobs, 0)));
        }
        break;
      case RequestKind::embed:
        break;
    }
    if (row.is_last && request.kind != RequestKind::generate) complete(row);
  } catch (const Error&) { outcome.failures.push_back({row.id, std::current_exception()}); }
}

void Engine::Step::take_hidden(const Wanted& row, std::span<const float> hidden) {
  std::vector<float>& values = row.active->handle->values_;
  const Pooling pooling = row.active->request.pooling;
  if (pooling == Pooling::last || pooling == Pooling::cls) {
    if (pooling == Pooling::last || row.position == 0) values.assign(hidden.begin(), hidden.end());
  } else if (pooling == Pooling::none) {
    values.insert(values.end(), hidden.begin(), hidden.end());
  } else {
    // Add in the order of positions, so that no cut of the prompt changes a bit.
    std::vector<double>& sum = row.active->sum;
    sum.resize(hidden.size());
    for (size_t i = 0; i < hidden.size(); ++i) sum[i] += static_cast<double>(hidden[i]);
    if (row.is_last) {
      const auto n = static_cast<double>(row.active->request.prompt.size());
      values.resize(sum.size());
      for (size_t i = 0; i < sum.size(); ++i) values[i] = static_cast<float>(sum[i] / n);
    }
  }
  if (row.is_last) complete(row);
}

void Engine::Step::complete(const Wanted& row) {
  outcome.results.push_back({row.id, {}, true});
  outcome.endings.push_back({row.id, Finish::stop});
}

// ---- draws

// Throws GenerationError where no token can be drawn, and the error with which the mask's maker
// failed.
void Engine::draw(SequenceId id, Active& active, std::span<const float> logits, Outcome& outcome) {
  const Request& request = active.request;
  MaskAnswer mask;
  if (request.constraint) {
    mask = active.handle->take_mask().value();
    if (mask.error) std::rethrow_exception(mask.error);
    if (mask.complete) {
      active.handle->mark_drawn();
      outcome.results.push_back({id, {}, true});
      outcome.endings.push_back({id, Finish::stop});
      return;
    }
  }
  const int32_t token =
      cache_.drawing([&] { return active.request.sampler->sample(logits, mask.words); });
  std::optional<TokenLogprob> logprob;
  if (request.n_top_logprobs >= 0) logprob = token_logprob(logits, token, request.n_top_logprobs);
  take_drawn(id, active, token, std::move(logprob), outcome);
}

void Engine::take_drawn(SequenceId id, Active& active, int32_t token,
                        std::optional<TokenLogprob> logprob, Outcome& outcome) {
  const Request& request = active.request;
  const auto& ends = request.end_tokens;
  active.handle->mark_drawn();
  if (std::find(ends.begin(), ends.end(), token) != ends.end()) {
    outcome.results.push_back({id, {token}, true});
    outcome.endings.push_back({id, Finish::stop});
    return;
  }
  const bool is_full = ++active.n_drawn >= request.parameters.max_tokens;
  if (request.constraint && !is_full) {
    active.handle->expect_mask();
    mask_desk_->ask({*request.constraint, active.handle, MaskQuery::Kind::drawn, token});
  }
  active.handle->put({token, std::move(logprob)});
  outcome.results.push_back({id, {token}, is_full});
  if (is_full) outcome.endings.push_back({id, Finish::length});
}

// Makes the draws of sequences whose masks have come since their steps.  Runs with the lock,
// between steps.
void Engine::draw_late() {
  Outcome outcome;
  for (auto& [id, active] : active_) {
    if (active.late_logits.empty() || active.rests || !active.handle->has_mask()) continue;
    ++stats_.n_late_masks;
    const std::vector<float> logits = std::exchange(active.late_logits, {});
    try {
      draw(id, active, logits, outcome);
    } catch (const Error&) { outcome.failures.push_back({id, std::current_exception()}); }
  }
  if (outcome.results.empty() && outcome.failures.empty()) return;
  for (const StepResult& result : outcome.results) scheduler_.append_late(result);
  settle(outcome);
  wake();
}

// Counts tokens and finishes requests by an outcome that the scheduler knows already.  Runs with
// the lock.
void Engine::settle(const Outcome& outcome) {
  for (const StepResult& result : outcome.results)
    stats_.n_generated += static_cast<int64_t>(result.tokens.size());
  for (const Ending& ending : outcome.endings) finish(ending.id, ending.how);
  for (const Failure& failure : outcome.failures) {
    scheduler_.cancel(failure.id);
    finish(failure.id, Finish::failed, failure.error);
  }
}

// ---- the engine

Engine::Engine(std::shared_ptr<const Model> model, const EngineOptions& options)
    : model_(std::move(model)),
      options_(options),
      n_ctx_(context_of(*model_, options)),
      cache_(*model_, page_count(options, n_ctx_), cache_type_named(options.type_k),
             cache_type_named(options.type_v), default_state_slots(*model_, options.max_running)),
      scheduler_(scheduler_options(options, n_ctx_, cache_)),
      process_(getpid()) {
  memory_bytes_ = cache_.bytes();
  for (size_t d = 0; d < model_->n_backends(); ++d) {
    workspaces_.emplace_back(*model_, d, std::min(options.n_batch, std::max(n_ctx_, int64_t{64})),
                             n_ctx_);
    memory_bytes_ += workspaces_.back().bytes();
  }
  options_.n_batch = workspaces_.front().max_tokens();
  mask_desk_->on_answer([this] {
    { const std::lock_guard lock(mutex_); }  // not between the engine's look and its wait
    work_->notify_one();
  });
  thread_ = std::thread([this] { run(); });
}

Engine::~Engine() {
  if (getpid() != process_) {
    thread_.detach();  // it runs in the parent only, like the holder of the lock
    return;
  }
  close();
}

void Engine::require_usable() const {
  if (getpid() != process_)
    throw GenerationError(
        "the engine was created before fork(); create it in the child, or use spawn");
}

int64_t Engine::now_us() const {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

std::shared_ptr<RequestHandle> Engine::submit(Request request) {
  require_usable();
  const int64_t n_vocab = model_->params().n_vocab;
  check_tokens(*model_, request.prompt);
  if (request.kind == RequestKind::generate) {
    if (!request.sampler) throw ArgumentError("a request to generate has no sampler");
    if (request.parameters.max_tokens < 1)
      throw ArgumentError("max_tokens is {}, must be at least 1", request.parameters.max_tokens);
    request.parameters.logits = LogitRows::last;
    if (cache_.n_states() > 0) request.parameters.turn_ends = turn_ends_of(request);
  } else {
    if (request.constraint) throw ArgumentError("a constraint for a request that draws no tokens");
    request.parameters.max_tokens = 0;
    const bool needs_all = request.kind != RequestKind::embed || request.pooling != Pooling::last;
    request.parameters.logits = needs_all ? LogitRows::all : LogitRows::last;
    request.parameters.wanted_from = request.kind == RequestKind::embed ? 0 : request.first_row;
  }
  auto handle = std::make_shared<RequestHandle>(std::max<int64_t>(request.max_unread, 1));
  const auto n = static_cast<int64_t>(request.prompt.size());
  if (request.first_row < 0 || request.first_row > n)
    throw ArgumentError("first_row is {}, must be between 0 and {}", request.first_row, n);
  if (request.kind == RequestKind::logits)
    handle->values_.reserve(static_cast<size_t>((n - request.first_row) * n_vocab));
  {
    const std::lock_guard lock(mutex_);
    if (closing_) throw GenerationError("the engine is closed");
    const Submitted submitted = scheduler_.submit(request.prompt, request.parameters, now_us());
    if (submitted.refusal) {
      const std::string why = submitted.refusal->text();
      if (submitted.refusal->reason == Refusal::Reason::too_long)
        throw ContextOverflowError("the request {}", why);
      if (submitted.refusal->reason == Refusal::Reason::empty)
        throw ArgumentError("a request with no tokens");
      throw QueueFullError("the queue is full: {}", why);
    }
    handle->id_ = submitted.id;
    if (request.constraint) {
      handle->expect_mask();
      mask_desk_->ask({*request.constraint, handle, MaskQuery::Kind::first});
    }
    active_.emplace(submitted.id, Active{.request = std::move(request), .handle = handle});
  }
  work_->notify_one();
  return handle;
}

void Engine::cancel(const RequestHandle& handle) {
  require_usable();
  {
    const std::lock_guard lock(mutex_);
    const auto found = active_.find(handle.id());
    if (found == active_.end() || found->second.cancelled) return;
    scheduler_.cancel(handle.id());
    if (in_step_) {
      found->second.cancelled = true;
      if (all_cancelled(*in_step_)) abort_step_ = true;
    } else {
      finish(handle.id(), Finish::cancelled);
      wake();
    }
  }
  work_->notify_one();
}

void Engine::cancel_all() {
  require_usable();
  std::vector<std::shared_ptr<RequestHandle>> handles;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, active] : active_) handles.push_back(active.handle);
  }
  for (const auto& handle : handles) cancel(*handle);
}

void Engine::resume(const RequestHandle& handle) {
  require_usable();
  {
    const std::lock_guard lock(mutex_);
    const auto found = active_.find(handle.id());
    if (found == active_.end() || !found->second.rests) return;
    found->second.rests = false;
    if (scheduler_.contains(handle.id())) scheduler_.set_ready(handle.id(), true);
  }
  work_->notify_one();
}

void Engine::close() {
  require_usable();
  {
    const std::lock_guard lock(mutex_);
    closing_ = true;
    abort_step_ = true;
  }
  work_->notify_one();
  std::unique_lock lock(mutex_);
  if (thread_.joinable()) {
    std::thread ending = std::move(thread_);
    lock.unlock();
    ending.join();
    mask_desk_->on_answer(nullptr);
    mask_desk_->close();
  }
}

int Engine::make_wakeup() {
  require_usable();
  auto wakeup = std::make_unique<EventFd>();
  const std::lock_guard lock(mutex_);
  return wakeups_.emplace_back(std::move(wakeup))->descriptor();
}

void Engine::drain(int wakeup) const { EventFd::drain(wakeup); }

void Engine::drop_wakeup(int wakeup) {
  require_usable();
  const std::lock_guard lock(mutex_);
  std::erase_if(wakeups_, [&](const auto& w) { return w->descriptor() == wakeup; });
}

// Runs with the lock.
void Engine::wake() {
  for (const auto& wakeup : wakeups_) wakeup->signal();
}

EngineStats Engine::stats() const {
  require_usable();
  const std::lock_guard lock(mutex_);
  EngineStats stats = stats_;
  stats.scheduler = scheduler_.stats();
  return stats;
}

void Engine::clear_cache() {
  require_usable();
  std::unique_lock lock(mutex_);
  changed_->wait(lock, [&] { return !in_step_; });
  scheduler_.clear_cache();
}

void Engine::finish(SequenceId id, Finish how, std::exception_ptr error) {
  const auto found = active_.find(id);
  if (found == active_.end()) return;
  end(found->second, how, std::move(error));
  active_.erase(found);
}

void Engine::end(const Active& active, Finish how, std::exception_ptr error) {
  active.handle->finish(how, std::move(error));
  if (const auto constraint = active.request.constraint)
    mask_desk_->ask({*constraint, active.handle, MaskQuery::Kind::ended});
}

bool Engine::all_cancelled(const StepPlan& plan) const {
  return std::all_of(plan.spans.begin(), plan.spans.end(), [&](const Span& span) {
    const auto found = active_.find(span.id);
    return found == active_.end() || found->second.cancelled;
  });
}

void Engine::run() {
  std::unique_lock lock(mutex_);
  std::exception_ptr broken;  // a fault of the engine's own
  try {
    while (!closing_) run_step(lock);
  } catch (...) {
    broken = std::current_exception();
    if (!lock.owns_lock()) lock.lock();
    closing_ = true;
    in_step_ = nullptr;
  }
  while (!active_.empty())
    finish(active_.begin()->first, broken ? Finish::failed : Finish::cancelled, broken);
  wake();
}

void Engine::run_step(std::unique_lock<std::mutex>& lock) {
  if (active_.empty()) return work_->wait(lock);
  // A sequence whose reader lags behind rests.
  for (auto& [id, active] : active_)
    if (!active.rests && active.handle->is_full()) {
      active.rests = true;
      scheduler_.set_ready(id, false);
    }
  draw_late();
  if (active_.empty()) return;
  StepBudget budget;
  budget.n_rows = options_.n_batch;
  if (active_.size() > 1) {
    budget.seconds = options_.step_seconds;
    budget.cost = &cost_;
  }
  const StepPlan plan = scheduler_.plan(budget, now_us());
  if (plan.empty()) {
    scheduler_.commit(plan, {});
    work_->wait_for(lock, std::chrono::milliseconds(20));
    return;
  }
  const auto start = std::chrono::steady_clock::now();
  Step step(*this, plan);
  in_step_ = &plan;
  abort_step_ = closing_;
  lock.unlock();
  std::exception_ptr failed;
  try {
    step.run();
  } catch (...) { failed = std::current_exception(); }
  const double seconds = seconds_since(start);
  lock.lock();
  in_step_ = nullptr;
  stats_.forward_seconds += seconds;
  if (failed) {
    scheduler_.abandon(plan);
    if (!abort_step_)
      for (const Span& span : plan.spans) step.outcome.failures.push_back({span.id, failed});
    step.outcome.results.clear();
    step.outcome.endings.clear();
  } else {
    cost_.observe(plan.n_rows, plan.attended, seconds);
    scheduler_.commit(plan, step.outcome.results);
  }
  settle(step.outcome);
  // End the requests that were cancelled during the step.
  std::erase_if(active_, [&](auto& item) {
    if (!item.second.cancelled) return false;
    end(item.second, Finish::cancelled);
    return true;
  });
  stats_.busy_seconds += seconds_since(start);
  wake();
  changed_->notify_all();
}

}  // namespace hrun
