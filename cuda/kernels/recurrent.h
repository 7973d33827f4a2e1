// Layers that go from token to token on the device.
#pragma once

#include "backend/backend.h"
#include "cuda/gpu.h"
#include "cuda/kernels/attention.h"

namespace hrun::gpu {

// The redo log of a layer: where a record's parts are.
struct LogOnDevice {
  float* records;
  int64_t stride, n_rows;
  int64_t keys, values, decays, steps;

  // The record of row i of a span; null where it has none.
  HRUN_HD float* of(const SpanOnDevice& span, int64_t i) const {
    if (span.log_row < 0 || i < first_logged(span.kept >= 0, span.kept_at, span.n_rows, n_rows))
      return nullptr;
    return records + (span.log_row + i) % n_rows * stride;
  }
};

// The slot where a span's state is before the pass, and whether it stays there as it is before row
// i.
HRUN_HD int32_t first_slot(const SpanOnDevice& span) {
  return span.kept >= 0 ? span.kept : span.state;
}
HRUN_HD bool stays_at(const SpanOnDevice& span, int64_t i) {
  return span.kept >= 0 && i > 0 && i == span.kept_at;
}

// A layer of the states: [slot][...], and the spans with their slots, in device memory, so that a
// recorded graph serves others.
struct StateOnDevice {
  float* past;    // of slot 0: [n_past][channel]
  float* matrix;  // of slot 0: [head][k_dim][v_dim]
  int64_t slot_floats;
  const SpanOnDevice* spans;
  int n_spans;
  LogOnDevice log;
};

// All spans of a batch in one launch.  taps: [n_taps][channel], oldest first.
void short_conv(Gpu& gpu, FloatView x, const float* taps, int n_taps, StateOnDevice state,
                bool silu, FloatView out);
void delta_rule(Gpu& gpu, const DeltaInput& in, const DeltaHeads& heads, const StateLayer& layer,
                StateOnDevice state, FloatView out);
void l2_norm(Gpu& gpu, FloatView x, int n_heads, float eps, float scale);
void decay(Gpu& gpu, FloatView x, const float* bias, const float* rate);

}  // namespace hrun::gpu
