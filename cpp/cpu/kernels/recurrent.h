// Layers that go from token to token: short convolution, gated delta rule, state space models,
// RWKV's recurrence, and what surrounds them.
//
// Lanes are channels, or columns of a state, which know nothing of each other.
#pragma once

#include "cpu/vector_kernels.h"
#include "cpu/lanes/math.h"

namespace hrun {
namespace {

// y[t] = sum over the taps, oldest first, of tap * x at that distance.  x and out may be the same.
void short_conv_kernel(const ConvTask& task) {
  const int n_past = task.n_taps - 1;
  for_lanes(task.n_channels, [&](int64_t c, int n) {
    Lanes taps[kMaxConvTaps], past[kMaxConvTaps];
    for (int j = 0; j < task.n_taps; ++j) taps[j] = load_n(task.taps + j * task.tap_stride + c, n);
    for (int j = 0; j < n_past; ++j) past[j] = load_n(task.state + j * task.tap_stride + c, n);
    for (int64_t t = 0; t < task.n_tokens; ++t) {
      past[n_past] = load_n(task.x + t * task.x_stride + c, n);
      Lanes y = mul(taps[0], past[0]);
      for (int j = 1; j <= n_past; ++j) y = fma(taps[j], past[j], y);
      for (int j = 0; j < n_past; ++j) past[j] = past[j + 1];
      store_n(task.out + t * task.out_stride + c, task.silu ? silu(y) : y, n);
    }
    for (int j = 0; j < n_past; ++j) store_n(task.state + j * task.tap_stride + c, past[j], n);
  });
}

// S <- e S + k d^T with d = beta (v - e S^T k);  out = S^T q.  The sums over the rows of S are four
// chains, of every fourth row, and ((0 + 1) + (2 + 3)) at the end.
void delta_rule_kernel(const DeltaTask& task) {
  const int rows = task.k_dim, whole = rows / 4 * 4, n = task.n_columns;
  const auto joined = [](const Lanes(&c)[4]) { return add(add(c[0], c[1]), add(c[2], c[3])); };
  for (int64_t t = 0; t < task.n_tokens; ++t) {
    const float* const k = task.k + t * task.stride;
    const float* const q = task.q + t * task.stride;
    const Lanes decay = splat(task.decay[t * task.gate_stride]);
    Lanes c[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    const auto recall = [&](int i, Lanes& sum) {
      sum = fma(splat(k[i]), load(task.state + i * kLanes), sum);
    };
    for (int i = 0; i < whole; i += 4)
      recall(i, c[0]), recall(i + 1, c[1]), recall(i + 2, c[2]), recall(i + 3, c[3]);
    for (int i = whole; i < rows; ++i) recall(i, c[i - whole]);
    const Lanes v = load_n(task.v + t * task.stride, n);
    const Lanes d = mul(splat(task.beta[t * task.gate_stride]), sub(v, mul(decay, joined(c))));
    for (Lanes& sum : c) sum = splat(0.0f);
    const auto write = [&](int i, Lanes& sum) {
      float* const at = task.state + i * kLanes;
      const Lanes s = fma(splat(k[i]), d, mul(decay, load(at)));
      store(at, s);
      sum = fma(splat(q[i]), s, sum);
    };
    for (int i = 0; i < whole; i += 4)
      write(i, c[0]), write(i + 1, c[1]), write(i + 2, c[2]), write(i + 3, c[3]);
    for (int i = whole; i < rows; ++i) write(i, c[i - whole]);
    store_n(task.out + t * task.out_stride, joined(c), n);
  }
}

// S <- e S + b (step x)^T;  out = S^T c + skip x.  The sum over the rows of S as above.  By column:
// e is of each number of S, step and skip of each column.
template <bool kByColumn>
void scan(const ScanTask& task) {
  const int rows = task.state_dim, whole = rows / 4 * 4, n = task.n_columns;
  const Lanes skip = !task.skip  ? splat(0.0f)
                     : kByColumn ? load_n(task.skip, n)
                                 : splat(*task.skip);
  for (int64_t t = 0; t < task.n_tokens; ++t) {
    const float* const b = task.b + t * task.shared_stride;
    const float* const c = task.c + t * task.shared_stride;
    const float* const gate = task.step + t * task.gate_stride;
    const Lanes step = kByColumn ? load_n(gate, n) : splat(*gate);
    const Lanes x = load_n(task.x + t * task.x_stride, n);
    const Lanes d = mul(step, x);
    const Lanes of_head = kByColumn ? step : splat(task.decay[t * task.gate_stride]);
    Lanes sums[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    const auto write = [&](int i, Lanes& sum) {
      float* const at = task.state + i * kLanes;
      Lanes decay = of_head;
      if constexpr (kByColumn) decay = exp(mul(load_n(task.rates + i * task.rate_stride, n), step));
      const Lanes s = fma(splat(b[i]), d, mul(decay, load(at)));
      store(at, s);
      sum = fma(splat(c[i]), s, sum);
    };
    for (int i = 0; i < whole; i += 4)
      write(i, sums[0]), write(i + 1, sums[1]), write(i + 2, sums[2]), write(i + 3, sums[3]);
    for (int i = whole; i < rows; ++i) write(i, sums[i - whole]);
    const Lanes mixed = add(add(sums[0], sums[1]), add(sums[2], sums[3]));
    store_n(task.out + t * task.out_stride, fma(skip, x, mixed), n);
  }
}

void ssm_scan_kernel(const ScanTask& task) { task.rates ? scan<true>(task) : scan<false>(task); }

// S <- decay S - replaced (S^T removed)^T + k v^T;  out = S^T q.  The sums over the rows of S as
// above.
void wkv_kernel(const WkvTask& task) {
  const int rows = task.k_dim, whole = rows / 4 * 4, n = task.n_columns;
  const auto joined = [](const Lanes(&c)[4]) { return add(add(c[0], c[1]), add(c[2], c[3])); };
  for (int64_t t = 0; t < task.n_tokens; ++t) {
    const float* const q = task.q + t * task.q_stride;
    const float* const decay = task.decay + t * task.decay_stride;
    const float* const k = task.k + t * task.k_stride;
    const float* const removed = task.removed + t * task.removed_stride;
    const float* const replaced = task.replaced + t * task.replaced_stride;
    Lanes c[4] = {splat(0.0f), splat(0.0f), splat(0.0f), splat(0.0f)};
    const auto recall = [&](int i, Lanes& sum) {
      sum = fma(splat(removed[i]), load(task.state + i * kLanes), sum);
    };
    for (int i = 0; i < whole; i += 4)
      recall(i, c[0]), recall(i + 1, c[1]), recall(i + 2, c[2]), recall(i + 3, c[3]);
    for (int i = whole; i < rows; ++i) recall(i, c[i - whole]);
    const Lanes v = load_n(task.v + t * task.v_stride, n);
    const Lanes recalled = sub(splat(0.0f), joined(c));
    for (Lanes& sum : c) sum = splat(0.0f);
    const auto write = [&](int i, Lanes& sum) {
      float* const at = task.state + i * kLanes;
      const Lanes kept = fma(splat(replaced[i]), recalled, mul(splat(decay[i]), load(at)));
      const Lanes s = fma(splat(k[i]), v, kept);
      store(at, s);
      sum = fma(splat(q[i]), s, sum);
    };
    for (int i = 0; i < whole; i += 4)
      write(i, c[0]), write(i + 1, c[1]), write(i + 2, c[2]), write(i + 3, c[3]);
    for (int i = whole; i < rows; ++i) write(i, c[i - whole]);
    store_n(task.out + t * task.out_stride, joined(c), n);
  }
}

// x / sqrt(sum(x^2) + eps) * scale
void l2_norm_kernel(float* x, float eps, float scale, int64_t n_values) {
  Lanes squares = splat(0.0f);
  for_lanes(n_values, [&](int64_t i, int n) {
    const Lanes v = load_n(x + i, n);
    squares = fma(v, v, squares);
  });
  const Lanes inverse = splat(scale / __builtin_sqrtf(reduce_add(squares) + eps));
  for_lanes(n_values, [&](int64_t i, int n) { store_n(x + i, mul(load_n(x + i, n), inverse), n); });
}

// e^(rate softplus(x + bias))
void decay_kernel(float* x, const float* bias, const float* rate, int64_t n_values) {
  for_lanes(n_values, [&](int64_t i, int n) {
    const Lanes step = softplus(add(load_n(x + i, n), load_n(bias + i, n)));
    store_n(x + i, exp(mul(load_n(rate + i, n), step)), n);
  });
}

}  // namespace
}  // namespace hrun
