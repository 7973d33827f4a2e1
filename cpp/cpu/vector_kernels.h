// Kernels of vectors: norms, functions of single values, recurrent layers.
#pragma once

#include <cstddef>
#include <cstdint>

#include "backend/backend.h"
#include "cpu/kernel_constants.h"

namespace hrun {

// Channels of a short convolution, and rows of one sequence.
struct ConvTask {
  const float* x;
  float* out;
  const float* taps;  // [n_taps][tap_stride]
  float* state;       // [n_taps - 1][tap_stride]
  int64_t x_stride, out_stride, tap_stride;
  int64_t n_tokens, n_channels;
  int n_taps;
  bool silu;
};

// Up to kLanes columns of a head's matrix, and rows of one sequence.
struct DeltaTask {
  const float* q;  // [n_tokens, k_dim], `stride` apart, as k and v
  const float* k;
  const float* v;      // [n_tokens, n_columns]
  const float* decay;  // one per token, `gate_stride` apart, as beta
  const float* beta;
  float* out;
  float* state;  // [k_dim][kLanes]
  int64_t stride, gate_stride, out_stride;
  int64_t n_tokens;
  int k_dim, n_columns;
};

// Up to kLanes values of a head, and rows of one sequence.
struct ScanTask {
  const float* x;  // [n_tokens, n_columns], `x_stride` apart
  const float* b;  // [n_tokens, state_dim], `shared_stride` apart, as c
  const float* c;
  const float*
      decay;          // one per token, `gate_stride` apart, as step; not read where there are rates
  const float* step;  // where there are rates: [n_tokens, n_columns]
  const float*
      rates;          // [state_dim, n_columns], `rate_stride` apart: decay = e^(rate step); or null
  const float* skip;  // one, or where there are rates one per column; null: 0
  float* out;
  float* state;  // [state_dim][kLanes]
  int64_t x_stride, shared_stride, gate_stride, rate_stride, out_stride;
  int64_t n_tokens;
  int state_dim, n_columns;
};

// Up to kLanes columns of a head's matrix, and rows of one sequence.  Each input is [n_tokens,
// k_dim] with a stride of its own.
struct WkvTask {
  const float *q, *decay, *k, *removed, *replaced;
  int64_t q_stride, decay_stride, k_stride, removed_stride, replaced_stride;
  const float* v;  // [n_tokens, n_columns]
  float* out;
  float* state;  // [k_dim][kLanes]
  int64_t v_stride, out_stride;
  int64_t n_tokens;
  int k_dim, n_columns;
};

struct VectorKernels {
  float (*norm_inverse)(const float* x, float eps, int64_t n);  // 1 / sqrt(mean(x^2) + eps)
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
  // Turns one token: n_heads heads of head_dim; cos and sin of its position, n_rot / 2 each.
  void (*rope)(float* x, int n_heads, int64_t head_dim, int n_rot, RopeStyle style,
               const float* cos, const float* sin);
  void (*to_fp16)(const float* x, int64_t n, uint16_t* out);
  void (*layer_norm)(const float* x, const float* weight, const float* bias, float eps, int64_t n,
                     float* out);
  void (*keep_above)(float* x, float deviations, int64_t n);
  void (*gated)(Nonlinearity f, const float* gate, const float* up, int64_t n, float* out);
  void (*nonlinearity)(Nonlinearity f, const float* x, int64_t n, float* out);
  void (*xielu)(float* x, const Xielu& f, int64_t n);
  void (*scale)(float* x, float factor, int64_t n);
  void (*soft_cap)(float* x, float cap, int64_t n);
  void (*add_scaled)(float* x, float factor, const float* y, int64_t n);  // x = fma(factor, y, x)
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* out);
  void (*add)(float* x, const float* y, int64_t n);  // x += y
  void (*exp)(const float* x, int64_t n, float* out);
  void (*short_conv)(const ConvTask& task);
  void (*delta_rule)(const DeltaTask& task);
  void (*ssm_scan)(const ScanTask& task);
  void (*wkv)(const WkvTask& task);
  void (*l2_norm)(float* x, float eps, float scale, int64_t n);  // of one head
  void (*decay)(float* x, const float* bias, const float* rate, int64_t n);
  // For measurements: reads n bytes (a multiple of 256) as fast as it can; the result only keeps
  // the loads alive.
  int64_t (*read_memory)(const uint8_t* p, size_t n);
};

}  // namespace hrun
