#include "cuda/kernels/recurrent.h"

#include "cuda/device/math.h"

namespace hrun::gpu {
namespace {

// A thread has a channel of a span, token after token.  x and out may be the same.
struct ShortConv {
  static constexpr int kThreads = 128, kBlocks = 1;
  static constexpr const char* kName = "short_conv";
  FloatView x, out;
  const float* taps;
  StateOnDevice state;
  int n_taps;
  bool apply_silu;

  HRUN_HD void operator()() const {
    const int64_t channel = static_cast<int64_t>(block_x()) * kThreads + thread();
    if (channel >= x.cols) return;
    const SpanOnDevice span = state.spans[block_y()];
    const auto kept_in = [&](int32_t slot) {
      return state.past + slot * state.slot_floats + channel;
    };
    const int n_past = n_taps - 1;
    float tap[kMaxConvTaps], past[kMaxConvTaps];
#pragma unroll
    for (int j = 0; j < kMaxConvTaps; ++j) {
      tap[j] = j < n_taps ? taps[j * x.cols + channel] : 0.0f;
      past[j] = j < n_past ? kept_in(first_slot(span))[j * x.cols] : 0.0f;
    }
    const auto keep = [&](int32_t slot) {
#pragma unroll
      for (int j = 0; j < kMaxConvTaps; ++j)
        if (j < n_past) kept_in(slot)[j * x.cols] = past[j];
    };
    for (int64_t i = 0; i < span.n_rows; ++i) {
      const int64_t t = span.first_row + i;
      const float now = x.row(t)[channel];
      if (stays_at(span, i)) keep(span.kept);
      if (float* const record = state.log.of(span, i)) record[channel] = now;
      float y = 0;
#pragma unroll
      for (int j = 0; j < kMaxConvTaps; ++j) {
        if (j == n_past) past[j] = now;
        if (j < n_taps) y = j == 0 ? tap[0] * past[0] : fused_multiply_add(tap[j], past[j], y);
      }
#pragma unroll
      for (int j = 0; j + 1 < kMaxConvTaps; ++j) past[j] = past[j + 1];
      out.row(t)[channel] = apply_silu ? silu(y) : y;
    }
    keep(span.state);
  }
};

// 32 columns of a head's matrix are in shared memory.  Four threads have a column, each with every
// fourth row: these are the four chains of the CPU's sums.
struct DeltaRule {
  static constexpr int kColumns = 32, kChains = 4, kStride = kColumns + 8;
  static constexpr int kThreads = kColumns * kChains, kBlocks = 1;
  static constexpr const char* kName = "delta_rule";
  FloatView q, k, v, decay, beta, out;
  StateOnDevice state;
  DeltaHeads heads;
  int k_dim, v_dim;

  HRUN_HD static float joined(float x) {
    x += bits_to_float(shuffle_xor_bits(float_to_bits(x), 1));
    return x + bits_to_float(shuffle_xor_bits(float_to_bits(x), 2));
  }
  HRUN_HD void operator()() const {
    const int chain = thread() % kChains, column = thread() / kChains;
    const int h = block_x(), at = block_y() * kColumns + column;
    const bool inside = at < v_dim;
    const int64_t key = static_cast<int64_t>(heads.key_head(h)) * k_dim;
    const SpanOnDevice span = state.spans[block_z()];
    // A thread's rows are its own, so no thread waits.
    float* const s = reinterpret_cast<float*>(shared()) + column;
    const auto kept_in = [&](int32_t slot) {
      return state.matrix + slot * state.slot_floats + static_cast<int64_t>(h) * k_dim * v_dim + at;
    };
    const auto keep = [&](int32_t slot) {
      for (int i = chain; i < k_dim && inside; i += kChains)
        kept_in(slot)[static_cast<int64_t>(i) * v_dim] = s[i * kStride];
    };
    for (int i = chain; i < k_dim; i += kChains)
      s[i * kStride] = inside ? kept_in(first_slot(span))[static_cast<int64_t>(i) * v_dim] : 0.0f;
    for (int64_t row = 0; row < span.n_rows; ++row) {
      const int64_t t = span.first_row + row;
      if (stays_at(span, row)) keep(span.kept);
      if (float* const record = state.log.of(span, row)) log(record, t, h, at, inside);
      const float* const k_row = k.row(t) + key;
      const float* const q_row = q.row(t) + key;
      const float e = decay.row(t)[h];
      float sum = 0;
      for (int i = chain; i < k_dim; i += kChains)
        sum = fused_multiply_add(k_row[i], s[i * kStride], sum);
      const float value = inside ? v.row(t)[static_cast<int64_t>(h) * v_dim + at] : 0.0f;
      const float d = beta.row(t)[h] * (value - e * joined(sum));
      sum = 0;
      for (int i = chain; i < k_dim; i += kChains) {
        const float now = fused_multiply_add(k_row[i], d, e * s[i * kStride]);
        s[i * kStride] = now;
        sum = fused_multiply_add(q_row[i], now, sum);
      }
      const float y = joined(sum);
      if (inside && chain == 0) out.row(t)[static_cast<int64_t>(h) * v_dim + at] = y;
    }
    keep(span.state);
  }
  // Each block writes its own values, and one of them what its head has beside.
  HRUN_HD void log(float* record, int64_t t, int h, int at, bool inside) const {
    if (inside && thread() % kChains == 0) {
      const int64_t value = static_cast<int64_t>(h) * v_dim + at;
      record[state.log.values + value] = v.row(t)[value];
    }
    if (block_y() > 0) return;
    if (thread() == 0) {
      record[state.log.decays + h] = decay.row(t)[h];
      record[state.log.steps + h] = beta.row(t)[h];
    }
    const int64_t key = static_cast<int64_t>(heads.key_head(h)) * k_dim;
    for (int i = thread(); heads.leads(h) && i < k_dim; i += kThreads)
      record[state.log.keys + key + i] = k.row(t)[key + i];
  }
};

// A warp per head of a token.
struct L2Norm {
  static constexpr int kThreads = kWarp, kBlocks = 1;
  static constexpr const char* kName = "l2_norm";
  FloatView x;
  int width;
  float eps, scale;

