#include "model/forward.h"

#include <algorithm>

#include "model/blocks/altup.h"
#include "model/blocks/block.h"
#include "model/blocks/laurel.h"
#include "model/blocks/per_layer.h"

namespace hrun {
namespace {

// The operations of a pass on one backend, between begin_pass() and end_pass(), whatever is thrown.
class Recorded {
 public:
  Recorded(Backend& backend, const PassInfo& info)
      : ran(backend.begin_pass(info)), backend_(backend) {}
  Recorded(const Recorded&) = delete;
  Recorded& operator=(const Recorded&) = delete;
  ~Recorded() {
    if (!finished_) backend_.end_pass(false);
  }
  // Returns false if nothing has run and the operations are to be run again.
  bool finish() {
    finished_ = true;
    return backend_.end_pass(true);
  }

  const bool ran;

 private:
  Backend& backend_;
  bool finished_ = false;
};

// One pass: names the tensors so that the layer reads like the formula.
class Decoder {
 public:
  explicit Decoder(const Pass& pass)
      : pass_(pass),
        model_(pass.model),
        backend_(pass.backend()),
        params_(pass.params()),
        w_(pass.work),
        x_(pass.rows(w_.x)) {}

  void embed(std::span<const int32_t> tokens) {
    backend_.embed(*model_.weight(Role::token_embd), tokens, x_);
    if (params_.embd_scale != 1) backend_.scale(x_, static_cast<float>(params_.embd_scale));
    if (const DeviceTensor* table = model_.weight(Role::position_embd)) {
      backend_.embed(*table, pass_.batch.positions, pass_.rows(w_.normed));
      backend_.add(x_, pass_.rows(w_.normed));
    }
    if (const DeviceTensor* types = model_.weight(Role::token_types)) {
      const std::vector<int32_t> zeros(static_cast<size_t>(x_.rows), 0);
      const std::span<const int32_t> own = pass_.batch.types;
      backend_.embed(*types, own.empty() ? std::span<const int32_t>(zeros) : own,
                     pass_.rows(w_.normed));
      backend_.add(x_, pass_.rows(w_.normed));
    }
    if (const DeviceTensor* weight = model_.weight(Role::embd_norm))
      pass_.norm(x_, *weight, model_.weight(Role::embd_norm_bias), x_);
    embed_per_layer(pass_, tokens, x_);
    begin_states(pass_, x_);
  }

  void layer(int64_t l) {
    const FloatView projected = pass_.rows(w_.projected), fed = pass_.rows(w_.fed);
    const LayerParams& p = params_.layer(l);
    const bool mixes = p.mixer != Mixer::none, feeds = p.feed != Feed::none;
    predict_states(pass_, l, x_);
    const bool learned = learned_residual(pass_, l, x_, fed, projected);
    if (mixes) run_mixer(pass_, l, input_of(l, Role::attn_norm), projected);
    if (model_.description().norm_after_add) {
      add_and_norm(l, projected, Role::attn_post_norm, Role::attn_post_norm_bias);
      run_feed(pass_, l, x_, fed);
      add_and_norm(l, fed, Role::ffn_post_norm, Role::ffn_post_norm_bias);
      return;
    }
    if (mixes) finish(l, Role::attn_post_norm, projected);
    if (params_.parallel) {
      run_feed(pass_, l, input_of(l, Role::ffn_norm), fed);
      backend_.add(x_, projected);
    } else {
      if (mixes) backend_.add(x_, projected);
      if (learned) add_learned_residual(pass_, fed, x_);
      if (feeds) run_feed(pass_, l, input_of(l, Role::ffn_norm), fed);
    }
    if (feeds) {
      finish(l, Role::ffn_post_norm, fed);
      backend_.add(x_, fed);
    }
    correct_states(pass_, l, x_);
    add_per_layer(pass_, l, x_);
    if (const std::vector<float>& scale = model_.host_vectors(l).layer_scale; !scale.empty())
      backend_.scale(x_, scale.front());
  }

  // Makes one hidden state of what leaves the last layer.
  void end() { end_states(pass_, x_); }

  // Makes the logits of as many rows at a time as the workspace holds.
  void all_logits(const PassOutputs& outputs) {
    const std::span<const int32_t> rows = outputs.logit_rows;
    for (size_t done = 0; done < rows.size();) {
      const auto some = rows.subspan(
          done, std::min(rows.size() - done, static_cast<size_t>(w_.max_logit_rows())));
      head(some);
      give_logits(done, some.size(), outputs);
      done += some.size();
    }
  }

