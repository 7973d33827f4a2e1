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

// Runs the rows of a span in the slots where they go on: run(slot, first, n), and between them
// pass_on(from, to).
template <class Run, class PassOn>
void run_span(const RowSpan& span, const Run& run, const PassOn& pass_on) {
  if (span.kept < 0) return run(span.state, 0, span.n_rows);
  if (span.kept_at > 0) run(span.kept, 0, span.kept_at);
  pass_on(span.kept, span.state);
  run(span.state, span.kept_at, span.n_rows - span.kept_at);
}

// Columns of the matrix of a head: the first of them among the values of all heads, and their
// state.
struct MatrixColumns {
  int64_t head, column;
  int n;
  float* state;
};

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
  size_t log = 0;
  for (size_t l = 0; l < plan.layers.size(); ++l) {
    log_offsets_.push_back(log);
    log += log_floats(l);
  }
  log_offsets_.push_back(log);
  if (plan.n_log_rows > 0) log_ = allocate_host(log_bytes(), purpose, Pages::huge);
}

void CpuStates::record(size_t layer, const Batch& batch, const FloatView& x, int64_t column) const {
  const auto stride = static_cast<size_t>(this->layer(layer).record_floats());
  for (const RowSpan& span : batch.spans) {
    if (span.log_row < 0) continue;
    for (int64_t i = first_logged(span.kept >= 0, span.kept_at, span.n_rows, n_log_rows());
         i < span.n_rows; ++i)
      std::memcpy(log(layer) + static_cast<size_t>((span.log_row + i) % n_log_rows()) * stride +
                      static_cast<size_t>(column),
                  x.row(span.first_row + i), static_cast<size_t>(x.cols) * sizeof(float));
  }
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
  states.record(state.index, batch, x, 0);
  constexpr int64_t kChannels = 64;
  const int64_t n_parts = (x.cols + kChannels - 1) / kChannels;
  const int n_taps = state.layer().n_past + 1;
  parallel(static_cast<int64_t>(batch.spans.size()) * n_parts,
           per_span(x.rows * kChannels * n_taps, batch), [&](int64_t i, int) {
             const RowSpan& span = batch.spans[static_cast<size_t>(i / n_parts)];
             const int64_t c = i % n_parts * kChannels, n = std::min(kChannels, x.cols - c);
             const auto past = [&](int32_t slot) { return states.past(slot, state.index) + c; };
             const auto run = [&](int32_t slot, int64_t first, int64_t n_rows) {
               kernels_.short_conv({
                   .x = x.row(span.first_row + first) + c,
                   .out = out.row(span.first_row + first) + c,
                   .taps = hrun::on_cpu(taps).vector.data() + c,
                   .state = past(slot),
                   .x_stride = x.stride,
                   .out_stride = out.stride,
                   .tap_stride = x.cols,
                   .n_tokens = n_rows,
                   .n_channels = n,
                   .n_taps = n_taps,
                   .silu = silu,
               });
             };
             run_span(span, run, [&](int32_t from, int32_t to) {
               for (int j = 0; j + 1 < n_taps; ++j)
                 std::copy_n(past(from) + j * x.cols, n, past(to) + j * x.cols);
             });
           });
}

// Calls run(columns, row, n_rows) for some columns at a time of each head's matrix, with their
// state before these rows.
template <class Function>
void CpuBackend::for_columns(const StateSlot& state, const Batch& batch, int64_t n_rows,
                             Function&& run) {
  const CpuStates& states = on_cpu(state);
  const StateLayer& layer = state.layer();
  const int64_t n_parts = (layer.v_dim + kLanes - 1) / kLanes, n_tasks = layer.n_heads * n_parts;
  parallel(static_cast<int64_t>(batch.spans.size()) * n_tasks,
           per_span(n_rows * layer.k_dim * kLanes, batch), [&](int64_t i, int) {
             const RowSpan& span = batch.spans[static_cast<size_t>(i / n_tasks)];
             const int64_t head = i % n_tasks / n_parts, part = i % n_parts;
             MatrixColumns at{
                 .head = head,
                 .column = head * layer.v_dim + part * kLanes,
                 .n = static_cast<int>(std::min<int64_t>(kLanes, layer.v_dim - part * kLanes)),
                 .state = nullptr};
             const auto run_rows = [&](int32_t slot, int64_t first, int64_t n) {
               at.state = states.columns(slot, state.index, head, part);
               run(at, span.first_row + first, n);
             };
             run_span(span, run_rows, [&](int32_t from, int32_t to) {
               states.copy_columns(from, to, state.index, head, part);
             });
           });
}

