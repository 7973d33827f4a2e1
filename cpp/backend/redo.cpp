// States after some of the latest tokens, computed again from the records of what made them.
#include <algorithm>

#include "backend/backend.h"
#include "backend/checks.h"

namespace hrun {
namespace {

// Records that lie one after the other in the log.
struct Stretch {
  const DeviceStates& states;
  int64_t first, n;

  FloatView part(size_t l, int64_t column, int64_t cols) const {
    const int64_t stride = states.layer(l).record_floats();
    return {states.log(l) + first * stride + column, n, cols, stride};
  }
};

// The last inputs are those of the records, before them the ones that were there.
void redo_conv(Backend& backend, const DeviceStates& states, size_t l, int32_t slot,
               int64_t log_row, int64_t n) {
  const StateLayer& layer = states.layer(l);
  const int64_t width = layer.n_channels;
  const auto past = [&](int64_t j) {
    return FloatView{states.past(slot, l) + j * width, 1, width, width};
  };
  for (int64_t j = 0; j < layer.n_past && width > 0; ++j) {
    const int64_t from = j + n - layer.n_past;  // among the records
    const FloatView input =
        from < 0 ? past(j + n)
                 : Stretch{states, (log_row + from) % states.n_log_rows(), 1}.part(l, 0, width);
    backend.copy_heads(input, width, past(j), width, 1, width);
  }
}

void redo_matrices(Backend& backend, DeviceStates& states, size_t l, int32_t slot,
                   const Stretch& records) {
  const StateLayer& layer = states.layer(l);
  const int64_t values = int64_t{layer.n_heads} * layer.v_dim;
  const FloatView k = records.part(l, layer.keys_at(), int64_t{layer.n_k_heads} * layer.k_dim),
                  v = records.part(l, layer.values_at(), values),
                  decay = records.part(l, layer.decays_at(), layer.n_decays()),
                  step = records.part(l, layer.steps_at(), layer.n_steps()),
                  out{states.redo_out(), records.n, values, values};
  BatchRows rows;
  rows.add_positions(records.n, 0, {}, slot);
  const StateSlot slot_of_layer{&states, l};
  switch (layer.rule) {
    case Recurrence::ssm_scan:
      return backend.ssm_scan({v, k, k, decay, step, nullptr, layer.n_k_heads}, slot_of_layer,
                              rows.batch(), out);
    case Recurrence::delta_rule:
      return backend.delta_rule({k, k, v, decay, step},
                                {layer.n_k_heads, layer.n_heads, layer.grouped}, slot_of_layer,
                                rows.batch(), out);
    case Recurrence::wkv:
      const auto half = [&](int64_t first) {
        return FloatView{step.data + first, step.rows, k.cols, step.stride};
      };
      return backend.wkv({k, decay, k, v, half(0), half(k.cols)}, slot_of_layer, rows.batch(), out);
  }
}

}  // namespace

void Backend::redo(DeviceStates& states, int32_t from, int32_t to, int64_t log_row, int64_t n) {
  checks::redo(states, from, to, log_row, n);
  from < 0 ? states.clear(to) : states.copy(from, to);
  if (n == 0) return;
  const int64_t before_end = std::min(n, states.n_log_rows() - log_row);
  for (size_t l = 0; l < states.plan().layers.size(); ++l) {
    redo_conv(*this, states, l, to, log_row, n);
    if (states.layer(l).n_heads == 0) continue;
    redo_matrices(*this, states, l, to, {states, log_row, before_end});
    if (before_end < n) redo_matrices(*this, states, l, to, {states, 0, n - before_end});
  }
}

size_t DeviceStates::log_bytes() const {
  size_t floats = redo_out_floats();
  for (size_t l = 0; l < plan_.layers.size(); ++l) floats += log_floats(l);
  return floats * sizeof(float);
}

size_t DeviceStates::redo_out_floats() const {
  int64_t most = 0;
  for (const StateLayer& layer : plan_.layers)
    most = std::max(most, int64_t{layer.n_heads} * layer.v_dim);
  return static_cast<size_t>(plan_.n_log_rows * most);
}

}  // namespace hrun
