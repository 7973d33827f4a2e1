#include "model/forward.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "formats/list.h"

namespace hrun {
namespace {

FloatView first_rows(const FloatView& view, int64_t rows) { return {view.data, rows, view.cols, view.stride}; }

std::span<const uint8_t> as_bytes(std::span<const float> values) {
  return {reinterpret_cast<const uint8_t*>(values.data()), values.size_bytes()};
}

// The factors of rope_freqs.weight, or nothing.
std::vector<float> rope_factors(const Model& model) {
  const gguf::TensorInfo* info = model.plan().global(Role::rope_freqs);
  if (!info) return {};
  const TensorView view = model.file().view(*info);
  std::vector<float> factors(static_cast<size_t>(view.cols));
  find_format(view.format)->decode_row(view.data, view.cols, factors.data());
  return factors;
}

}  // namespace

FloatView Workspace::floats(const Model& model, int64_t rows, int64_t cols, const char* what) {
  const size_t bytes = static_cast<size_t>(rows) * static_cast<size_t>(cols) * sizeof(float);
  buffers_.push_back(model.backend().allocate(bytes, what));
  bytes_ += bytes;
  return {static_cast<float*>(buffers_.back()->data), rows, cols, cols};
}

Workspace::Workspace(const Model& model, int64_t max_tokens, int64_t n_ctx) : max_tokens_(max_tokens) {
  const HyperParams& p = model.params();
  // At most 64 MiB of logits at a time.
  logit_rows_ = std::clamp<int64_t>((16 << 20) / p.n_vocab, 1, max_tokens);
  const char* what = "the activations of a batch";
  x_ = floats(model, max_tokens, p.n_embd, what);
  q_ = floats(model, max_tokens, p.n_heads * p.k_dim, what);
  k_ = floats(model, max_tokens, p.n_kv_heads * p.k_dim, what);
  v_ = floats(model, max_tokens, p.n_kv_heads * p.v_dim, what);
  attention_ = floats(model, max_tokens, p.n_heads * p.v_dim, what);
  projected_ = floats(model, max_tokens, p.n_embd, what);
  gate_ = floats(model, max_tokens, p.n_ff, what);
  up_ = floats(model, max_tokens, p.n_ff, what);
  logits_ = floats(model, logit_rows_, p.n_vocab, "the logits of a batch");

  const RopeTable table = make_rope_table(p, rope_factors(model), n_ctx);
  const FloatView cos = floats(model, n_ctx, p.n_rot / 2, "the rotary table");
  model.backend().write(*buffers_.back(), 0, as_bytes(table.cos));
  const FloatView sin = floats(model, n_ctx, p.n_rot / 2, "the rotary table");
  model.backend().write(*buffers_.back(), 0, as_bytes(table.sin));
  rope_ = {model.plan().description->rope, static_cast<int>(p.n_rot), cos.data, sin.data};
}

// One pass: names the tensors so that the layer reads like the formula.
class Decoder {
 public:
  Decoder(const Model& model, Workspace& w, int64_t n_tokens, int64_t first_position, MatmulObserver* observer)
      : model_(model), observer_(observer), backend_(model.backend()), params_(model.params()), w_(w), first_(first_position),
        x_(first_rows(w.x_, n_tokens)), n_(n_tokens) {}

  void embed(std::span<const int32_t> tokens) { backend_.embed(*model_.weight(Role::token_embd), tokens, x_); }

  void layer(int64_t l, const KVLayer& cache) {
    attention(l, cache);
    feed_forward(l);
  }

