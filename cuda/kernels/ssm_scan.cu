#include "cuda/kernels/ssm_scan.h"

#include "cuda/device/math.h"

namespace hrun::gpu {
namespace {

// Works like DeltaRule in recurrent.cu: 32 values of a head's matrix are in shared memory, and a
// value has four threads.  Each of them has every fourth row of the state, so that the sums are the
// CPU's.  By column: each number of the state has a decay, each value a step and a skip.
template <bool kByColumn>
struct Scan {
  static constexpr int kColumns = 32, kChains = 4, kStride = kColumns + 8;
  static constexpr int kThreads = kColumns * kChains, kBlocks = 1;
  static constexpr const char* kName = kByColumn ? "ssm_scan, by column" : "ssm_scan";
  FloatView x, b, c, decay, step, out;
  const float* skip;
  const float* rates;
  StateOnDevice state;
  int heads_of_group, state_dim, width;

  HRUN_HD static float joined(float sum) {
    sum += bits_to_float(shuffle_xor_bits(float_to_bits(sum), 1));
    return sum + bits_to_float(shuffle_xor_bits(float_to_bits(sum), 2));
  }
  HRUN_HD void operator()() const {
    const int chain = thread() % kChains, column = thread() / kChains;
    const int h = block_x(), at = block_y() * kColumns + column;
    const bool inside = at < width;
    const int64_t shared_by = static_cast<int64_t>(h / heads_of_group) * state_dim,
                  own = static_cast<int64_t>(h) * width + at, gate = kByColumn ? own : h;
    const SpanOnDevice span = state.spans[block_z()];
    // A thread's rows are its own, so no thread waits.
    float* const s = reinterpret_cast<float*>(shared()) + column;
    const auto kept_in = [&](int32_t slot) {
      return state.matrix + slot * state.slot_floats + static_cast<int64_t>(h) * state_dim * width +
             at;
    };
    const auto keep = [&](int32_t slot) {
      for (int i = chain; i < state_dim && inside; i += kChains)
        kept_in(slot)[static_cast<int64_t>(i) * width] = s[i * kStride];
    };
    for (int i = chain; i < state_dim; i += kChains)
      s[i * kStride] = inside ? kept_in(first_slot(span))[static_cast<int64_t>(i) * width] : 0.0f;
    for (int64_t row = 0; row < span.n_rows; ++row) {
      const int64_t t = span.first_row + row;
      if (stays_at(span, row)) keep(span.kept);
      if (float* const record = state.log.of(span, row)) log(record, t, h, at, inside);
      const float* const b_row = b.row(t) + shared_by;
      const float* const c_row = c.row(t) + shared_by;
      const float length = kByColumn && !inside ? 0.0f : step.row(t)[gate];
      const float value = inside ? x.row(t)[own] : 0.0f, d = length * value;
      float e = kByColumn ? 0.0f : decay.row(t)[h], sum = 0;
      for (int i = chain; i < state_dim; i += kChains) {
        if (kByColumn && inside) e = exponential(rates[i * out.cols + own] * length);
        const float now = fused_multiply_add(b_row[i], d, e * s[i * kStride]);
        s[i * kStride] = now;
        sum = fused_multiply_add(c_row[i], now, sum);
      }
      const float mixed = joined(sum);
      if (inside && chain == 0)
        out.row(t)[own] = fused_multiply_add(skip ? skip[gate] : 0.0f, value, mixed);
    }
    keep(span.state);
  }
  // Each block writes its own values, and one of them what its head has beside.
  HRUN_HD void log(float* record, int64_t t, int h, int at, bool inside) const {
    if (inside && thread() % kChains == 0) {
      const int64_t value = static_cast<int64_t>(h) * width + at;
      record[state.log.values + value] = x.row(t)[value];
      if (kByColumn) record[state.log.steps + value] = step.row(t)[value];
    }
    if (block_y() > 0) return;
    if (!kByColumn && thread() == 0) {
      record[state.log.decays + h] = decay.row(t)[h];
      record[state.log.steps + h] = step.row(t)[h];
    }
    const int64_t shared_by = static_cast<int64_t>(h / heads_of_group) * state_dim;
    for (int i = thread(); h % heads_of_group == 0 && i < state_dim; i += kThreads)
      record[state.log.keys + shared_by + i] = b.row(t)[shared_by + i];
  }
};

}  // namespace

void ssm_scan(Gpu& gpu, const ScanInput& in, const float* skip, const float* rates,
              const StateLayer& layer, StateOnDevice state, FloatView out) {
  if (out.rows == 0) return;
  const auto launch = [&]<bool kByColumn>() {
    using Kernel = Scan<kByColumn>;
    const Kernel kernel{in.x,        in.b,       in.c,  in.decay, in.step,
                        out,         skip,       rates, state,    layer.n_heads / in.n_groups,
                        layer.k_dim, layer.v_dim};
    gpu.launch(
        kernel,
        Grid{layer.n_heads, (layer.v_dim + Kernel::kColumns - 1) / Kernel::kColumns, state.n_spans},
        static_cast<size_t>(layer.k_dim) * Kernel::kStride * sizeof(float));
  };
  rates ? launch.template operator()<true>() : launch.template operator()<false>();
}

}  // namespace hrun::gpu
