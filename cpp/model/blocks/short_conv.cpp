#include "model/blocks/short_conv.h"

namespace hrun {
namespace {

struct Scratch {
  FloatView all, b, c, x;  // parts of all
  FloatView mixed;

  Scratch(Arena& arena, const ModelSpec& spec, int64_t n) {
    const int64_t width = spec.params.n_embd;
    all = arena.take(n, 3 * width);
    b = columns(all, 0, width), c = columns(all, width, width), x = columns(all, 2 * width, width);
    mixed = arena.take(n, width);
  }
};

}  // namespace

BlockNeeds short_conv_needs(const ModelSpec& spec, int64_t, int64_t n_rows) {
  Arena count;
  const Scratch scratch(count, spec, n_rows);
  BlockNeeds needs;
  needs.scratch_floats = count.used_floats();
  needs.state.n_channels = static_cast<int>(scratch.mixed.cols);
  needs.state.n_past = static_cast<int>(spec.params.n_taps - 1);
  return needs;
}

void short_conv(const Pass& pass, int64_t l, const MatmulInput& input, FloatView out) {
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const Scratch s(arena, model.spec(), pass.n);
  pass.multiply(*model.weight(l, Role::shortconv_in), input, s.all);
  backend.gated(Nonlinearity::linear, s.b, s.x, s.mixed);
  backend.short_conv(s.mixed, *model.weight(l, Role::shortconv_taps), pass.state(l), pass.batch,
                     false, s.mixed);
  backend.gated(Nonlinearity::linear, s.c, s.mixed, s.mixed);
  pass.multiply(*model.weight(l, Role::shortconv_out), s.mixed, out);
}

}  // namespace hrun
