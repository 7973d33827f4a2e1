// Keys and values of all heads are linear in one latent vector c per position: k_h = (K_h^T c,
// turned part), v_h = V_h c. So q_h . k_h = (K_h q_h) . c + turned . turned, and the mixed values
// are V_h (the mixed c): attention runs over c itself, as one key and value head, and the cache
// holds (c, turned part) and c.
#include "model/blocks/latent_attention.h"

namespace hrun {

void latent_attention(const Pass& pass, int64_t l, const MatmulInput& input, const CacheSlot& cache,
                      FloatView out) {
  const HyperParams& p = pass.params();
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  Workspace& w = pass.work;
  const FloatView heads = pass.rows(w.latent_heads), kv = pass.rows(w.latent_kv),
                  q = pass.rows(w.q);
  const FloatView c = columns(kv, 0, p.latent_kv), mixed = pass.rows(w.attention),
                  values = pass.rows(w.latent_out);
  const auto n_heads = static_cast<int>(p.n_heads);

  if (const DeviceTensor* whole = model.weight(l, Role::attn_q)) {
    const MatmulTarget targets[] = {{whole, heads}, {model.weight(l, Role::attn_kv_a), kv}};
    pass.multiply(targets, input);
  } else {
    const FloatView compressed = pass.rows(w.latent_q);
    const MatmulTarget targets[] = {{model.weight(l, Role::attn_q_a), compressed},
                                    {model.weight(l, Role::attn_kv_a), kv}};
    pass.multiply(targets, input);
    pass.multiply(
        *model.weight(l, Role::attn_q_b),
        MatmulInput::normed(compressed, *model.weight(l, Role::attn_q_a_norm), p.norm_eps), heads);
  }
  backend.rms_norm(c, *model.weight(l, Role::attn_kv_a_norm), p.norm_eps, c);

  Rope rope = w.rope(false);
  rope.first = static_cast<int>(p.latent_kv);
  backend.rope(kv, 1, rope, pass.batch);
  rope.first = static_cast<int>(p.nope());
  backend.rope(heads, n_heads, rope, pass.batch);
  rope.first = static_cast<int>(p.latent_kv);
  backend.kv_append(cache, kv, c, pass.batch, {&rope, {}, 0});

  for (int64_t h = 0; h < p.n_heads; ++h)
    pass.multiply_slice(*model.slices(l, Role::attn_k_b)[static_cast<size_t>(h)],
                        columns(heads, h * p.latent_k_dim, p.nope()),
                        columns(q, h * p.k_dim, p.latent_kv));
  backend.copy_heads(columns(heads, p.nope(), heads.cols - p.nope()), p.latent_k_dim,
                     columns(q, p.latent_kv, q.cols - p.latent_kv), p.k_dim, n_heads, p.n_rot);
  AttentionShape shape{n_heads, static_cast<float>(p.attn_scale)};
  shape.rope = &rope;
  backend.attention(q, cache, pass.batch, shape, mixed);
  for (int64_t h = 0; h < p.n_heads; ++h)
    pass.multiply_slice(*model.slices(l, Role::attn_v_b)[static_cast<size_t>(h)],
                        columns(mixed, h * p.latent_kv, p.latent_kv),
                        columns(values, h * p.latent_v_dim, p.latent_v_dim));
  pass.multiply(*model.weight(l, Role::attn_output), values, out);
}

}  // namespace hrun
