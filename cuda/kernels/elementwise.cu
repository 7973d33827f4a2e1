#include "cuda/kernels/elementwise.h"

#include <cmath>

#include "base/math64.h"
#include "cuda/device/math.h"

namespace hrun::gpu {
namespace {

// Calls f(row, column) for each value of a [rows, cols] view: the blocks of a row lie along x, the
// rows along y and z.
template <class Function>
struct Each {
  static constexpr int kThreads = 256, kBlocks = 1;
  static constexpr const char* kName = "elementwise";
  int64_t rows, cols;
  Function f;

  HRUN_HD void operator()() const {
    const int64_t row = block_y() + static_cast<int64_t>(block_z()) * grid_y();
    const int64_t col = static_cast<int64_t>(block_x()) * kThreads + thread();
    if (row < rows && col < cols) f(row, col);
  }
};

constexpr int kMaxGrid = 65535;

template <class Function>
void each(Gpu& gpu, int64_t rows, int64_t cols, const Function& f) {
  if (rows <= 0 || cols <= 0) return;
  using Kernel = Each<Function>;
  const int y = static_cast<int>(rows < kMaxGrid ? rows : kMaxGrid);
  gpu.launch(Kernel{rows, cols, f},
             Grid{static_cast<int>((cols + Kernel::kThreads - 1) / Kernel::kThreads), y,
                  static_cast<int>((rows + y - 1) / y)});
}

struct Add {
  FloatView x, y;
  HRUN_HD void operator()(int64_t r, int64_t c) const { x.row(r)[c] = x.row(r)[c] + y.row(r)[c]; }
};
struct AddBias {
  FloatView x;
  const float* bias;
  HRUN_HD void operator()(int64_t r, int64_t c) const { x.row(r)[c] = x.row(r)[c] + bias[c]; }
};
struct AddExpertBias {
  FloatView x;
  const float* biases;
  int64_t step;
  const int32_t* experts;
  HRUN_HD void operator()(int64_t r, int64_t c) const {
    x.row(r)[c] = x.row(r)[c] + biases[experts[r] * step + c];
  }
};
struct Scale {
  FloatView x;
  float factor;
  HRUN_HD void operator()(int64_t r, int64_t c) const { x.row(r)[c] = x.row(r)[c] * factor; }
};
struct SoftCap {
  FloatView x;
  float cap;
  HRUN_HD void operator()(int64_t r, int64_t c) const { x.row(r)[c] = soft_cap(x.row(r)[c], cap); }
};
// Applies f to one value.
HRUN_HD float activated(Nonlinearity f, float x) {
  const float positive = larger(0.0f, x);
  return f == Nonlinearity::silu           ? silu(x)
         : f == Nonlinearity::sigmoid      ? sigmoid(x)
         : f == Nonlinearity::gelu         ? gelu(x)
         : f == Nonlinearity::gelu_erf     ? gelu_erf(x)
         : f == Nonlinearity::relu_squared ? positive * positive
         : f == Nonlinearity::softplus     ? softplus(x)
         : f == Nonlinearity::slow_decay   ? slow_decay(x)
                                           : x;
}
struct Gated {
  Nonlinearity f;
  FloatView gate, up, out;
  HRUN_HD void operator()(int64_t r, int64_t c) const {
    const float g = gate.row(r)[c], u = up.row(r)[c];
    out.row(r)[c] = f == Nonlinearity::clamped_silu ? clamped_silu(g, u) : activated(f, g) * u;
  }
};
struct Activate {
  Nonlinearity f;
  FloatView x, out;
  HRUN_HD void operator()(int64_t r, int64_t c) const { out.row(r)[c] = activated(f, x.row(r)[c]); }
};
struct XieluOf {
  FloatView x;
  Xielu f;
  HRUN_HD void operator()(int64_t r, int64_t c) const {
    float& at = x.row(r)[c];
    at = xielu(at, f.alpha_p, f.alpha_n, f.beta, f.eps);
  }
};
struct CopyHeads {
  FloatView from, to;
  int64_t from_step, to_step, width;
  HRUN_HD void operator()(int64_t r, int64_t c) const {
    const int64_t head = c / width, i = c % width;
    to.row(r)[head * to_step + i] = from.row(r)[head * from_step + i];
  }
};
struct ScaleColumns {
  FloatView x, out;
  const float* weight;
  HRUN_HD void operator()(int64_t r, int64_t c) const { out.row(r)[c] = weight[c] * x.row(r)[c]; }
};
struct MixHeads {
  FloatView factors, x, base, out;
  float shift;
  int n;
  int64_t width;
  HRUN_HD void operator()(int64_t r, int64_t c) const {
    const float* const factor = factors.row(r) + c / width * n;
    float sum = base.row(r)[c];
    for (int i = 0; i < n; ++i)
      sum = fused_multiply_add(factor[i] + shift, x.row(r)[i * width + c % width], sum);
    out.row(r)[c] = sum;
  }
};
struct GatherRows {
  FloatView x, out;
  const int32_t* rows;
  HRUN_HD void operator()(int64_t r, int64_t c) const { out.row(r)[c] = x.row(rows[r])[c]; }
};
struct MixRows {
  FloatView x, out, add;
  const int32_t* rows;
  const float* weights;
  int64_t per_token;
  HRUN_HD void operator()(int64_t r, int64_t c) const {
    float sum = 0;
    for (int64_t k = r * per_token; k < (r + 1) * per_token; ++k)
      sum = fused_multiply_add(weights[k], x.row(rows[k])[c], sum);
    out.row(r)[c] = sum;
    if (add.data) add.row(r)[c] = add.row(r)[c] + sum;
  }
};

struct WeighRows {
  const float* logits;
  FloatView x, out;
  HRUN_HD void operator()(int64_t r, int64_t c) const {
    const auto weight = static_cast<float>(1 / (1 + math64::exp(-static_cast<double>(logits[r]))));
    out.row(r)[c] = fused_multiply_add(weight, x.row(r)[c], 0.0f);
  }
};

constexpr int kRowThreads = 256;
constexpr size_t kRowShared = kRowThreads / kWarp * sizeof(float);

// The sum of f(c) over the columns of a row that a block has.
template <class Function>
HRUN_HD float row_sum(int64_t cols, const Function& f) {
  float sum = 0;
  for (int64_t c = thread(); c < cols; c += kRowThreads) sum = f(c, sum);
  return block_sum<kRowThreads>(sum, reinterpret_cast<float*>(shared()));
}

// A block per row.
struct Norm {
  static constexpr int kThreads = kRowThreads, kBlocks = 1;
  static constexpr const char* kName = "norm";
  FloatView x, out;
  const float* weight;
  const float* bias;  // of a layer norm, or null
  float eps;
  bool centred;  // layer norm