  // Brings the logits in the workspace to where they are wanted.
  void give_logits(size_t first, size_t rows, const PassOutputs& outputs) {
    const auto n_vocab = static_cast<size_t>(params_.n_vocab);
    std::vector<float> here;
    float* to = outputs.logits ? outputs.logits + first * n_vocab : nullptr;
    if (!to) {
      here.resize(rows * n_vocab);
      to = here.data();
    }
    backend_.read(w_.logits.data, {reinterpret_cast<uint8_t*>(to), rows * n_vocab * sizeof(float)});
    if (outputs.on_logits) outputs.on_logits(first, {to, rows * n_vocab});
  }

  // The logits of some rows, into the workspace.
  void head(std::span<const int32_t> rows) {
    const FloatView x = picked(rows);
    const FloatView y = first_rows(w_.logits, x.rows);
    pass_.multiply(
        model_.head(),
        normed(x, model_.weight(Role::output_norm), model_.weight(Role::output_norm_bias)), y);
    if (const DeviceTensor* bias = model_.weight(Role::output_bias)) backend_.add_bias(y, *bias);
    if (params_.logit_scale != 1) backend_.scale(y, static_cast<float>(params_.logit_scale));
    if (params_.logit_soft_cap > 0)
      backend_.soft_cap(y, static_cast<float>(params_.logit_soft_cap));
  }

  // Do some rows lie apart, so that they have to be copied for a product?
  static bool brings_together(std::span<const int32_t> rows) {
    return !rows.empty() && rows.back() - rows.front() + 1 != static_cast<int32_t>(rows.size());
  }

  // The hidden states of some rows after the last norm.
  void read_hidden(std::span<const int32_t> rows, float* out) {
    const FloatView x = picked(rows);
    const FloatView y = first_rows(w_.projected, x.rows);
    if (const DeviceTensor* weight = model_.weight(Role::output_norm))
      pass_.norm(x, *weight, model_.weight(Role::output_norm_bias), y);
    else
      backend_.copy_heads(x, 0, y, 0, 1, x.cols);
    backend_.read(y.data, {reinterpret_cast<uint8_t*>(out),
                           static_cast<size_t>(y.rows * y.cols) * sizeof(float)});
  }

 private:
  // Some rows of x, rising: the place where they lie, or a copy that brings them together.
  FloatView picked(std::span<const int32_t> rows) {
    const auto n = static_cast<int64_t>(rows.size());
    if (!brings_together(rows)) return {x_.row(rows.front()), n, x_.cols, x_.stride};
    const FloatView out = first_rows(w_.fed, n);
    backend_.gather_rows(x_, rows, out);
    return out;
  }
  // The input of a block: x, normed where the model has a norm there.
  MatmulInput normed(FloatView x, const DeviceTensor* weight, const DeviceTensor* bias) {
    if (!weight) return x;
    if (params_.norm == Norm::rms) return MatmulInput::normed(x, *weight, params_.norm_eps);
    const FloatView out = first_rows(w_.normed, x.rows);
    backend_.layer_norm(x, *weight, bias, params_.norm_eps, out);
    return out;
  }
  // The input of the mixer or the feed-forward block, after its norm.  Where the two stand side by
  // side and there is only one norm, both read its output.
  MatmulInput input_of(int64_t l, Role norm) {
    if (params_.parallel && !model_.weight(l, norm))
      norm = norm == Role::attn_norm ? Role::ffn_norm : Role::attn_norm;
    const Role bias = norm == Role::attn_norm ? Role::attn_norm_bias : Role::ffn_norm_bias;
    return normed(x_, model_.weight(l, norm), model_.weight(l, bias));
  }

  void add_and_norm(int64_t l, FloatView y, Role weight, Role bias) {
    backend_.add(x_, y);
    pass_.norm(x_, *model_.weight(l, weight), model_.weight(l, bias), x_);
  }

  // Changes a block's output before it is added.
  void finish(int64_t l, Role post_norm, FloatView y) {
    const double own = model_.description().post_norm_eps;
    const float eps = own > 0 ? static_cast<float>(own) : params_.norm_eps;
    if (const DeviceTensor* weight = model_.weight(l, post_norm))
      backend_.rms_norm(y, *weight, eps, y);
    if (params_.residual_scale != 1) backend_.scale(y, static_cast<float>(params_.residual_scale));
  }