void CpuBackend::do_delta_rule(const DeltaInput& in, const DeltaHeads& heads,
                               const StateSlot& state, const Batch& batch, FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  const CpuStates& states = on_cpu(state);
  const StateLayer& layer = state.layer();
  states.record(state.index, batch, in.k, layer.keys_at());
  states.record(state.index, batch, in.v, layer.values_at());
  states.record(state.index, batch, in.decay, layer.decays_at());
  states.record(state.index, batch, in.beta, layer.steps_at());
  for_columns(state, batch, out.rows, [&](const MatrixColumns& at, int64_t row, int64_t n_rows) {
    const int64_t key = int64_t{heads.key_head(static_cast<int>(at.head))} * layer.k_dim;
    kernels_.delta_rule({
        .q = in.q.row(row) + key,
        .k = in.k.row(row) + key,
        .v = in.v.row(row) + at.column,
        .decay = in.decay.row(row) + at.head,
        .beta = in.beta.row(row) + at.head,
        .out = out.row(row) + at.column,
        .state = at.state,
        .stride = in.v.stride,
        .gate_stride = in.beta.stride,
        .out_stride = out.stride,
        .n_tokens = n_rows,
        .k_dim = layer.k_dim,
        .n_columns = at.n,
    });
  });
}

void CpuBackend::do_ssm_scan(const ScanInput& in, const StateSlot& state, const Batch& batch,
                             FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  const CpuStates& states = on_cpu(state);
  const StateLayer& layer = state.layer();
  states.record(state.index, batch, in.b, layer.keys_at());
  states.record(state.index, batch, in.x, layer.values_at());
  if (!layer.rates) states.record(state.index, batch, in.decay, layer.decays_at());
  states.record(state.index, batch, in.step, layer.steps_at());
  const int heads_of_group = layer.n_heads / in.n_groups;
  const float* const skip = in.skip ? hrun::on_cpu(*in.skip).vector.data() : nullptr;
  const float* const rates = layer.rates ? hrun::on_cpu(*layer.rates).vector.data() : nullptr;
  for_columns(state, batch, out.rows, [&](const MatrixColumns& at, int64_t row, int64_t n_rows) {
    const int64_t shared = at.head / heads_of_group * layer.k_dim,
                  gate = rates ? at.column : at.head;
    kernels_.ssm_scan({
        .x = in.x.row(row) + at.column,
        .b = in.b.row(row) + shared,
        .c = in.c.row(row) + shared,
        .decay = rates ? nullptr : in.decay.row(row) + at.head,
        .step = in.step.row(row) + gate,
        .rates = rates ? rates + at.column : nullptr,
        .skip = skip ? skip + gate : nullptr,
        .out = out.row(row) + at.column,
        .state = at.state,
        .x_stride = in.x.stride,
        .shared_stride = in.b.stride,
        .gate_stride = in.step.stride,
        .rate_stride = out.cols,
        .out_stride = out.stride,
        .n_tokens = n_rows,
        .state_dim = layer.k_dim,
        .n_columns = at.n,
    });
  });
}

void CpuBackend::do_wkv(const WkvInput& in, const StateSlot& state, const Batch& batch,
                        FloatView out) {
  const Turn turn(*this, Operation::recurrent);
  const CpuStates& states = on_cpu(state);
  const StateLayer& layer = state.layer();
  states.record(state.index, batch, in.k, layer.keys_at());
  states.record(state.index, batch, in.v, layer.values_at());
  states.record(state.index, batch, in.decay, layer.decays_at());
  states.record(state.index, batch, in.removed, layer.steps_at());
  states.record(state.index, batch, in.replaced, layer.steps_at() + in.removed.cols);
  for_columns(state, batch, out.rows, [&](const MatrixColumns& at, int64_t row, int64_t n_rows) {
    const int64_t key = at.head * layer.k_dim;
    kernels_.wkv({
        .q = in.q.row(row) + key,
        .decay = in.decay.row(row) + key,
        .k = in.k.row(row) + key,
        .removed = in.removed.row(row) + key,
        .replaced = in.replaced.row(row) + key,
        .q_stride = in.q.stride,
        .decay_stride = in.decay.stride,
        .k_stride = in.k.stride,
        .removed_stride = in.removed.stride,
        .replaced_stride = in.replaced.stride,
        .v = in.v.row(row) + at.column,
        .out = out.row(row) + at.column,
        .state = at.state,
        .v_stride = in.v.stride,
        .out_stride = out.stride,
        .n_tokens = n_rows,
        .k_dim = layer.k_dim,
        .n_columns = at.n,
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
