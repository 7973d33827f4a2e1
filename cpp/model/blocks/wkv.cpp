#include "model/blocks/wkv.h"

#include <cmath>

#include "model/blocks/token_shift.h"

namespace hrun {
namespace {

constexpr float kNormEps = 64e-5f;    // of what leaves the heads, in every model
constexpr float kLengthEps = 1e-24f;  // of keys that are divided by their length

// The places of the six mixtures in Role::wkv_shift.
enum Shift : size_t { kQueries, kDecays, kKeys, kValues, kRates, kGates };

struct Scratch {
  FloatView x, step, mixed;  // the input, the step back, a mixture of both
  FloatView q, decay, k, v, rate, gate, removed, replaced, y;
  FloatView decay_narrow, rate_narrow, first_narrow, gate_narrow;
  FloatView bonus;  // a number for each head

  Scratch(Arena& arena, const HyperParams& p, int64_t l, int64_t n) {
    for (FloatView* view :
         {&x, &step, &mixed, &q, &decay, &k, &v, &rate, &gate, &removed, &replaced, &y})
      *view = arena.take(n, p.n_embd);
    decay_narrow = arena.take(n, p.wkv.decay_rank);
    rate_narrow = arena.take(n, p.wkv.rate_rank);
    first_narrow = arena.take(n, size_of(Dim::wkv_first_rank, p, l));
    gate_narrow = arena.take(n, p.wkv.gate_rank);
    bonus = arena.take(n, p.n_embd / p.wkv.head_dim);
  }
};

// One block of a layer: its operations by short names.
class Block {
 public:
  Block(const Pass& pass, int64_t layer, const Scratch& scratch)
      : pass_(pass), layer_(layer), s_(scratch), backend_(pass.backend()) {}

  void run(const MatmulInput& input, FloatView out) {
    const FloatView x = pass_.stored(input, s_.x);
    const StateSlot& state = pass_.state(layer_);
    step_back(pass_, layer_, x, state, s_.step);
    pass_.multiply(weight(Role::wkv_queries), mixture(x, kQueries), s_.q);
    narrowed(mixture(x, kDecays), Role::wkv_decay_in, s_.decay_narrow);
    backend_.soft_cap(s_.decay_narrow, 1);  // tanh
    pass_.multiply(weight(Role::wkv_decay_out), s_.decay_narrow, s_.decay);
    biased(s_.decay, Role::wkv_decay_bias, Nonlinearity::slow_decay);
    pass_.multiply(weight(Role::wkv_keys), mixture(x, kKeys), s_.k);
    values(mixture(x, kValues));
    narrowed(mixture(x, kRates), Role::wkv_rate_in, s_.rate_narrow);
    pass_.multiply(weight(Role::wkv_rate_out), s_.rate_narrow, s_.rate);
    biased(s_.rate, Role::wkv_rate_bias, Nonlinearity::sigmoid);
    narrowed(mixture(x, kGates), Role::wkv_gate_in, s_.gate_narrow);
    backend_.nonlinearity(Nonlinearity::sigmoid, s_.gate_narrow, s_.gate_narrow);
    pass_.multiply(weight(Role::wkv_gate_out), s_.gate_narrow, s_.gate);
    keys();
    backend_.wkv({s_.q, s_.decay, s_.k, s_.v, s_.removed, s_.replaced}, state, pass_.batch, s_.y);
    norm_heads();
    add_bonus();
    times(s_.gate, s_.y, s_.y);
    pass_.multiply(weight(Role::wkv_out), s_.y, out);
  }

 private:
  const DeviceTensor& weight(Role role) const { return *pass_.model.weight(layer_, role); }
  FloatView mixture(FloatView x, Shift shift) const {
    shifted(pass_, x, s_.step, *pass_.model.slices(layer_, Role::wkv_shift)[shift], s_.mixed);
    return s_.mixed;
  }
  void narrowed(FloatView x, Role role, FloatView out) const {
    pass_.multiply(weight(role), x, out);
  }
  void biased(FloatView x, Role bias, Nonlinearity f) const {
    backend_.add_bias(x, weight(bias));
    backend_.nonlinearity(f, x, x);
  }
  void times(FloatView a, FloatView b, FloatView out) const {
    backend_.gated(Nonlinearity::linear, a, b, out);
  }
  void copy(FloatView from, FloatView to) const {
    backend_.copy_heads(from, from.cols, to, to.cols, 1, from.cols);
  }
  // Rows of a head each.
  FloatView heads(FloatView x) const {
    const int64_t width = pass_.params().wkv.head_dim;
    return {x.data, x.rows * x.cols / width, width, width};
  }