  HRUN_HD void operator()() const {
    const float* const from = x.row(block_x());
    float* const to = out.row(block_x());
    const auto count = static_cast<float>(x.cols);
    float mean = 0;
    if (centred)
      mean = row_sum(x.cols, [&](int64_t c, float sum) { return sum + from[c]; }) / count;
    const float squares = row_sum(x.cols, [&](int64_t c, float sum) {
      return fused_multiply_add(from[c] - mean, from[c] - mean, sum);
    });
    const float inverse = 1.0f / square_root(squares / count + eps);
    for (int64_t c = thread(); c < x.cols; c += kThreads) {
      const float normed = ((from[c] - mean) * inverse) * weight[c];
      to[c] = bias ? normed + bias[c] : normed;
    }
  }
};

struct MatchRms {
  static constexpr int kThreads = kRowThreads, kBlocks = 1;
  static constexpr const char* kName = "match_rms";
  FloatView x, y;
  float most;  // of 1 / rms(x)

  HRUN_HD void operator()() const {
    float* const to = x.row(block_x());
    const float* const from = y.row(block_x());
    const auto inverse = [](const float* row, int64_t cols) {
      const float squares = row_sum(
          cols, [&](int64_t c, float sum) { return fused_multiply_add(row[c], row[c], sum); });
      return 1.0f / square_root(squares / static_cast<float>(cols));
    };
    const float own = inverse(to, x.cols),
                factor = (own < most ? own : most) / inverse(from, y.cols);
    for (int64_t c = thread(); c < x.cols; c += kThreads) to[c] = to[c] * factor;
  }
};

struct KeepAbove {
  static constexpr int kThreads = kRowThreads, kBlocks = 1;
  static constexpr const char* kName = "keep_above";
  FloatView x;
  float deviations;

