// Keys and values of all heads are linear in one latent vector c per position: k_h = (K_h^T c,
// turned part), v_h = V_h c. So q_h . k_h = (K_h q_h) . c + turned . turned, and the mixed values
// are V_h (the mixed c): attention runs over c itself, as one key and value head, and the cache
// holds (c, turned part) and c.
#include "model/blocks/latent_attention.h"

namespace hrun {

namespace {

struct Scratch {
  FloatView q, compressed, heads, kv, mixed, values;

  Scratch(Arena& arena, const ModelSpec& spec, int64_t l, int64_t n) {
    const HyperParams& p = spec.params;
    const LayerParams& at = p.layer(l);
    q = arena.take(n, at.n_heads * at.k_dim);
    compressed = arena.take(n, p.latent_q);
    heads = arena.take(n, at.n_heads * p.latent_k_dim);
    kv = arena.take(n, at.k_dim);
    mixed = arena.take(n, at.n_heads * at.v_dim);
    values = arena.take(n, at.n_heads * p.latent_v_dim);
  }
};

}  // namespace

BlockNeeds latent_attention_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows) {
  Arena count;
  Scratch(count, spec, layer, n_rows);
  BlockNeeds needs;
  needs.scratch_floats = count.used_floats();
  needs.cache = cache_of(spec.params.layer(layer));
  return needs;
}

void latent_attention(const Pass& pass, int64_t l, const MatmulInput& input, FloatView out) {
  const HyperParams& p = pass.params();
  const LayerParams& at = p.layer(l);
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const Scratch s(arena, model.spec(), l, pass.n);
  const FloatView heads = s.heads, kv = s.kv, q = s.q, c = columns(kv, 0, p.latent_kv);
  const FloatView mixed = s.mixed, values = s.values;
  const auto n_heads = static_cast<int>(at.n_heads);
  const CacheSlot& cache = pass.cache(l);

  if (const DeviceTensor* whole = model.weight(l, Role::attn_q)) {
    const MatmulTarget targets[] = {{whole, heads}, {model.weight(l, Role::attn_kv_a), kv}};
    pass.multiply(targets, input);
  } else {
    const MatmulTarget targets[] = {{model.weight(l, Role::attn_q_a), s.compressed},
                                    {model.weight(l, Role::attn_kv_a), kv}};
    pass.multiply(targets, input);
    pass.multiply(
        *model.weight(l, Role::attn_q_b),
        MatmulInput::normed(s.compressed, *model.weight(l, Role::attn_q_a_norm), p.norm_eps),
        heads);
  }
  backend.rms_norm(c, *model.weight(l, Role::attn_kv_a_norm), p.norm_eps, c);
  if (model.spec().layer(l, Role::attn_kv_b)) {  // the file's matrix: all its rows read c
    const MatmulTarget both{model.weight(l, Role::attn_v_b), {}};
    pass.observe({&both, 1}, c);
  }

  Rope rope = pass.work.rope(at.rope);
  rope.first = static_cast<int>(p.latent_kv);
  backend.rope(kv, 1, rope, pass.batch);
  rope.first = static_cast<int>(p.nope());
  backend.rope(heads, n_heads, rope, pass.batch);
  rope.first = static_cast<int>(p.latent_kv);
  backend.kv_append(cache, kv, c, pass.batch, {&rope, {}, 0});

  pass.multiply_heads(model.slices(l, Role::attn_k_b), heads, p.latent_k_dim, q, at.k_dim);
  backend.copy_heads(columns(heads, p.nope(), heads.cols - p.nope()), p.latent_k_dim,
                     columns(q, p.latent_kv, q.cols - p.latent_kv), at.k_dim, n_heads, p.n_rot());
  AttentionShape shape{n_heads, static_cast<float>(p.attn_scale)};
  shape.rope = &rope;
  backend.attention(q, cache, pass.batch, shape, mixed);
  pass.multiply_heads(model.slices(l, Role::attn_v_b), mixed, p.latent_kv, values, p.latent_v_dim);
  pass.multiply(*model.weight(l, Role::attn_output), values, out);
}

}  // namespace hrun