  void logits(int64_t n_logits, float* out) {
    for (int64_t done = 0; done < n_logits; done += w_.max_logit_rows()) {
      const int64_t rows = std::min(w_.max_logit_rows(), n_logits - done);
      const int64_t first = n_ - n_logits + done;
      const FloatView tail = {x_.row(first), rows, x_.cols, x_.stride};
      const FloatView y = first_rows(w_.logits_, rows);
      const MatmulTarget target{&model_.head(), y};
      matmul({&target, 1}, MatmulInput::normed(tail, *model_.weight(Role::output_norm), params_.rms_eps));
      const size_t bytes = static_cast<size_t>(rows * params_.n_vocab) * sizeof(float);
      backend_.read(y.data, {reinterpret_cast<uint8_t*>(out + done * params_.n_vocab), bytes});
    }
  }

 private:
  void attention(int64_t l, const KVLayer& cache) {
    const FloatView q = first_rows(w_.q_, n_), k = first_rows(w_.k_, n_), v = first_rows(w_.v_, n_);
    const FloatView mixed = first_rows(w_.attention_, n_), projected = first_rows(w_.projected_, n_);
    const MatmulTarget qkv[] = {{model_.weight(l, Role::attn_q), q}, {model_.weight(l, Role::attn_k), k},
                                {model_.weight(l, Role::attn_v), v}};
    matmul(qkv, normed(l, Role::attn_norm));
    bias(l, Role::attn_q_bias, q);
    bias(l, Role::attn_k_bias, k);
    bias(l, Role::attn_v_bias, v);
    backend_.rope(q, static_cast<int>(params_.n_heads), w_.rope_, first_);
    backend_.rope(k, static_cast<int>(params_.n_kv_heads), w_.rope_, first_);
    backend_.kv_append(cache, k, v, first_);
    const auto scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(params_.k_dim)));
    backend_.attention(q, cache, first_, {static_cast<int>(params_.n_heads), scale}, mixed);
    const MatmulTarget output{model_.weight(l, Role::attn_output), projected};
    matmul({&output, 1}, mixed);
    bias(l, Role::attn_output_bias, projected);
    backend_.add(x_, projected);
  }

  void feed_forward(int64_t l) {
    const FloatView gate = first_rows(w_.gate_, n_), up = first_rows(w_.up_, n_);
    const FloatView projected = first_rows(w_.projected_, n_);
    const MatmulTarget gate_up[] = {{model_.weight(l, Role::ffn_gate), gate}, {model_.weight(l, Role::ffn_up), up}};
    matmul(gate_up, normed(l, Role::ffn_norm));
    bias(l, Role::ffn_gate_bias, gate);
    bias(l, Role::ffn_up_bias, up);
    const MatmulTarget down{model_.weight(l, Role::ffn_down), projected};
    matmul({&down, 1}, MatmulInput::gated(gate, up));
    bias(l, Role::ffn_down_bias, projected);
    backend_.add(x_, projected);
  }

  MatmulInput normed(int64_t l, Role role) const { return MatmulInput::normed(x_, *model_.weight(l, role), params_.rms_eps); }

  void matmul(std::span<const MatmulTarget> targets, const MatmulInput& x) {
    if (observer_) observer_->matmul_input(targets, x);
    backend_.matmul(targets, x);
  }

  void bias(int64_t l, Role role, FloatView y) {
    if (const DeviceTensor* b = model_.weight(l, role)) backend_.add_bias(y, *b);
  }

  const Model& model_;
  MatmulObserver* observer_;
  Backend& backend_;
  const HyperParams& params_;
  Workspace& w_;
  int64_t first_;
  FloatView x_;
  int64_t n_;
};

void forward(const Model& model, Workspace& workspace, std::span<const KVLayer> cache, std::span<const int32_t> tokens,
             int64_t first_position, int64_t n_logits, float* logits, const std::function<void()>& poll,
             MatmulObserver* observer) {
  Decoder decoder(model, workspace, static_cast<int64_t>(tokens.size()), first_position, observer);
  decoder.embed(tokens);
  for (size_t l = 0; l < cache.size(); ++l) {
    if (poll) poll();
    decoder.layer(static_cast<int64_t>(l), cache[l]);
  }
  if (n_logits > 0) decoder.logits(n_logits, logits);
}

}  // namespace hrun