  // The values, mixed with those of the first layer.
  void values(FloatView x) const {
    pass_.multiply(weight(Role::wkv_values), x, s_.v);
    const FloatView first = pass_.rows(pass_.work.first_values);
    if (layer_ == 0) return copy(s_.v, first);
    narrowed(x, Role::wkv_first_in, s_.first_narrow);
    pass_.multiply(weight(Role::wkv_first_out), s_.first_narrow, s_.y);
    biased(s_.y, Role::wkv_first_bias, Nonlinearity::sigmoid);
    copy(s_.v, s_.removed);
    backend_.scale(s_.removed, -1);
    backend_.add(s_.removed, first);
    times(s_.y, s_.removed, s_.removed);
    backend_.add(s_.v, s_.removed);
  }
  // The key that is removed, a part of it that is replaced, and the key of the new value.
  void keys() const {
    const auto n_heads = static_cast<int>(pass_.params().n_embd / pass_.params().wkv.head_dim);
    backend_.scale_columns(s_.k, weight(Role::wkv_removed), s_.removed);
    backend_.l2_norm(s_.removed, n_heads, kLengthEps, 1);
    backend_.scale_columns(s_.k, weight(Role::wkv_replaced), s_.mixed);
    times(s_.rate, s_.mixed, s_.replaced);
    backend_.add(s_.k, s_.replaced);
    backend_.scale(s_.mixed, -1);
    backend_.add(s_.k, s_.mixed);
    times(s_.rate, s_.removed, s_.replaced);
  }
  void norm_heads() const {
    backend_.layer_norm(heads(s_.y), weight(Role::wkv_head_norm), nullptr, kNormEps, heads(s_.y));
    backend_.scale_columns(s_.y, weight(Role::wkv_norm), s_.y);
    backend_.add_bias(s_.y, weight(Role::wkv_norm_bias));
  }
  // y += v (q . r_k k), head by head.  The product of a head's first values begins its sum.
  void add_bonus() const {
    const int64_t width = pass_.params().wkv.head_dim, rest = width - 1;
    backend_.scale_columns(s_.k, weight(Role::wkv_bonus), s_.mixed);
    times(s_.q, s_.mixed, s_.step);
    const FloatView bonus{s_.bonus.data, s_.bonus.rows * s_.bonus.cols, 1, 1};
    const FloatView first = columns(heads(s_.step), 0, 1);
    if (rest > 0)
      backend_.mix_heads(columns(heads(s_.q), 1, rest), 0, columns(heads(s_.mixed), 1, rest),
                         static_cast<int>(rest), first, bonus);
    else
      copy(first, bonus);
    backend_.mix_heads(bonus, 0, heads(s_.v), 1, heads(s_.y), heads(s_.y));
  }

  const Pass& pass_;
  const int64_t layer_;
  const Scratch& s_;
  Backend& backend_;
};

}  // namespace

BlockNeeds wkv_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows) {
  const HyperParams& p = spec.params;
  Arena count;
  Scratch(count, p, layer, n_rows);
  BlockNeeds needs;
  needs.scratch_floats = count.used_floats();
  needs.state = shift_state(p);
  needs.state.n_heads = needs.state.n_k_heads = static_cast<int>(p.n_embd / p.wkv.head_dim);
  needs.state.k_dim = needs.state.v_dim = static_cast<int>(p.wkv.head_dim);
  needs.state.grouped = true;
  needs.state.rule = Recurrence::wkv;
  return needs;
}

void wkv(const Pass& pass, int64_t layer, const MatmulInput& input, FloatView out) {
  Arena arena = pass.arena();
  const Scratch scratch(arena, pass.params(), layer, pass.n);
  Block(pass, layer, scratch).run(input, out);
}

}  // namespace hrun
