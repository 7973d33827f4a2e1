#include "model/blocks/per_layer.h"

#include <algorithm>
#include <cmath>

#include "model/blocks/altup.h"

namespace hrun {
namespace {

struct Scratch {
  FloatView gate, added;

  Scratch(Arena& arena, const HyperParams& p, int64_t n) {
    gate = arena.take(n, p.n_per_layer);
    added = arena.take(n, p.n_embd);
  }
};

FloatView looked_up(Arena& arena, const HyperParams& p, int64_t n) {
  return arena.take(n, p.n_per_layer * p.n_layers);
}

}  // namespace

size_t per_layer_scratch_floats(const ModelSpec& spec, int64_t n_rows) {
  const HyperParams& p = spec.params;
  if (p.n_per_layer == 0) return 0;
  Arena table, layer;
  looked_up(table, p, n_rows);
  Scratch(layer, p, n_rows);
  return std::max(table.used_floats(), layer.used_floats());
}

void embed_per_layer(const Pass& pass, std::span<const int32_t> tokens, FloatView x) {
  const HyperParams& p = pass.params();
  if (p.n_per_layer == 0) return;
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const FloatView table = looked_up(arena, p, pass.n), out = pass.rows(pass.work.per_layer);
  pass.multiply(*model.weight(Role::per_layer_model_proj), x, out);
  backend.scale(out, 1 / std::sqrt(static_cast<float>(p.n_embd)));
  const FloatView each{out.data, out.rows * p.n_layers, p.n_per_layer, p.n_per_layer};
  backend.rms_norm(each, *model.weight(Role::per_layer_norm), p.norm_eps, each);
  backend.embed(*model.weight(Role::per_layer_embd), tokens, table);
  backend.scale(table, std::sqrt(static_cast<float>(p.n_per_layer)));
  backend.add(out, table);
  backend.scale(out, std::sqrt(0.5f));
}

void add_per_layer(const Pass& pass, int64_t l, FloatView x) {
  const HyperParams& p = pass.params();
  if (p.n_per_layer == 0) return;
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const Scratch s(arena, p, pass.n);
  // Where a token has several hidden states, the active one, scaled, opens the gates, and all but
  // the first are added to.
  const FloatView states = pass.rows(pass.work.states);
  FloatView from = x;
  if (const DeviceTensor* scale = model.weight(l, Role::altup_correct_scale)) {
    backend.scale_columns(state_of(states, p.active_state, p.n_embd), *scale, s.added);
    from = s.added;
  }
  pass.multiply(*model.weight(l, Role::per_layer_gate), from, s.gate);
  const FloatView own = columns(pass.rows(pass.work.per_layer), l * p.n_per_layer, p.n_per_layer);
  backend.gated(model.description().nonlinearity, s.gate, own, s.gate);
  pass.multiply(*model.weight(l, Role::per_layer_proj), s.gate, s.added);
  backend.rms_norm(s.added, *model.weight(l, Role::per_layer_post_norm), p.norm_eps, s.added);
  if (p.n_states == 1) return backend.add(x, s.added);
  for (int64_t i = 1; i < p.n_states; ++i) backend.add(state_of(states, i, p.n_embd), s.added);
}

}  // namespace hrun
