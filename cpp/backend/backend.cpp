#include "backend/backend.h"

#include "backend/checks.h"

namespace hrun {

std::unique_ptr<DeviceTensor> Backend::upload(const TensorView& view, TensorUse use) {
  return do_upload(view, checks::upload(view), use);
}

void Backend::embed(const DeviceTensor& table, std::span<const int32_t> tokens, FloatView out) {
  checks::embed(table, tokens, out);
  do_embed(table, tokens, out);
}

void Backend::rms_norm(FloatView x, const DeviceTensor& weight, float eps, FloatView out) {
  checks::rms_norm(x, weight, out);
  do_rms_norm(x, weight, eps, out);
}

void Backend::layer_norm(FloatView x, const DeviceTensor& weight, const DeviceTensor* bias,
                         float eps, FloatView out) {
  checks::layer_norm(x, weight, bias, out);
  do_layer_norm(x, weight, bias, eps, out);
}

void Backend::matmul(std::span<const MatmulTarget> targets, const MatmulInput& x) {
  checks::matmul(targets, x);
  do_matmul(targets, x);
}

void Backend::matmul_parts(std::span<const MatmulPart> parts, const MatmulInput& x) {
  checks::matmul_parts(parts, x);
  do_matmul_parts(parts, x);
}

void Backend::do_matmul_parts(std::span<const MatmulPart> parts, const MatmulInput& x) {
  for (const MatmulPart& part : parts) {
    const MatmulTarget target{part.weights, part.y};
    do_matmul({&target, 1}, rows_of(x, part.first, part.y.rows));
  }
}

void Backend::rope(FloatView x, int n_heads, const Rope& rope, const Batch& batch) {
  checks::rope(x, n_heads, rope, batch);
  do_rope(x, n_heads, rope, batch);
}

std::unique_ptr<DeviceCache> Backend::make_cache(const CachePlan& plan, std::string_view purpose) {
  checks::cache_plan(plan);
  return do_make_cache(plan, purpose);
}

void Backend::kv_append(const CacheSlot& cache, FloatView k, FloatView v, const Batch& batch,
                        const KeyContext& keys) {
  checks::kv_append(cache, k, v, batch);
  do_kv_append(cache, k, v, batch, keys);
}

void Backend::attention(FloatView q, const CacheSlot& cache, const Batch& batch,
                        const AttentionShape& shape, FloatView out) {
  checks::attention(q, cache, batch, shape, out);
  do_attention(q, cache, batch, shape, out);
}

std::unique_ptr<DeviceStates> Backend::make_states(const StatePlan& plan,
                                                   std::string_view purpose) {
  checks::state_plan(plan);
  return do_make_states(plan, purpose);
}

void Backend::short_conv(FloatView x, const DeviceTensor& taps, const StateSlot& state,
                         const Batch& batch, bool silu, FloatView out) {
  checks::short_conv(x, taps, state, batch, out);
  do_short_conv(x, taps, state, batch, silu, out);
}

void Backend::delta_rule(const DeltaInput& in, const DeltaHeads& heads, const StateSlot& state,
                         const Batch& batch, FloatView out) {
  checks::delta_rule(in, heads, state, batch, out);
  do_delta_rule(in, heads, state, batch, out);
}

void Backend::ssm_scan(const ScanInput& in, const StateSlot& state, const Batch& batch,
                       FloatView out) {
  checks::ssm_scan(in, state, batch, out);
  do_ssm_scan(in, state, batch, out);
}

void Backend::l2_norm(FloatView x, int n_heads, float eps, float scale) {
  checks::heads(x, n_heads, "l2_norm");
  do_l2_norm(x, n_heads, eps, scale);
}

void Backend::decay(FloatView x, const DeviceTensor& bias, const DeviceTensor& rate) {
  checks::decay(x, bias, rate);
  do_decay(x, bias, rate);
}

void Backend::silu_mul(FloatView gate, FloatView up, FloatView out) {
  checks::gated(gate, up, out, "silu_mul");
  do_silu_mul(gate, up, out);
}

void Backend::gated(Nonlinearity f, FloatView gate, FloatView up, FloatView out) {
  checks::gated(gate, up, out);
  do_gated(f, gate, up, out);
}

void Backend::nonlinearity(Nonlinearity f, FloatView x, FloatView out) {
  checks::nonlinearity(f, x, out);
  do_nonlinearity(f, x, out);
}

void Backend::xielu(FloatView x, const Xielu& f) { do_xielu(x, f); }

void Backend::add(FloatView x, FloatView y) {
  checks::add(x, y);
  do_add(x, y);
}

void Backend::add_bias(FloatView x, const DeviceTensor& bias) {
  checks::add_bias(x, bias);
  do_add_bias(x, bias);
}

void Backend::scale(FloatView x, float factor) { do_scale(x, factor); }

void Backend::soft_cap(FloatView x, float cap) {
  checks::soft_cap(cap);
  do_soft_cap(x, cap);
}

void Backend::copy_heads(FloatView from, int64_t from_step, FloatView to, int64_t to_step,
                         int n_heads, int64_t width) {
  checks::copy_heads(from, from_step, to, to_step, n_heads, width);
  do_copy_heads(from, from_step, to, to_step, n_heads, width);
}

void Backend::gather_rows(FloatView x, std::span<const int32_t> rows, FloatView out) {
  checks::gather_rows(x, rows, out);
  do_gather_rows(x, rows, out);
}

void Backend::mix_rows(FloatView x, std::span<const int32_t> rows, std::span<const float> weights,
                       FloatView out) {
  checks::mix_rows(x, rows, weights, out);
  do_mix_rows(x, rows, weights, out);
}

void DeviceCache::copy_page(int32_t from, int32_t to, int64_t n_positions) {
  checks::copy_page(*this, from, to, n_positions);
  if (n_positions > 0) do_copy_page(from, to, n_positions);
}

void DeviceStates::clear(int32_t slot) {
  checks::state(*this, slot, "clear");
  do_clear(slot);
}

void DeviceStates::copy(int32_t from, int32_t to) {
  checks::state(*this, from, "copy");
  checks::state(*this, to, "copy");
  if (from != to) do_copy(from, to);
}

}  // namespace hrun
