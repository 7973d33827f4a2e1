#include "model/blocks/dense_and_experts.h"

#include <algorithm>
#include <cmath>

#include "model/blocks/experts.h"
#include "model/blocks/feed_forward.h"

namespace hrun {
namespace {

struct Scratch {
  FloatView routed_by, x, mixed;

  Scratch(Arena& arena, const ModelSpec& spec, int64_t n) {
    const int64_t width = spec.params.n_embd;
    routed_by = arena.take(n, width), x = arena.take(n, width), mixed = arena.take(n, width);
  }
};

}  // namespace

BlockNeeds dense_and_experts_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows) {
  Arena count;
  Scratch(count, spec, n_rows);
  BlockNeeds needs = experts_needs(spec, layer, n_rows);
  needs.scratch_floats = std::max(count.used_floats() + needs.scratch_floats,
                                  feed_forward_needs(spec, layer, n_rows).scratch_floats);
  return needs;
}

void dense_and_experts(const Pass& pass, int64_t l, const MatmulInput& input, FloatView out) {
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  const float eps = pass.params().norm_eps;
  feed_forward(pass, l, input, out);
  backend.rms_norm(out, *model.weight(l, Role::dense_post_norm), eps, out);
  // The experts and their router have norms of their own for what the dense block reads.
  const FloatView from = input.x;
  Arena arena = pass.arena();
  const Scratch s(arena, model.spec(), pass.n);
  backend.rms_norm(from, *model.weight(l, Role::router_scale), eps, s.routed_by);
  backend.scale(s.routed_by, 1 / std::sqrt(static_cast<float>(from.cols)));
  backend.rms_norm(from, *model.weight(l, Role::experts_norm), eps, s.x);
  routed_experts(pass, l, arena, s.routed_by, s.x, s.mixed);
  backend.rms_norm(s.mixed, *model.weight(l, Role::experts_post_norm), eps, s.mixed);
  backend.add(out, s.mixed);
}

}  // namespace hrun