  HRUN_HD void operator()() const {
    float* const head = x.row(block_x()) + static_cast<int64_t>(block_y()) * width;
    float sum = 0;
    for (int i = thread(); i < width; i += kWarp) sum = fused_multiply_add(head[i], head[i], sum);
    for (int step = kWarp / 2; step > 0; step /= 2)
      sum += bits_to_float(shuffle_xor_bits(float_to_bits(sum), step));
    const float inverse = scale / square_root(sum + eps);
    for (int i = thread(); i < width; i += kWarp) head[i] = head[i] * inverse;
  }
};

struct Decay {
  static constexpr int kThreads = 128, kBlocks = 1;
  static constexpr const char* kName = "decay";
  FloatView x;
  const float* bias;
  const float* rate;

  HRUN_HD void operator()() const {
    const int64_t c = static_cast<int64_t>(block_y()) * kThreads + thread();
    if (c >= x.cols) return;
    float& at = x.row(block_x())[c];
    at = exponential(rate[c] * softplus(at + bias[c]));
  }
};

int blocks_of(int64_t n, int per_block) {
  return static_cast<int>((n + per_block - 1) / per_block);
}

}  // namespace

void short_conv(Gpu& gpu, FloatView x, const float* taps, int n_taps, StateOnDevice state,
                bool silu, FloatView out) {
  if (x.rows == 0) return;
  gpu.launch(ShortConv{x, out, taps, state, n_taps, silu},
             Grid{blocks_of(x.cols, ShortConv::kThreads), state.n_spans});
}

void delta_rule(Gpu& gpu, const DeltaInput& in, const DeltaHeads& heads, const StateLayer& layer,
                StateOnDevice state, FloatView out) {
  if (out.rows == 0) return;
  const DeltaRule kernel{in.q, in.k,  in.v,  in.decay,    in.beta,
                         out,  state, heads, layer.k_dim, layer.v_dim};
  gpu.launch(kernel,
             Grid{heads.n_v_heads, blocks_of(layer.v_dim, DeltaRule::kColumns), state.n_spans},
             static_cast<size_t>(layer.k_dim) * DeltaRule::kStride * sizeof(float));
}

void l2_norm(Gpu& gpu, FloatView x, int n_heads, float eps, float scale) {
  if (x.rows == 0) return;
  gpu.launch(L2Norm{x, static_cast<int>(x.cols / n_heads), eps, scale},
             Grid{static_cast<int>(x.rows), n_heads});
}

void decay(Gpu& gpu, FloatView x, const float* bias, const float* rate) {
  if (x.rows == 0) return;
  gpu.launch(Decay{x, bias, rate},
             Grid{static_cast<int>(x.rows), blocks_of(x.cols, Decay::kThreads)});
}

}  // namespace hrun::gpu
