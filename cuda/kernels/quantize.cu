#include "cuda/kernels/quantize.h"

#include "cuda/device/prepare.h"

namespace hrun::gpu {
namespace {

// A warp works on 256 columns of a token, eight per lane.  With a norm, one block of threads has
// the whole token, since all of it must be summed first.  Without a norm, a token is spread over as
// many blocks as there are columns for.  The order of the sum depends on the columns alone.
//
// For a single token the latency counts.  Work that needs no other thread comes before the sum of
// squares: the loads of a warp's first 256 columns, and the hash of their signs, which is about 150
// instructions.  Rows up to 4096 columns are read once; columns beyond that are read again from L1.
template <bool kNorm, bool kCodes>
struct Prepare {
  static constexpr int kThreads = kNorm ? kNormWarps * kWarp : 128, kBlocks = kNorm ? 2 : 8;
  static constexpr int kWarps = kThreads / kWarp;
  static constexpr const char* kName = kCodes ? "quantize" : "prepare_floats";
  static constexpr size_t kSharedBytes = kNorm ? kWarps * sizeof(float) : 0;

  PrepareRow<kNorm, kCodes> task;
  int blocks_per_token;  // of threads

  HRUN_HD void operator()() const {
    const int64_t token = block_x() / blocks_per_token;
    const int first_block = block_x() % blocks_per_token * kWarps + warp();
    const int64_t first = static_cast<int64_t>(first_block) * kRotationBlock + lane() * kPerLane;
    constexpr int64_t kStep = kWarps * kRotationBlock;  // with a norm

    typename PrepareRow<kNorm, kCodes>::Columns columns;
    task.load(token, first, columns);
    float inverse = 1;
    if constexpr (kNorm) {
      float squares = task.add_squares(columns.x, 0.0f);
      for (int64_t c = first + kStep; c < task.cols; c += kStep) {
        float v[kPerLane];
        load_eight(task.x + token * task.x_stride, c, task.cols, task.wide, v);
        squares = task.add_squares(v, squares);
      }
      squares = warp_sum(squares);
      auto* const sums = reinterpret_cast<float*>(shared());
      if (lane() == 0) sums[warp()] = squares;
      sync_block();
      inverse = task.inverse_of(sums);
    }
    if (static_cast<int64_t>(first_block) * kRotationBlock < task.cols)
      task.prepare(token, first, inverse, columns);
    if constexpr (kNorm)
      for (int64_t c = first + kStep; c - lane() * kPerLane < task.cols; c += kStep) {
        task.load(token, c, columns);
        task.prepare(token, c, inverse, columns);
      }
  }
};

bool rows_of_words4(const float* data, int64_t stride) {
  return reinterpret_cast<uintptr_t>(data) % 16 == 0 && stride % 4 == 0;
}

template <bool kNorm, bool kCodes>
void launch(Gpu& gpu, const QuantizeSource& from, InputForm kind, const QuantizedRows& to,
            FloatView out) {
  using Kernel = Prepare<kNorm, kCodes>;
  const FloatView& x = from.x;
  if (x.rows == 0) return;
  const int64_t n_blocks = (x.cols + kRotationBlock - 1) / kRotationBlock;
  const Kernel k{{prepare_task(from, kind, to, out)},
                 kNorm ? 1 : static_cast<int>((n_blocks + Kernel::kWarps - 1) / Kernel::kWarps)};
  gpu.launch(k, Grid{static_cast<int>(x.rows * k.blocks_per_token)}, Kernel::kSharedBytes);
}

}  // namespace

PrepareTask prepare_task(const QuantizeSource& from, InputForm kind, const QuantizedRows& to,
                         FloatView out) {
  const FloatView& x = from.x;
  PrepareTask k{};
  k.x = x.data;
  k.x_stride = x.stride;
  k.norm = from.norm;
  k.eps = from.eps;
  k.gate = from.gate;
  k.gate_stride = from.gate_stride;
  k.rows = from.rows;
  k.cols = x.cols;
  k.rotated = is_rotated(kind);
  k.with_signs = kind == InputForm::kRotatedSigned;
  k.wide = rows_of_words4(x.data, x.stride) && (!from.norm || rows_of_words4(from.norm, 0)) &&
           (!from.gate || rows_of_words4(from.gate, from.gate_stride)) &&
           (!out.data || rows_of_words4(out.data, out.stride));
  while (kPerLane << k.log2_lanes_per_scale < input_form_columns(kind)) ++k.log2_lanes_per_scale;
  k.to = to;
  k.out = out.data;
  k.out_stride = out.stride;
  return k;
}

QuantizedRows quantized_shape(InputForm kind, int64_t n_tokens, int64_t cols) {
  QuantizedRows to{};
  to.n_tokens = n_tokens;
  to.cols = cols;
  to.stride = (cols + kRotationBlock - 1) / kRotationBlock * kRotationBlock;
  to.n_blocks = (cols + input_form_columns(kind) - 1) / input_form_columns(kind);
  return to;
}

void quantize(Gpu& gpu, const QuantizeSource& from, InputForm kind, const QuantizedRows& to) {
  if (from.norm)
    launch<true, true>(gpu, from, kind, to, {});
  else
    launch<false, true>(gpu, from, kind, to, {});
}

void prepare_floats(Gpu& gpu, const QuantizeSource& from, InputForm kind, FloatView out) {
  if (from.norm)
    launch<true, false>(gpu, from, kind, {}, out);
  else
    launch<false, false>(gpu, from, kind, {}, out);
}

}  // namespace hrun::gpu
