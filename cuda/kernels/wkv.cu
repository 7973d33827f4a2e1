#include "cuda/kernels/wkv.h"

#include "cuda/device/math.h"

namespace hrun::gpu {
namespace {

// Works like DeltaRule in recurrent.cu: 32 columns of a head's matrix are in shared memory, and a
// column has four threads.  Each of them has every fourth row of the state, so that the sums are
// the CPU's.
struct Wkv {
  static constexpr int kColumns = 32, kChains = 4, kStride = kColumns + 8;
  static constexpr int kThreads = kColumns * kChains, kBlocks = 1;
  static constexpr const char* kName = "wkv";
  WkvInput in;
  FloatView out;
  StateOnDevice state;
  int k_dim, v_dim;

  HRUN_HD static float joined(float sum) {
    sum += bits_to_float(shuffle_xor_bits(float_to_bits(sum), 1));
    return sum + bits_to_float(shuffle_xor_bits(float_to_bits(sum), 2));
  }
  HRUN_HD void operator()() const {
    const int chain = thread() % kChains, column = thread() / kChains;
    const int h = block_x(), at = block_y() * kColumns + column;
    const bool inside = at < v_dim;
    const int64_t key = static_cast<int64_t>(h) * k_dim, own = static_cast<int64_t>(h) * v_dim + at;
    const SpanOnDevice span = state.spans[block_z()];
    // A thread's rows are its own, so no thread waits.
    float* const s = reinterpret_cast<float*>(shared()) + column;
    const auto kept_in = [&](int32_t slot) {
      return state.matrix + slot * state.slot_floats + key * v_dim + at;
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
      if (float* const record = state.log.of(span, row)) log(record, t, key, own, inside);
      const float *const q = in.q.row(t) + key, *const decay = in.decay.row(t) + key,
                         *const k = in.k.row(t) + key, *const removed = in.removed.row(t) + key,
                         *const replaced = in.replaced.row(t) + key;
      const float v = inside ? in.v.row(t)[own] : 0.0f;
      float sum = 0;
      for (int i = chain; i < k_dim; i += kChains)
        sum = fused_multiply_add(removed[i], s[i * kStride], sum);
      const float recalled = 0.0f - joined(sum);
      sum = 0;
      for (int i = chain; i < k_dim; i += kChains) {
        const float kept = fused_multiply_add(replaced[i], recalled, decay[i] * s[i * kStride]);
        const float now = fused_multiply_add(k[i], v, kept);
        s[i * kStride] = now;
        sum = fused_multiply_add(q[i], now, sum);
      }
      const float mixed = joined(sum);
      if (inside && chain == 0) out.row(t)[own] = mixed;
    }
    keep(span.state);
  }
  // Each block writes its own values, and one of them what its head has beside.
  HRUN_HD void log(float* record, int64_t t, int64_t key, int64_t own, bool inside) const {
    if (inside && thread() % kChains == 0) record[state.log.values + own] = in.v.row(t)[own];
    if (block_y() > 0) return;
    for (int i = thread(); i < k_dim; i += kThreads) {
      record[state.log.keys + key + i] = in.k.row(t)[key + i];
      record[state.log.decays + key + i] = in.decay.row(t)[key + i];
      record[state.log.steps + key + i] = in.removed.row(t)[key + i];
      record[state.log.steps + in.removed.cols + key + i] = in.replaced.row(t)[key + i];
    }
  }
};

}  // namespace

void wkv(Gpu& gpu, const WkvInput& in, const StateLayer& layer, StateOnDevice state,
         FloatView out) {
  if (out.rows == 0) return;
  gpu.launch(Wkv{in, out, state, layer.k_dim, layer.v_dim},
             Grid{layer.n_heads, (layer.v_dim + Wkv::kColumns - 1) / Wkv::kColumns, state.n_spans},
             static_cast<size_t>(layer.k_dim) * Wkv::kStride * sizeof(float));
}

}  // namespace hrun::gpu
