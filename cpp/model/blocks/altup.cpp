#include "model/blocks/altup.h"

#include <algorithm>

namespace hrun {
namespace {

constexpr float kLeastSquare = 1e-5f;  // the mean of a product's squares, where it is divided by

struct Scratch {
  FloatView router, factors, change;

  Scratch(Arena& arena, const HyperParams& p, int64_t n) {
    router = arena.take(n, p.n_states), factors = arena.take(n, p.n_states * p.n_states);
    change = arena.take(n, p.n_embd);
  }
};

FloatView beside_scratch(Arena& arena, const HyperParams& p, int64_t n) {
  return arena.take(n, (p.n_states - 1) * p.n_embd);
}

// out = W tanh(R norm(x) / width)
void routed(const Pass& pass, int64_t l, FloatView x, Role weight, FloatView router,
            FloatView out) {
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  pass.multiply(
      *model.weight(l, Role::altup_router),
      MatmulInput::normed(x, *model.weight(l, Role::altup_router_norm), pass.params().norm_eps),
      router);
  backend.scale(router, 1 / static_cast<float>(x.cols));
  backend.soft_cap(router, 1);
  pass.multiply(*model.weight(l, weight), router, out);
}

// Gives each state of `beside` the rms of the first.
void match_first(const Pass& pass, const FloatView& beside, const FloatView& first) {
  for (int64_t i = 0; i < beside.cols / first.cols; ++i)
    pass.backend().match_rms(state_of(beside, i, first.cols), first, kLeastSquare);
}

}  // namespace

FloatView state_of(const FloatView& states, int64_t number, int64_t width) {
  return columns(states, number * width, width);
}

size_t altup_scratch_floats(const ModelSpec& spec, int64_t n_rows) {
  const HyperParams& p = spec.params;
  if (p.n_states == 1) return 0;
  Arena layer, beside;
  Scratch(layer, p, n_rows);
  beside_scratch(beside, p, n_rows);
  return std::max(layer.used_floats(), beside.used_floats());
}

void begin_states(const Pass& pass, FloatView x) {
  const HyperParams& p = pass.params();
  if (p.n_states == 1) return;
  const FloatView states = pass.rows(pass.work.states);
  const FloatView beside = columns(states, p.n_embd, (p.n_states - 1) * p.n_embd);
  pass.backend().copy_heads(x, 0, states, 0, 1, p.n_embd);
  pass.multiply_heads(pass.model.slices(Role::altup_proj), x, 0, beside, p.n_embd);
  match_first(pass, beside, x);
}

void predict_states(const Pass& pass, int64_t l, FloatView x) {
  const HyperParams& p = pass.params();
  if (p.n_states == 1) return;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const Scratch s(arena, p, pass.n);
  const FloatView states = pass.rows(pass.work.states), out = pass.rows(pass.work.predicted);
  routed(pass, l, state_of(states, p.active_state, p.n_embd), Role::altup_predict, s.router,
         s.factors);
  backend.mix_heads(s.factors, 0, states, static_cast<int>(p.n_states), states, out);
  backend.copy_heads(state_of(out, p.active_state, p.n_embd), 0, x, 0, 1, p.n_embd);
}

void correct_states(const Pass& pass, int64_t l, FloatView x) {
  const HyperParams& p = pass.params();
  if (p.n_states == 1) return;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const Scratch s(arena, p, pass.n);
  const FloatView predicted = pass.rows(pass.work.predicted);
  const FloatView factors{s.factors.data, pass.n, p.n_states, p.n_states};
  routed(pass, l, x, Role::altup_correct, s.router, factors);
  backend.copy_heads(state_of(predicted, p.active_state, p.n_embd), 0, s.change, 0, 1, p.n_embd);
  backend.scale(s.change, -1);
  backend.add(s.change, x);
  backend.mix_heads(factors, 1, s.change, 1, predicted, pass.rows(pass.work.states));
}

void end_states(const Pass& pass, FloatView x) {
  const HyperParams& p = pass.params();
  if (p.n_states == 1) return;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const FloatView beside = beside_scratch(arena, p, pass.n), states = pass.rows(pass.work.states);
  const FloatView first = state_of(states, 0, p.n_embd);
  pass.multiply_heads(pass.model.slices(Role::altup_unembd),
                      columns(states, p.n_embd, (p.n_states - 1) * p.n_embd), p.n_embd, beside,
                      p.n_embd);
  match_first(pass, beside, first);
  backend.copy_heads(first, 0, x, 0, 1, p.n_embd);
  for (int64_t i = 0; i + 1 < p.n_states; ++i) backend.add(x, state_of(beside, i, p.n_embd));
  backend.scale(x, 1 / static_cast<float>(p.n_states));
}

}  // namespace hrun
