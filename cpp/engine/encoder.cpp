#include "engine/encoder.h"

#include <algorithm>
#include <numeric>

#include "base/error.h"
#include "engine/context.h"
#include "model/forward.h"

namespace hrun {
namespace {

// A pass with many short texts may have this many times the pages of one text that fills the pass.
constexpr int64_t kPagesTogether = 4;

// The rows of a text from which its vector is made.
struct Wanted {
  int32_t first, n;
};
Wanted wanted_rows(Pooling pooling, int64_t first, int64_t n) {
  if (pooling == Pooling::cls) return {static_cast<int32_t>(first), 1};
  if (pooling == Pooling::last) return {static_cast<int32_t>(first + n - 1), 1};
  return {static_cast<int32_t>(first), static_cast<int32_t>(n)};
}

// Adds the rows in the order of positions.
std::vector<float> mean_of(std::span<const float> rows, size_t n_embd) {
  std::vector<double> sum(n_embd, 0.0);
  for (size_t i = 0; i < rows.size(); ++i) sum[i % n_embd] += static_cast<double>(rows[i]);
  const auto n = static_cast<double>(rows.size() / n_embd);
  std::vector<float> mean(n_embd);
  for (size_t i = 0; i < n_embd; ++i) mean[i] = static_cast<float>(sum[i] / n);
  return mean;
}

}  // namespace

Encoder::Encoder(std::shared_ptr<const Model> model, int64_t n_ctx, int64_t n_batch)
    : model_(std::move(model)),
      n_ctx_(std::min(context_size(*model_, n_ctx, n_batch), model_->params().n_ctx_train)),
      n_batch_(n_batch) {
  if (!model_->spec().is_encoder())
    throw UnsupportedModelError("'{}' is no encoder", model_->description().name);
}

size_t Encoder::memory_bytes() const {
  size_t bytes = cache_ ? cache_->bytes() : 0;
  for (const Workspace& w : workspaces_) bytes += w.bytes();
  return bytes;
}

// Makes room for passes of so many rows and pages.
void Encoder::make_room(int64_t n_rows, int64_t n_pages) {
  if (!workspaces_.empty() && workspaces_.front().max_tokens() >= n_rows &&
      cache_->n_pages() >= n_pages)
    return;
  const int64_t rows = std::max(n_rows, std::min(n_batch_, n_ctx()));
  const int64_t pages = std::max(n_pages, kPagesTogether * pages_of(rows));
  workspaces_.clear();
  cache_.reset();
  for (size_t d = 0; d < model_->n_backends(); ++d)
    workspaces_.emplace_back(*model_, d, rows, n_ctx());
  cache_.emplace(*model_, pages, CacheType::f32, CacheType::f32, 0);
}

std::vector<std::vector<float>> Encoder::encode(std::span<const EncoderText> texts, Pooling pooling,
                                                const std::function<void()>& poll) {
  if (pooling == Pooling::rank) pooling = model_->params().class_pooling;
  for (const auto& [tokens, second] : texts) {
    if (tokens.empty()) throw ArgumentError("a text without tokens has no vector");
    check_tokens(*model_, tokens);
    if (static_cast<int64_t>(tokens.size()) > n_ctx())
      throw ContextOverflowError("a text has {} tokens, this encoder has {} positions{}",
                                 tokens.size(), n_ctx(),
                                 n_ctx() < model_->params().n_ctx_train
                                     ? message(" of the model's {}", model_->params().n_ctx_train)
                                     : "");
  }
  std::vector<std::vector<float>> out(texts.size());
  for (size_t first = 0, end; first < texts.size(); first = end) {
    int64_t rows = 0, pages = 0;
    for (end = first; end < texts.size(); ++end) {
      const auto n = static_cast<int64_t>(texts[end].tokens.size());
      if (end > first &&
          (rows + n > n_batch_ || pages + pages_of(n) > kPagesTogether * pages_of(n_batch_)))
        break;
      rows += n, pages += pages_of(n);
    }
    make_room(rows, pages);
    run(texts.subspan(first, end - first), pooling, poll, &out[first]);
  }
  return out;
}

void Encoder::run(std::span<const EncoderText> texts, Pooling pooling,
                  const std::function<void()>& poll, std::vector<float>* out) {
  const auto n_embd = static_cast<size_t>(model_->params().n_embd);
  std::vector<int32_t> pages(static_cast<size_t>(cache_->n_pages()));
  std::iota(pages.begin(), pages.end(), 0);
  BatchRows rows;
  std::vector<int32_t> wanted, types;
  size_t page = 0;
  const bool has_types = model_->params().n_token_types > 1;
  for (const auto& [tokens, second] : texts) {
    const auto n = static_cast<int64_t>(tokens.size());
    const auto n_pages = static_cast<size_t>(pages_of(n));
    const Wanted from = wanted_rows(pooling, rows.n_rows(), n);
    for (int32_t i = 0; i < from.n; ++i) wanted.push_back(from.first + i);
    rows.add(tokens, 0, std::span(pages).subspan(page, n_pages));
    page += n_pages;
    for (int64_t i = 0; has_types && i < n; ++i)
      types.push_back(second != kOneText && i >= second ? 1 : 0);
  }
  std::vector<float> hidden(wanted.size() * n_embd);
  PassOutputs outputs;
  outputs.hidden_rows = wanted;
  outputs.hidden = hidden.data();
  Batch batch = rows.batch();
  batch.types = types;
  forward(*model_, workspaces_, *cache_, batch, outputs, poll);
  model_->file().check_readable();
  std::span<const float> left = hidden;
  for (size_t i = 0; i < texts.size(); ++i) {
    const Wanted own = wanted_rows(pooling, 0, static_cast<int64_t>(texts[i].tokens.size()));
    const std::span<const float> states = left.first(static_cast<size_t>(own.n) * n_embd);
    out[i] = pooling == Pooling::mean ? mean_of(states, n_embd)
                                      : std::vector<float>(states.begin(), states.end());
    left = left.subspan(states.size());
  }
}

}  // namespace hrun
