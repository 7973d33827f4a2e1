#include "model/blocks/laurel.h"

#include <cmath>

namespace hrun {

size_t laurel_scratch_floats(const ModelSpec& spec, int64_t n_rows) {
  Arena count;
  count.take(n_rows, spec.params.laurel_rank);
  return count.used_floats();
}

bool learned_residual(const Pass& pass, int64_t l, FloatView x, FloatView out, FloatView other) {
  const Model& model = pass.model;
  const DeviceTensor* const left = model.weight(l, Role::laurel_left);
  if (!left) return false;
  Backend& backend = pass.backend();
  const float eps = pass.params().norm_eps;
  Arena arena = pass.arena();
  const FloatView narrow = arena.take(pass.n, pass.params().laurel_rank);
  backend.rms_norm(x, *model.weight(l, Role::attn_norm), eps, out);
  pass.multiply(*left, out, narrow);
  pass.multiply(*model.weight(l, Role::laurel_right), narrow, other);
  backend.rms_norm(other, *model.weight(l, Role::laurel_post_norm), eps, other);
  backend.add(out, other);
  return true;
}

void add_learned_residual(const Pass& pass, FloatView residual, FloatView x) {
  pass.backend().add(x, residual);
  pass.backend().scale(x, std::sqrt(0.5f));
}

}  // namespace hrun
