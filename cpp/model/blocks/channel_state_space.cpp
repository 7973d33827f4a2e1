#include "model/blocks/channel_state_space.h"

#include "model/blocks/state_space.h"

namespace hrun {
namespace {

struct Scratch {
  FloatView all, x, z;           // x and z are parts of all
  FloatView of_x, narrow, b, c;  // narrow, b and c are parts of of_x
  FloatView step, mixed;

  Scratch(Arena& arena, const StateSpaceParams& p, int64_t n) {
    const int64_t inner = p.inner(), shared = p.shared();
    all = arena.take(n, 2 * inner);
    x = columns(all, 0, inner), z = columns(all, inner, inner);
    of_x = arena.take(n, p.step_rank + 2 * shared);
    narrow = columns(of_x, 0, p.step_rank), b = columns(of_x, p.step_rank, shared);
    c = columns(of_x, p.step_rank + shared, shared);
    step = arena.take(n, inner);
    mixed = arena.take(n, inner);
  }
};

}  // namespace

BlockNeeds channel_state_space_needs(const ModelSpec& spec, int64_t, int64_t n_rows) {
  const StateSpaceParams& p = spec.params.ssm;
  Arena count;
  Scratch(count, p, n_rows);
  BlockNeeds needs = scan_needs(spec.params, p.inner(), count.used_floats());
  needs.rates = Role::ssm_rate;
  return needs;
}

void channel_state_space(const Pass& pass, int64_t l, const MatmulInput& input, FloatView out) {
  const StateSpaceParams& p = pass.params().ssm;
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const Scratch s(arena, p, pass.n);
  pass.multiply(*model.weight(l, Role::ssm_in), input, s.all);
  const StateSlot& state = pass.state(l);
  convolve(pass, l, s.x);
  pass.multiply(*model.weight(l, Role::ssm_mix), s.x, s.of_x);
  for (const auto& [role, part] :
       {std::pair(Role::ssm_step_norm, s.narrow), std::pair(Role::ssm_b_norm, s.b),
        std::pair(Role::ssm_c_norm, s.c)})
    if (const DeviceTensor* weight = model.weight(l, role))
      backend.rms_norm(part, *weight, static_cast<float>(p.norm_eps), part);
  pass.multiply(*model.weight(l, Role::ssm_step), s.narrow, s.step);
  backend.add_bias(s.step, *model.weight(l, Role::ssm_step_bias));
  backend.nonlinearity(Nonlinearity::softplus, s.step, s.step);
  backend.ssm_scan(
      {s.x, s.b, s.c, {}, s.step, model.weight(l, Role::ssm_skip), static_cast<int>(p.n_groups)},
      state, pass.batch, s.mixed);
  pass.multiply(*model.weight(l, Role::ssm_out), MatmulInput::gated(s.z, s.mixed), out);
}

}  // namespace hrun