  HRUN_HD void operator()() const {
    float* const row = x.row(block_x());
    const auto count = static_cast<float>(x.cols);
    const float mean = row_sum(x.cols, [&](int64_t c, float sum) { return sum + row[c]; }) / count;
    const float squares = row_sum(x.cols, [&](int64_t c, float sum) {
      return fused_multiply_add(row[c] - mean, row[c] - mean, sum);
    });
    const float cutoff = fused_multiply_add(deviations, square_root(squares / count), mean);
    for (int64_t c = thread(); c < x.cols; c += kThreads) row[c] = larger(0.0f, row[c] - cutoff);
  }
};

template <class Kernel>
void each_row(Gpu& gpu, const Kernel& kernel) {
  if (kernel.x.rows > 0) gpu.launch(kernel, Grid{static_cast<int>(kernel.x.rows)}, kRowShared);
}

}  // namespace

void rms_norm(Gpu& gpu, FloatView x, const float* weight, float eps, FloatView out) {
  each_row(gpu, Norm{x, out, weight, nullptr, eps, false});
}
void layer_norm(Gpu& gpu, FloatView x, const float* weight, const float* bias, float eps,
                FloatView out) {
  each_row(gpu, Norm{x, out, weight, bias, eps, true});
}
void gated(Gpu& gpu, Nonlinearity f, FloatView gate, FloatView up, FloatView out) {
  each(gpu, gate.rows, gate.cols, Gated{f, gate, up, out});
}
void nonlinearity(Gpu& gpu, Nonlinearity f, FloatView x, FloatView out) {
  each(gpu, x.rows, x.cols, Activate{f, x, out});
}
void xielu(Gpu& gpu, FloatView x, const Xielu& f) { each(gpu, x.rows, x.cols, XieluOf{x, f}); }
void add(Gpu& gpu, FloatView x, FloatView y) { each(gpu, x.rows, x.cols, Add{x, y}); }
void add_bias(Gpu& gpu, FloatView x, const float* bias) {
  each(gpu, x.rows, x.cols, AddBias{x, bias});
}
void scale(Gpu& gpu, FloatView x, float factor) { each(gpu, x.rows, x.cols, Scale{x, factor}); }
void soft_cap(Gpu& gpu, FloatView x, float cap) { each(gpu, x.rows, x.cols, SoftCap{x, cap}); }
void copy_heads(Gpu& gpu, FloatView from, int64_t from_step, FloatView to, int64_t to_step,
                int n_heads, int64_t width) {
  each(gpu, from.rows, n_heads * width, CopyHeads{from, to, from_step, to_step, width});
}
void scale_columns(Gpu& gpu, FloatView x, const float* weight, FloatView out) {
  each(gpu, x.rows, x.cols, ScaleColumns{x, out, weight});
}
void mix_heads(Gpu& gpu, FloatView factors, float shift, FloatView x, int n, FloatView base,
               FloatView out) {
  each(gpu, out.rows, out.cols, MixHeads{factors, x, base, out, shift, n, x.cols / n});
}
void match_rms(Gpu& gpu, FloatView x, FloatView y, float least) {
  each_row(gpu, MatchRms{x, y, 1.0f / std::sqrt(least)});
}
void keep_above(Gpu& gpu, FloatView x, float deviations) {
  each_row(gpu, KeepAbove{x, deviations});
}
void gather_rows(Gpu& gpu, FloatView x, const int32_t* rows, FloatView out) {
  each(gpu, out.rows, out.cols, GatherRows{x, out, rows});
}
void add_expert_bias(Gpu& gpu, FloatView x, const float* biases, int64_t step,
                     const int32_t* experts) {
  each(gpu, x.rows, x.cols, AddExpertBias{x, biases, step, experts});
}
void weigh_rows(Gpu& gpu, const float* logits, FloatView x, FloatView out) {
  each(gpu, out.rows, out.cols, WeighRows{logits, x, out});
}
void mix_rows(Gpu& gpu, FloatView x, const int32_t* rows, const float* weights, int64_t per_token,
              FloatView out, FloatView add) {
  each(gpu, out.rows, out.cols, MixRows{x, out, add, rows, weights, per_token});
}

}  // namespace hrun::gpu
