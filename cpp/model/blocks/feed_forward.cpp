#include "model/blocks/feed_forward.h"

#include <cmath>

#include "model/blocks/token_shift.h"

namespace hrun {
namespace {

struct Scratch {
  FloatView gate_up, gate, up;  // gate and up are halves of gate_up where one matrix gives them
  FloatView x, mixed;           // the input, and its mixture with that of the token before

  Scratch(Arena& arena, const ModelSpec& spec, int64_t l, int64_t n) {
    const int64_t n_ff = spec.params.layer(l).n_ff;
    if (spec.layer(l, Role::ffn_shift))
      x = arena.take(n, spec.params.n_embd), mixed = arena.take(n, spec.params.n_embd);
    if (spec.layer(l, Role::ffn_gate_up)) {
      gate_up = arena.take(n, 2 * n_ff);
      gate = columns(gate_up, 0, n_ff), up = columns(gate_up, n_ff, n_ff);
    } else {
      if (spec.layer(l, Role::ffn_gate)) gate = arena.take(n, n_ff);
      up = arena.take(n, n_ff);
    }
  }
};

}  // namespace

BlockNeeds feed_forward_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows) {
  Arena count;
  Scratch(count, spec, layer, n_rows);
  BlockNeeds needs;
  needs.scratch_floats = count.used_floats();
  if (spec.layer(layer, Role::ffn_shift)) needs.state = shift_state(spec.params);
  return needs;
}

void feed_forward(const Pass& pass, int64_t l, const MatmulInput& normed, FloatView out) {
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const Scratch s(arena, model.spec(), l, pass.n);
  const Nonlinearity f = model.params().nonlinearity;
  MatmulInput input = normed;
  if (const DeviceTensor* part = model.weight(l, Role::ffn_shift)) {
    const FloatView x = pass.stored(normed, s.x);
    step_back(pass, l, x, pass.feed_state(l), s.mixed);
    shifted(pass, x, s.mixed, *part, s.mixed);
    input = s.mixed;
  }
  const DeviceTensor* const up_weight = model.weight(l, Role::ffn_up);
  const DeviceTensor* const gate_weight = model.weight(l, Role::ffn_gate);
  const DeviceTensor* const both = model.weight(l, Role::ffn_gate_up);
  if (both) {
    pass.multiply(*both, input, s.gate_up);
  } else if (gate_weight) {
    const MatmulTarget gate_up[] = {{gate_weight, s.gate}, {up_weight, s.up}};
    pass.multiply(gate_up, input);
    pass.add_bias(l, Role::ffn_gate_bias, s.gate);
    pass.add_bias(l, Role::ffn_up_bias, s.up);
  } else {
    pass.multiply(*up_weight, input, s.up);
    pass.add_bias(l, Role::ffn_up_bias, s.up);
  }
  if (const double cutoff = model.params().layer(l).gate_cutoff; std::isfinite(cutoff))
    backend.keep_above(s.gate, static_cast<float>(cutoff));
  const DeviceTensor& down = *model.weight(l, Role::ffn_down);
  const DeviceTensor* const sub_norm = model.weight(l, Role::ffn_sub_norm);
  if (sub_norm) {
    backend.gated(f, s.gate, s.up, s.up);
    pass.norm(s.up, *sub_norm, nullptr, s.up);
    pass.multiply(down, s.up, out);
  } else if (!both && !gate_weight) {
    if (f == Nonlinearity::xielu)
      backend.xielu(s.up, model.params().layer(l).xielu);
    else
      backend.nonlinearity(f, s.up, s.up);
    pass.multiply(down, s.up, out);
  } else if (f == Nonlinearity::silu) {
    pass.multiply(down, MatmulInput::gated(s.gate, s.up), out);
  } else {
    backend.gated(f, s.gate, s.up, s.up);
    pass.multiply(down, s.up, out);
  }
  pass.add_bias(l, Role::ffn_down_bias, out);
}

}  // namespace hrun
