#include "model/blocks/state_space.h"

#include <algorithm>

#include "model/blocks/attention.h"

namespace hrun {
namespace {

struct Scratch {
  FloatView all, z, xbc, x, b, c, step;  // parts of all
  FloatView decay, mixed;

  Scratch(Arena& arena, const ModelSpec& spec, int64_t n) {
    const StateSpaceParams& p = spec.params.ssm;
    const int64_t inner = p.inner(), shared = p.shared();
    all = arena.take(n, 2 * inner + 2 * shared + p.n_heads);
    z = columns(all, 0, inner), xbc = columns(all, inner, inner + 2 * shared);
    x = columns(xbc, 0, inner), b = columns(xbc, inner, shared);
    c = columns(xbc, inner + shared, shared);
    step = columns(all, 2 * inner + 2 * shared, p.n_heads);
    // The decays lie beside the steps, and as far apart.
    decay = arena.take(n, all.cols);
    decay = columns(decay, 0, p.n_heads);
    mixed = arena.take(n, inner);
  }
};

void run(const Pass& pass, int64_t l, const MatmulInput& input, const Scratch& s, FloatView out) {
  const StateSpaceParams& p = pass.params().ssm;
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  pass.multiply(*model.weight(l, Role::ssm_in), input, s.all);
  const StateSlot& state = pass.state(l);
  convolve(pass, l, s.xbc);
  const DeviceTensor& bias = *model.weight(l, Role::ssm_step_bias);
  backend.copy_heads(s.step, p.n_heads, s.decay, p.n_heads, 1, p.n_heads);
  backend.decay(s.decay, bias, *model.weight(l, Role::ssm_rate));
  backend.add_bias(s.step, bias);
  backend.nonlinearity(Nonlinearity::softplus, s.step, s.step);
  backend.ssm_scan({s.x, s.b, s.c, s.decay, s.step, model.weight(l, Role::ssm_skip),
                    static_cast<int>(p.n_groups)},
                   state, pass.batch, s.mixed);
  const Weight& norms = model.slices(l, Role::ssm_norm);
  const DeviceTensor& to = *model.weight(l, Role::ssm_out);
  if (norms.empty()) return pass.multiply(to, MatmulInput::gated(s.z, s.mixed), out);
  backend.silu_mul(s.z, s.mixed, s.mixed);
  const int64_t group = p.inner() / p.n_groups;
  for (size_t g = 0; g < norms.size(); ++g) {
    const FloatView part = columns(s.mixed, static_cast<int64_t>(g) * group, group);
    backend.rms_norm(part, *norms[g], pass.params().norm_eps, part);
  }
  pass.multiply(to, s.mixed, out);
}

}  // namespace

BlockNeeds scan_needs(const HyperParams& params, int64_t n_channels, size_t scratch_floats) {
  const StateSpaceParams& p = params.ssm;
  BlockNeeds needs;
  needs.scratch_floats = scratch_floats;
  needs.state.n_channels = static_cast<int>(n_channels);
  needs.state.n_past = static_cast<int>(params.n_taps - 1);
  needs.state.n_heads = static_cast<int>(p.n_heads);
  needs.state.k_dim = static_cast<int>(p.state_dim);
  needs.state.v_dim = static_cast<int>(p.head_dim);
  needs.state.n_k_heads = static_cast<int>(p.n_groups);
  needs.state.grouped = true;
  return needs;
}

void convolve(const Pass& pass, int64_t l, FloatView x) {
  Backend& backend = pass.backend();
  const DeviceTensor* const bias = pass.model.weight(l, Role::ssm_conv_bias);
  backend.short_conv(x, *pass.model.weight(l, Role::ssm_conv), pass.state(l), pass.batch, !bias, x);
  if (bias) {
    backend.add_bias(x, *bias);
    backend.nonlinearity(Nonlinearity::silu, x, x);
  }
}

BlockNeeds state_space_needs(const ModelSpec& spec, int64_t, int64_t n_rows) {
  Arena count;
  const Scratch scratch(count, spec, n_rows);
  return scan_needs(spec.params, scratch.xbc.cols, count.used_floats());
}

void state_space(const Pass& pass, int64_t l, const MatmulInput& input, FloatView out) {
  Arena arena = pass.arena();
  run(pass, l, input, Scratch(arena, pass.model.spec(), pass.n), out);
}

// The output of the state space block lies first, behind it that block's scratch.  Attention ran
// before and used the same memory.
BlockNeeds attention_and_state_space_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows) {
  Arena count;
  count.take(n_rows, spec.params.n_embd);
  const size_t kept = count.used_floats();
  BlockNeeds needs = state_space_needs(spec, layer, n_rows);
  const BlockNeeds beside = attention_needs(spec, layer, n_rows);
  needs.scratch_floats = std::max(kept + needs.scratch_floats, beside.scratch_floats);
  needs.cache = beside.cache;
  needs.repeatable = needs.repeatable && beside.repeatable;
  return needs;
}

void attention_and_state_space(const Pass& pass, int64_t l, const MatmulInput& input,
                               FloatView out) {
  attention(pass, l, input, out);
  Arena arena = pass.arena();
  const FloatView second = arena.take(pass.n, out.cols);
  run(pass, l, input, Scratch(arena, pass.model.spec(), pass.n), second);
  pass.backend().add(out, second);
}

}  // namespace hrun
