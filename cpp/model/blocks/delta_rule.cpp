#include "model/blocks/delta_rule.h"

#include <cmath>

namespace hrun {
namespace {

constexpr float kNormEps = 1e-6f;  // of keys and queries, in every model

struct Scratch {
  FloatView qkv, q, k, v;  // parts of qkv
  FloatView z, decay, beta, both, mixed;

  Scratch(Arena& arena, const ModelSpec& spec, int64_t l, int64_t n) {
    const DeltaParams& p = spec.params.delta;
    const int64_t keys = p.n_k_heads * p.k_dim, values = p.n_v_heads * p.v_dim;
    qkv = arena.take(n, 2 * keys + values);
    q = columns(qkv, 0, keys), k = columns(qkv, keys, keys), v = columns(qkv, 2 * keys, values);
    z = arena.take(n, values), mixed = arena.take(n, values);
    decay = arena.take(n, p.n_v_heads), beta = arena.take(n, p.n_v_heads);
    if (spec.layer(l, Role::delta_beta_step)) both = arena.take(n, 2 * p.n_v_heads);
  }
};

}  // namespace

BlockNeeds delta_rule_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows) {
  const DeltaParams& p = spec.params.delta;
  Arena count;
  const Scratch scratch(count, spec, layer, n_rows);
  BlockNeeds needs;
  needs.scratch_floats = count.used_floats();
  needs.state.n_channels = static_cast<int>(scratch.qkv.cols);
  needs.state.n_past = static_cast<int>(spec.params.n_taps - 1);
  needs.state.n_heads = static_cast<int>(p.n_v_heads);
  needs.state.k_dim = static_cast<int>(p.k_dim);
  needs.state.v_dim = static_cast<int>(p.v_dim);
  needs.state.n_k_heads = static_cast<int>(p.n_k_heads);
  needs.state.grouped = spec.description->delta_grouped;
  needs.state.rule = Recurrence::delta_rule;
  return needs;
}

void delta_rule(const Pass& pass, int64_t l, const MatmulInput& input, FloatView out) {
  const DeltaParams& p = pass.params().delta;
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const Scratch s(arena, model.spec(), l, pass.n);
  const StateSlot& state = pass.state(l);
  const DeviceTensor* const qkv = model.weight(l, Role::delta_qkv);
  const DeviceTensor* const gate = model.weight(l, Role::delta_gate);
  if (const DeviceTensor* both = model.weight(l, Role::delta_beta_step)) {
    // Each key head has the betas of its value heads, then their steps.
    const MatmulTarget targets[] = {{qkv, s.qkv}, {gate, s.z}, {both, s.both}};
    pass.multiply(targets, input);
    const auto n_heads = static_cast<int>(p.n_k_heads);
    const int64_t r = p.n_v_heads / p.n_k_heads;
    backend.copy_heads(s.both, 2 * r, s.beta, r, n_heads, r);
    backend.copy_heads(columns(s.both, r, s.both.cols - r), 2 * r, s.decay, r, n_heads, r);
  } else {
    const MatmulTarget targets[] = {{qkv, s.qkv},
                                    {gate, s.z},
                                    {model.weight(l, Role::delta_beta), s.beta},
                                    {model.weight(l, Role::delta_step), s.decay}};
    pass.multiply(targets, input);
  }
  backend.short_conv(s.qkv, *model.weight(l, Role::delta_conv), state, pass.batch, true, s.qkv);
  const auto n_k_heads = static_cast<int>(p.n_k_heads), n_v_heads = static_cast<int>(p.n_v_heads);
  backend.l2_norm(s.q, n_k_heads, kNormEps, 1 / std::sqrt(static_cast<float>(p.k_dim)));
  backend.l2_norm(s.k, n_k_heads, kNormEps, 1);
  backend.decay(s.decay, *model.weight(l, Role::delta_step_bias),
                *model.weight(l, Role::delta_rate));
  backend.nonlinearity(Nonlinearity::sigmoid, s.beta, s.beta);
  backend.delta_rule({s.q, s.k, s.v, s.decay, s.beta},
                     {n_k_heads, n_v_heads, model.description().delta_grouped}, state, pass.batch,
                     s.mixed);
  const FloatView heads{s.mixed.data, pass.n * p.n_v_heads, p.v_dim, p.v_dim};
  pass.norm(heads, *model.weight(l, Role::delta_norm), nullptr, heads);
  pass.multiply(*model.weight(l, Role::delta_out), MatmulInput::gated(s.z, s.mixed), out);
}

}  // namespace hrun
