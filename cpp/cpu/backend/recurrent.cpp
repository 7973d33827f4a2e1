// Recurrent layers on the CPU: their states, and how the work is shared out.
#include <algorithm>
#include <cstring>

#include "cpu/backend/cpu_states.h"
#include "cpu/backend/parallel.h"

namespace hrun {
namespace {

const CpuStates& on_cpu(const StateSlot& slot) {
  return static_cast<const CpuStates&>(*slot.states);
}

// A batch may be empty.
int64_t per_span(int64_t work, const Batch& batch) {
  return work / std::max<int64_t>(1, static_cast<int64_t>(batch.spans.size()));
}

}  // namespace

CpuStates::CpuStates(const StatePlan& plan, std::string_view purpose) : DeviceStates(plan) {
  size_t floats = 0;
  const auto add = [&](size_t n) {
    offsets_.push_back(floats);
    floats += (n + kLanes - 1) / kLanes * kLanes;
  };
  for (const StateLayer& layer : plan.layers) {
    add(static_cast<size_t>(layer.n_past) * static_cast<size_t>(layer.n_channels));
    add(static_cast<size_t>(layer.n_heads) * head_floats(layer));
  }
  slot_floats_ = floats;
  size_t all = 0;
  if (__builtin_mul_overflow(slot_bytes(), static_cast<size_t>(plan.n_slots), &all))
    throw OutOfMemoryError("{}: {} states of {} bytes are more than the address space", purpose,
                           plan.n_slots, slot_bytes());
  // Slots are used from the first one on.
  memory_ = allocate_host(all, purpose, Pages::huge);
}

void CpuStates::do_clear(int32_t slot) { std::memset(at(slot), 0, slot_bytes()); }

void CpuStates::do_copy(int32_t from, int32_t to) { std::memcpy(at(to), at(from), slot_bytes()); }

std::unique_ptr<DeviceStates> CpuBackend::do_make_states(const StatePlan& plan,
                                                         std::string_view purpose) {
  return std::make_unique<CpuStates>(plan, purpose);
}

void CpuBackend::do_short_conv(FloatView x, const DeviceTensor& taps, const StateSlot& state,
                               const Batch& batch, bool silu, FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  const CpuStates& states = on_cpu(state);
  constexpr int64_t kChannels = 64;
  const int64_t n_parts = (x.cols + kChannels - 1) / kChannels;
  const int n_taps = state.layer().n_past + 1;
  parallel(static_cast<int64_t>(batch.spans.size()) * n_parts,
           per_span(x.rows * kChannels * n_taps, batch), [&](int64_t i, int) {
             const RowSpan& span = batch.spans[static_cast<size_t>(i / n_parts)];
             const int64_t c = i % n_parts * kChannels;
             kernels_.short_conv({
                 .x = x.row(span.first_row) + c,
                 .out = out.row(span.first_row) + c,
                 .taps = hrun::on_cpu(taps).vector.data() + c,
                 .state = states.past(span.state, state.index) + c,
                 .x_stride = x.stride,
                 .out_stride = out.stride,
                 .tap_stride = x.cols,
                 .n_tokens = span.n_rows,
                 .n_channels = std::min(kChannels, x.cols - c),
                 .n_taps = n_taps,
                 .silu = silu,
             });
           });
}

void CpuBackend::do_delta_rule(const DeltaInput& in, const DeltaHeads& heads,
                               const StateSlot& state, const Batch& batch, FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  const CpuStates& states = on_cpu(state);
  const StateLayer& layer = state.layer();
  const int64_t n_parts = (layer.v_dim + kLanes - 1) / kLanes, n_tasks = heads.n_v_heads * n_parts;
  parallel(
      static_cast<int64_t>(batch.spans.size()) * n_tasks,
      per_span(out.rows * layer.k_dim * kLanes, batch), [&](int64_t i, int) {
        const RowSpan& span = batch.spans[static_cast<size_t>(i / n_tasks)];
        const int64_t h = i % n_tasks / n_parts, part = i % n_parts, row = span.first_row;
        const int64_t key = int64_t{heads.key_head(static_cast<int>(h))} * layer.k_dim,
                      column = h * layer.v_dim + part * kLanes;
        kernels_.delta_rule({
            .q = in.q.row(row) + key,
            .k = in.k.row(row) + key,
            .v = in.v.row(row) + column,
            .decay = in.decay.row(row) + h,
            .beta = in.beta.row(row) + h,
            .out = out.row(row) + column,
            .state = states.matrix(span.state, state.index) +
                     static_cast<size_t>(h) * CpuStates::head_floats(layer) +
                     static_cast<size_t>(part * layer.k_dim * kLanes),
            .stride = in.v.stride,
            .gate_stride = in.beta.stride,
            .out_stride = out.stride,
            .n_tokens = span.n_rows,
            .k_dim = layer.k_dim,
            .n_columns = static_cast<int>(std::min<int64_t>(kLanes, layer.v_dim - part * kLanes)),
        });
      });
}

void CpuBackend::do_ssm_scan(const ScanInput& in, const StateSlot& state, const Batch& batch,
                             FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  const CpuStates& states = on_cpu(state);
  const StateLayer& layer = state.layer();
  const int64_t n_parts = (layer.v_dim + kLanes - 1) / kLanes, n_tasks = layer.n_heads * n_parts;
  const int heads_of_group = layer.n_heads / in.n_groups;
  const float* const skip = hrun::on_cpu(*in.skip).vector.data();
  parallel(
      static_cast<int64_t>(batch.spans.size()) * n_tasks,
      per_span(out.rows * layer.k_dim * kLanes, batch), [&](int64_t i, int) {
        const RowSpan& span = batch.spans[static_cast<size_t>(i / n_tasks)];
        const int64_t h = i % n_tasks / n_parts, part = i % n_parts, row = span.first_row;
        const int64_t shared = h / heads_of_group * layer.k_dim,
                      column = h * layer.v_dim + part * kLanes;
        kernels_.ssm_scan({
            .x = in.x.row(row) + column,
            .b = in.b.row(row) + shared,
            .c = in.c.row(row) + shared,
            .decay = in.decay.row(row) + h,
            .step = in.step.row(row) + h,
            .out = out.row(row) + column,
            .state = states.matrix(span.state, state.index) +
                     static_cast<size_t>(h) * CpuStates::head_floats(layer) +
                     static_cast<size_t>(part * layer.k_dim * kLanes),
            .stride = in.x.stride,
            .gate_stride = in.step.stride,
            .out_stride = out.stride,
            .n_tokens = span.n_rows,
            .state_dim = layer.k_dim,
            .n_columns = static_cast<int>(std::min<int64_t>(kLanes, layer.v_dim - part * kLanes)),
            .skip = skip[h],
        });
      });
}

void CpuBackend::do_l2_norm(FloatView x, int n_heads, float eps, float scale) {
  const Turn turn(*this, Operation::norm);
  const int64_t width = x.cols / n_heads;
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    for (int64_t h = 0; h < n_heads; ++h) kernels_.l2_norm(x.row(t) + h * width, eps, scale, width);
  });
}

void CpuBackend::do_decay(FloatView x, const DeviceTensor& bias, const DeviceTensor& rate) {
  const Turn turn(*this, Operation::gate);
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    kernels_.decay(x.row(t), hrun::on_cpu(bias).vector.data(), hrun::on_cpu(rate).vector.data(),
                   x.cols);
  });
}

}  // namespace hrun
