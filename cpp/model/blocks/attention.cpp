#include "model/blocks/attention.h"

#include <vector>

namespace hrun {
namespace {

// Does the queries' matrix also give gates of the mixed values?
bool has_gates(const ModelSpec& spec) {
  const TensorRule* rule = spec.description->find_rule(Role::attn_q);
  return rule && rule->rows == Dim::q_gated;
}

struct Scratch {
  FloatView qkv, q, k, v;  // q, k and v are parts of qkv where one matrix gives them
  FloatView gated;         // queries and gates, head by head, where one matrix gives both
  FloatView gate;          // of the mixed values
  FloatView one_gate;      // of a head, where there is one for all of its values
  FloatView mixed;

  Scratch(Arena& arena, const ModelSpec& spec, int64_t l, int64_t n) {
    const LayerParams& p = spec.params.layer(l);
    const int64_t q_cols = p.n_heads * p.k_dim, k_cols = p.n_kv_heads * p.k_dim,
                  v_cols = p.n_kv_heads * p.v_dim;
    if (spec.layer(l, Role::attn_gate)) gate = arena.take(n, p.n_heads * p.v_dim);
    if (spec.params.gate_per_head) one_gate = arena.take(n, p.n_heads);
    if (spec.layer(l, Role::attn_qkv)) {
      qkv = arena.take(n, q_cols + k_cols + v_cols);
      q = columns(qkv, 0, q_cols), k = columns(qkv, q_cols, k_cols),
      v = columns(qkv, q_cols + k_cols, v_cols);
    } else {
      if (has_gates(spec)) gated = arena.take(n, 2 * q_cols), gate = arena.take(n, q_cols);
      q = arena.take(n, q_cols);
      if (p.keys_of < 0) k = arena.take(n, k_cols), v = arena.take(n, v_cols);
    }
    mixed = arena.take(n, p.n_heads * p.v_dim);
  }
};

// Normalises whole rows or each head; the weight's width decides.  Heads have one weight for all,
// or one for each.
void norm_heads(const Pass& pass, int64_t l, Role role, FloatView y, int64_t n_heads) {
  const Weight& weights = pass.model.slices(l, role);
  if (weights.empty()) return;
  const int64_t head = y.cols / n_heads;
  // Heads that share a weight are rows of one operation where they lie one after the other.
  if (weights.size() == 1 && weights.front()->cols == head && y.stride == y.cols)
    y = {y.data, y.rows * n_heads, head, head};
  const bool whole = weights.front()->cols == y.cols;
  for (int64_t h = 0; h < (whole ? 1 : n_heads); ++h) {
    const FloatView part = whole ? y : columns(y, h * head, head);
    pass.norm(part, *weights[weights.size() > 1 ? static_cast<size_t>(h) : 0], nullptr, part);
  }
}

}  // namespace

BlockNeeds attention_needs(const ModelSpec& spec, int64_t layer, int64_t n_rows) {
  Arena count;
  Scratch(count, spec, layer, n_rows);
  BlockNeeds needs;
  needs.scratch_floats = count.used_floats();
  if (spec.params.layer(layer).keys_of < 0) needs.cache = cache_of(spec.params.layer(layer));
  return needs;
}

void attention(const Pass& pass, int64_t l, const MatmulInput& input, FloatView out) {
  const HyperParams& params = pass.params();
  const LayerParams& p = params.layer(l);
  const Model& model = pass.model;
  Backend& backend = pass.backend();
  Arena arena = pass.arena();
  const Scratch s(arena, model.spec(), l, pass.n);
  const auto n_heads = static_cast<int>(p.n_heads), n_kv_heads = static_cast<int>(p.n_kv_heads);
  const bool owns = p.keys_of < 0;
  if (const DeviceTensor* all = model.weight(l, Role::attn_qkv)) {
    pass.multiply(*all, input, s.qkv);
    pass.add_bias(l, Role::attn_qkv_bias, s.qkv);
  } else {
    // A layer that reads another layer's keys and values has none of its own.  Without a matrix for
    // values, the values are the keys as they come out of the keys' matrix.
    const DeviceTensor* const values = owns ? model.weight(l, Role::attn_v) : nullptr;
    std::vector<MatmulTarget> targets = {
        {model.weight(l, Role::attn_q), s.gated.data ? s.gated : s.q}};
    if (owns) targets.push_back({model.weight(l, Role::attn_k), s.k});
    if (values) targets.push_back({values, s.v});
    if (const DeviceTensor* gate = model.weight(l, Role::attn_gate))
      targets.push_back({gate, s.one_gate.data ? s.one_gate : s.gate});
    pass.multiply(targets, input);
    if (owns && !values) backend.copy_heads(s.k, p.k_dim, s.v, p.v_dim, n_kv_heads, p.k_dim);
    if (s.gated.data) {
      const FloatView gates = columns(s.gated, p.k_dim, s.gated.cols - p.k_dim);
      backend.copy_heads(s.gated, 2 * p.k_dim, s.q, p.k_dim, n_heads, p.k_dim);
      backend.copy_heads(gates, 2 * p.k_dim, s.gate, p.k_dim, n_heads, p.k_dim);
    }
    pass.add_bias(l, Role::attn_q_bias, s.q);
    if (owns) {
      pass.add_bias(l, Role::attn_k_bias, s.k);
      pass.add_bias(l, Role::attn_v_bias, s.v);
    }
  }
  const auto norm = [&] {
    norm_heads(pass, l, Role::attn_q_norm, s.q, n_heads);
    if (!owns) return;
    norm_heads(pass, l, Role::attn_k_norm, s.k, n_kv_heads);
    norm_heads(pass, l, Role::attn_v_norm, s.v, n_kv_heads);
  };
  const bool normed_after = model.description().turned_before_normed;
  if (!normed_after) norm();
  const Rope* const rope = p.rope != kNoRope ? &pass.work.rope(p.rope) : nullptr;
  if (rope) {
    const bool apart = p.query_rope != kNoRope;
    backend.rope(s.q, n_heads, apart ? pass.work.rope(p.query_rope) : *rope, pass.batch);
    if (owns) backend.rope(s.k, n_kv_heads, *rope, pass.batch);
  }
  if (normed_after) norm();
  const CacheSlot& cache = pass.cache(l);
  if (owns) {
    if (pass.observer)
      pass.observer->keys(backend, l, {s.k, s.q, n_kv_heads, n_heads, rope, pass.batch.positions});
    backend.kv_append(cache, s.k, s.v, pass.batch,
                      {rope, s.q, n_heads, model.key_mean(l), model.key_balance(l)});
  }
  const AttentionShape shape{n_heads,
                             static_cast<float>(params.attn_scale),
                             p.window,
                             static_cast<float>(params.attn_soft_cap),
                             model.weight(l, Role::attn_sinks),
                             rope,
                             params.causal,
                             static_cast<float>(model.description().max_alibi_bias)};
  backend.attention(s.q, cache, pass.batch, shape, s.mixed);
  if (params.value_scale != 1) backend.scale(s.mixed, static_cast<float>(params.value_scale));
  if (s.one_gate.data) {  // to all values of its head
    const int64_t n = pass.n * p.n_heads;
    backend.copy_heads({s.one_gate.data, n, 1, 1}, 0, {s.gate.data, n, p.v_dim, p.v_dim}, 1,
                       static_cast<int>(p.v_dim), 1);
  }
  if (s.gate.data) backend.gated(model.description().gate, s.gate, s.mixed, s.mixed);
  if (const DeviceTensor* weight = model.weight(l, Role::attn_sub_norm))
    pass.norm(s.mixed, *weight, nullptr, s.mixed);
  pass.multiply(*model.weight(l, Role::attn_output), s.mixed, out);
  pass.add_bias(l, Role::attn_output_bias, out);
}

}  // namespace hrun