  const Pass& pass_;
  const Model& model_;
  Backend& backend_;
  const HyperParams& params_;
  Workspace& w_;
  FloatView x_;
};

// Hidden states, and the vectors that layers have for each token, side by side in rows on the host.
void read_states(const Workspace& work, int64_t n, int64_t width, float* out) {
  int64_t at = 0;
  std::vector<float> values;
  for (const FloatView& view : work.between_layers()) {
    if (view.cols == 0 || n == 0) continue;
    values.resize(static_cast<size_t>(n * view.cols));
    work.backend().read(view.data,
                        {reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(float)});
    for (int64_t r = 0; r < n; ++r)
      std::copy_n(values.data() + r * view.cols, view.cols, out + r * width + at);
    at += view.cols;
  }
}

void write_states(const Workspace& work, int64_t n, int64_t width, const float* in) {
  int64_t at = 0;
  std::vector<float> values;
  for (const FloatView& view : work.between_layers()) {
    if (view.cols == 0 || n == 0) continue;
    values.resize(static_cast<size_t>(n * view.cols));
    for (int64_t r = 0; r < n; ++r)
      std::copy_n(in + r * width + at, view.cols, values.data() + r * view.cols);
    work.backend().write(view.data, {reinterpret_cast<const uint8_t*>(values.data()),
                                     values.size() * sizeof(float)});
    at += view.cols;
  }
}

void check_part(const Model& model, bool wants_logits, const LayerStates& states) {
  if (model.embeds() != !states.in)
    throw ArgumentError(model.embeds()
                            ? "layers from {} on embed the tokens, and take no states"
                            : "layers from {} on take the states that the layer before gave",
                        model.part().first);
  if (wants_logits && !model.has_head())
    throw ArgumentError("layers {} to {} (exclusive) have no head, and give no logits",
                        model.part().first, model.part().end);
}

}  // namespace

void forward(const Model& model, std::span<Workspace> workspaces, const ModelCache& cache,
             const Batch& batch, const PassOutputs& outputs, const std::function<void()>& poll,
             MatmulObserver* observer, LayerStates states) {
  const int64_t n = batch.n_rows();
  const auto n_logits = static_cast<int64_t>(outputs.logit_rows.size());
  check_part(model, n_logits > 0, states);
  // A record cannot repeat work in which the host takes part (blocks of some kinds, rows to look
  // up).
  const bool repeatable = !observer && !states.in && !states.out && outputs.hidden_rows.empty() &&
                          !Decoder::brings_together(outputs.logit_rows) &&
                          n_logits <= workspaces.back().max_logit_rows();
  const Workspace* before = nullptr;
  for (const LayerRun& run : model.runs()) {
    Workspace& work = workspaces[run.device];
    const bool embeds = !before && model.embeds(), is_last = &run == &model.runs().back();
    const bool has_head = is_last && n_logits > 0;
    const bool logits_fit = n_logits <= work.max_logit_rows();
    const Pass pass{model, work, cache, batch, observer};
    Decoder decoder(pass);
    if (before) {
      const auto pass_on = [&](const FloatView& from, const FloatView& to) {
        std::vector<uint8_t> values(static_cast<size_t>(n * from.cols) * sizeof(float));
        if (values.empty()) return;
        before->backend().read(from.data, values);
        work.backend().write(to.data, values);
      };
      const auto from = before->between_layers(), to = work.between_layers();
      for (size_t i = 0; i < from.size(); ++i) pass_on(from[i], to[i]);
    } else if (states.in) {
      write_states(work, n, model.state_width(), states.in);
    }
    for (bool done = false; !done;) {
      Recorded recorded(work.backend(),
                        {work.id(), batch, n_logits, repeatable && work.repeatable()});
      if (!recorded.ran) {
        if (embeds) decoder.embed(batch.tokens);
        for (int64_t l = run.first_layer; l < run.end_layer; ++l) {
          if (poll) poll();
          decoder.layer(l);
        }
        if (is_last && model.part().end > model.params().n_layers &&
            (n_logits > 0 || !outputs.hidden_rows.empty()))
          decoder.end();
        if (has_head && logits_fit) decoder.head(outputs.logit_rows);
      }
      done = recorded.finish();
    }
    if (has_head && (outputs.logits || outputs.on_logits)) {
      if (logits_fit)
        decoder.give_logits(0, outputs.logit_rows.size(), outputs);
      else
        decoder.all_logits(outputs);
    }
    if (is_last && !outputs.hidden_rows.empty())
      decoder.read_hidden(outputs.hidden_rows, outputs.hidden);
    if (is_last && states.out) read_states(work, n, model.state_width(), states.out);
    before = &work;
  }
}

}  // namespace hrun
