// Layers that go from token to token on the device.
#pragma once

#include "backend/backend.h"
#include "cuda/gpu.h"
#include "cuda/kernels/attention.h"

namespace hrun::gpu {

// A layer of the states: [slot][...], and the spans with their slots, in device memory, so that a
// recorded graph serves others.
struct StateOnDevice {
  float* past;    // of slot 0: [n_past][channel]
  float* matrix;  // of slot 0: [head][k_dim][v_dim]
  int64_t slot_floats;
  const SpanOnDevice* spans;
  int n_spans;
};

// All spans of a batch in one launch.  taps: [n_taps][channel], oldest first.
void short_conv(Gpu& gpu, FloatView x, const float* taps, int n_taps, StateOnDevice state,
                bool silu, FloatView out);
void delta_rule(Gpu& gpu, const DeltaInput& in, const DeltaHeads& heads, const StateLayer& layer,
                StateOnDevice state, FloatView out);
void l2_norm(Gpu& gpu, FloatView x, int n_heads, float eps, float scale);
void decay(Gpu& gpu, FloatView x, const float* bias, const float* rate);

}  // namespace hrun::gpu
