#include "model/workspace.h"

#include <algorithm>
#include <atomic>

#include "base/error.h"
#include "model/blocks/block.h"
#include "model/rope_table.h"

namespace hrun {
namespace {

std::span<const uint8_t> as_bytes(std::span<const float> values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()};
}

uint64_t next_id() {
  static std::atomic<uint64_t> last = 0;
  return ++last;
}

// Longrope has one set of factors for contexts up to the original length and one beyond.
std::vector<float> rope_factors(const Model& model, const RopeParams& p, int64_t n_ctx) {
  if (!p.has_factors) return {};
  const ModelSpec& spec = model.spec();
  const gguf::TensorInfo* long_factors = spec.global(Role::rope_long);
  if (!long_factors) return model.values_of(spec.global(Role::rope_freqs));
  return model.values_of(
      static_cast<double>(n_ctx) > p.original_ctx ? long_factors : spec.global(Role::rope_short));
}

}  // namespace

FloatView Workspace::floats(int64_t rows, int64_t cols, const char* what) {
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(cols) * sizeof(float);
  buffers_.push_back(backend_->allocate(bytes, what));
  bytes_ += bytes;
  return {static_cast<float*>(buffers_.back()->data), rows, cols, cols};
}

Rope Workspace::make_rope(const Model& model, const RopeParams& p, int64_t n_ctx) {
  const RopeTable table = make_rope_table(p, rope_factors(model, p, n_ctx), n_ctx);
  const auto stored = [&](const std::vector<float>& values) {
    const auto rows = static_cast<int64_t>(values.size()) / std::max<int64_t>(1, p.n_rot / 2);
    const FloatView view = floats(rows, p.n_rot / 2, "the rotary table");
    backend_->write(view.data, as_bytes(values));
    return view.data;
  };
  Rope rope{model.description().rope, static_cast<int>(p.n_rot), stored(table.cos),
            stored(table.sin)};
  rope.block_cos = stored(table.block_cos);
  rope.block_sin = stored(table.block_sin);
  return rope;
}

Workspace::Workspace(const Model& model, size_t device, int64_t max_tokens, int64_t n_ctx)
    : backend_(&model.backend(device)),
      id_(next_id()),
      max_tokens_(max_tokens),
      repeatable_(is_repeatable(model, device)) {
  const HyperParams& p = model.params();
  const ModelDescription& d = model.description();
  if (d.has_role(Role::position_embd) && n_ctx > p.n_ctx_train)
    throw ArgumentError(
        "a context of {} positions: this model has learned positions, and only {} of them", n_ctx,
        p.n_ctx_train);
  const char* what = "the activations of a batch";
  const auto rows = [&](int64_t cols) { return floats(max_tokens, cols, what); };
  x = rows(p.n_embd);
  normed = rows(p.n_embd);
  projected = rows(p.n_embd);
  fed = rows(p.n_embd);
  if (p.n_states > 1) {
    states = rows(p.n_states * p.n_embd);
    predicted = rows(p.n_states * p.n_embd);
  }
  if (p.wkv.head_dim > 0) first_values = rows(p.n_embd);
  if (p.n_per_layer > 0) per_layer = rows(p.n_per_layer * p.n_layers);
  scratch_ = floats(1, static_cast<int64_t>(scratch_floats(model.spec(), max_tokens)), what);
  // At most 64 MiB of logits at a time.
  const int64_t logit_rows =
      model.has_head() ? std::clamp<int64_t>((16 << 20) / p.n_vocab, 1, max_tokens) : 1;
  logits = floats(logit_rows, p.n_vocab, "the logits of a batch");
  for (const RopeParams& rope : p.ropes) ropes_.push_back(make_rope(model, rope, n_ctx));
}

}  // namespace hrun
