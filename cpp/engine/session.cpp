#include "engine/session.h"

#include <algorithm>
#include <limits>
#include <numeric>

#include "base/error.h"

namespace hrun {
namespace {

int64_t context_size(const Model& model, const SessionOptions& options) {
  if (options.n_ctx < 0)
    throw ArgumentError("n_ctx is {}, must be at least 1 (or 0 for the model's own)",
                        options.n_ctx);
  if (options.n_batch < 1)
    throw ArgumentError("n_batch is {}, must be at least 1", options.n_batch);
  return options.n_ctx > 0 ? options.n_ctx : model.params().n_ctx_train;
}

// Positions are 32-bit numbers, and a page number as well.
int64_t pages_for(int64_t n_positions) {
  if (n_positions > std::numeric_limits<int32_t>::max() - kPagePositions)
    throw OutOfMemoryError("a KV cache of {} positions is larger than the address space",
                           n_positions);
  return (n_positions + kPagePositions - 1) / kPagePositions;
}

}  // namespace

Session::Session(std::shared_ptr<const Model> model, const SessionOptions& options)
    : model_(std::move(model)),
      n_ctx_(context_size(*model_, options)),
      cache_(*model_, pages_for(n_ctx_), cache_type_named(options.type_k),
             cache_type_named(options.type_v)),
      pages_(consecutive_pages(n_ctx_)) {
  for (size_t d = 0; d < model_->n_backends(); ++d)
    workspaces_.emplace_back(*model_, d, std::min(options.n_batch, n_ctx_), n_ctx_);
}

size_t Session::memory_bytes() const {
  size_t bytes = cache_.bytes();
  for (const Workspace& w : workspaces_) bytes += w.bytes();
  return bytes;
}

void Session::forward(std::span<const int32_t> tokens, Logits which,
                      const std::function<void()>& poll, MatmulObserver* observer) {
  const int64_t n_vocab = model_->params().n_vocab;
  const auto n = static_cast<int64_t>(tokens.size());
  for (int64_t i = 0; i < n; ++i)
    if (tokens[static_cast<size_t>(i)] < 0 || tokens[static_cast<size_t>(i)] >= n_vocab)
      throw ArgumentError("token {} is {}, the vocabulary has {} tokens", i,
                          tokens[static_cast<size_t>(i)], n_vocab);
  if (n > n_ctx_ - n_past_)
    throw ContextOverflowError("{} tokens do not fit: the context holds {} and {} are in use", n,
                               n_ctx_, n_past_);

  const int64_t rows = which == Logits::none || which == Logits::kept || n == 0 ? 0
                       : which == Logits::last                                  ? 1
                                                                                : n;
  logits_.resize(static_cast<size_t>(rows * n_vocab));
  for (int64_t done = 0; done < n;) {
    const int64_t count = std::min(workspaces_.front().max_tokens(), n - done);
    const bool is_last = done + count == n;
    const int64_t wanted = which == Logits::all ? count : which != Logits::none && is_last ? 1 : 0;
    rows_.clear();
    rows_.add(tokens.subspan(static_cast<size_t>(done), static_cast<size_t>(count)), n_past_ + done,
              pages_);
    wanted_.resize(static_cast<size_t>(wanted));
    std::iota(wanted_.begin(), wanted_.end(), static_cast<int32_t>(count - wanted));
    PassOutputs outputs;
    outputs.logit_rows = wanted_;
    if (wanted > 0 && which != Logits::kept)
      outputs.logits = logits_.data() + (which == Logits::all ? done * n_vocab : 0);
    hrun::forward(*model_, workspaces_, cache_.slots(), rows_.batch(), outputs, poll, observer);
    model_->file().check_readable();  // weights may lie in it
    done += count;
  }
  logits_kept_ = which == Logits::kept && n > 0;
  n_past_ += n;  // only now: an exception above leaves the position where it was
}

void Session::truncate(int64_t n) {
  if (n < 0 || n > n_past_)
    throw ArgumentError("cannot truncate to position {}, the session stands at {}", n, n_past_);
  n_past_ = n;
}

int32_t Session::next(std::span<const int32_t> tokens, Sampler& sampler,
                      const std::function<void()>& poll) {
  const size_t device = model_->runs().back().device;
  Backend& head = model_->backend(device);
  if (!head.samples() || !sampler.runs_on_device()) {
    forward(tokens, Logits::last, poll);
    return sampler.sample(last_logits());
  }
  const int64_t n_vocab = model_->params().n_vocab;
  const std::vector<SampleEdit> edits = sampler.edits(n_vocab);
  uint64_t generator = sampler.generator();
  forward(tokens, Logits::kept, poll);
  if (!logits_kept_) return sampler.sample(last_logits());  // no tokens: says so
  const SampleResult drawn =
      head.sample(workspaces_[device].logits.data, n_vocab, sampler.settings(), edits, generator);
  if (drawn.status != SampleStatus::ok)
    return sampler.sample(last_logits());  // which says what is wrong with them
  sampler.accept_drawn(drawn.token, generator);
  return drawn.token;
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
