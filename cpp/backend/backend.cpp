#include "backend/backend.h"

#include <numeric>

#include "backend/checks.h"
#include "base/math64.h"

namespace hrun {

std::unique_ptr<DeviceTensor> Backend::upload(const TensorView& view, TensorUse use) {
  return do_upload(view, checks::upload(view), use);
}

std::vector<std::unique_ptr<DeviceTensor>> Backend::upload_slices(
    std::span<const TensorView> slices, TensorUse use) {
  if (slices.empty()) return {};
  const FormatInfo& info = checks::upload(slices.front());
  for (const TensorView& slice : slices) checks::slice(slice, slices.front());
  return do_upload_slices(slices, info, use);
}

std::vector<std::unique_ptr<DeviceTensor>> Backend::do_upload_slices(
    std::span<const TensorView> slices, const FormatInfo& info, TensorUse use) {
  std::vector<std::unique_ptr<DeviceTensor>> out;
  for (const TensorView& slice : slices) out.push_back(do_upload(slice, info, use));
  return out;
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

void Backend::matmul_heads(Slices weights, FloatView x, int64_t x_step, FloatView y,
                           int64_t y_step) {
  checks::matmul_heads(weights, x, x_step, y, y_step);
  do_matmul_heads(weights, x, x_step, y, y_step);
}

// The heads of one token are rows, which a backend multiplies at once.
void Backend::do_matmul_heads(Slices weights, FloatView x, int64_t x_step, FloatView y,
                              int64_t y_step) {
  const auto n_heads = static_cast<int64_t>(weights.size());
  const int64_t cols = weights.front()->cols, rows = weights.front()->rows;
  if (x.rows == 1) {
    std::vector<MatmulPart> parts;
    for (int64_t h = 0; h < n_heads; ++h)
      parts.push_back({weights[static_cast<size_t>(h)].get(), h,
                       FloatView{y.data + h * y_step, 1, rows, y_step}});
    return do_matmul_parts(parts, FloatView{x.data, n_heads, cols, x_step});
  }
  for (int64_t h = 0; h < n_heads; ++h) {
    const MatmulTarget target{weights[static_cast<size_t>(h)].get(),
                              {y.data + h * y_step, y.rows, rows, y.stride}};
    do_matmul({&target, 1}, FloatView{x.data + h * x_step, x.rows, cols, x.stride});
  }
}

void Backend::experts(const ExpertBlock& block, FloatView logits, FloatView x,
                      const ExpertScratch& scratch, FloatView out) {
  checks::experts(block, logits, x, scratch, out);
  do_experts(block, logits, x, scratch, out);
}

void Backend::do_experts(const ExpertBlock&, FloatView, FloatView, const ExpertScratch&,
                         FloatView) {
  throw ArgumentError("experts: expected a backend that chooses them");
}

void Backend::weigh_rows(FloatView logits, FloatView x, FloatView out) {
  checks::weigh_rows(logits, x, out);
  do_weigh_rows(logits, x, out);
}

void Backend::do_weigh_rows(FloatView logits, FloatView x, FloatView out) {
  std::vector<float> weights(static_cast<size_t>(logits.rows));
  read(logits.data, {reinterpret_cast<uint8_t*>(weights.data()), weights.size() * sizeof(float)});
  for (float& weight : weights)
    weight = static_cast<float>(1 / (1 + math64::exp(-static_cast<double>(weight))));
  std::vector<int32_t> rows(weights.size());
  std::iota(rows.begin(), rows.end(), 0);
  do_mix_rows(x, rows, weights, out);
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

void Backend::wkv(const WkvInput& in, const StateSlot& state, const Batch& batch, FloatView out) {
  checks::wkv(in, state, batch, out);
  do_wkv(in, state, batch, out);
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

void Backend::scale_columns(FloatView x, const DeviceTensor& weight, FloatView out) {
  checks::scale_columns(x, weight, out);
  do_scale_columns(x, weight, out);
}

void Backend::mix_heads(FloatView factors, float shift, FloatView x, int n, FloatView base,
                        FloatView out) {
  checks::mix_heads(factors, x, n, base, out);
  do_mix_heads(factors, shift, x, n, base, out);
}

void Backend::match_rms(FloatView x, FloatView y, float least) {
  checks::match_rms(x, y, least);
  do_match_rms(x, y, least);
}

void Backend::keep_above(FloatView x, float deviations) { do_keep_above(x, deviations); }

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
