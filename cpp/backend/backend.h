// The operations of a transformer on one device: tensors in, tensors out, eager, in order.
//
// Numeric contract (DESIGN.md): every operation treats its tokens independently and accumulates in
// an order that depends on neither the number of threads nor the number of tokens in the call.
// FloatViews are [n_tokens, width] and point into memory that this backend allocated.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "backend/batch.h"
#include "backend/cache.h"
#include "backend/experts.h"
#include "backend/operation_times.h"
#include "backend/sampling.h"
#include "backend/state.h"
#include "base/tensor.h"

namespace hrun {

struct FormatInfo;

// Memory of a backend; `data` is an address of the device.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  void* data = nullptr;
  size_t bytes = 0;
};

// A weight matrix in whatever layout the backend's kernels want.
class DeviceTensor {
 public:
  virtual ~DeviceTensor() = default;
  FormatId format = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  size_t bytes = 0;         // that a matmul reads
  bool holds_copy = false;  // the view's bytes are seldom needed again
};

// lookup: embed() alone; matmul() works, but perhaps slowly.  product: matmul() alone.
enum class TensorUse : uint8_t { any, lookup, product };

struct MatmulTarget {
  const DeviceTensor* weights;  // [rows, cols]
  FloatView y;                  // [n_tokens, rows]
};

// The input of a matmul: x, or what is made of x on the way, so that it need not be stored in
// between.
struct MatmulInput {
  FloatView x;
  const DeviceTensor* norm = nullptr;  // x / sqrt(mean(x^2) + eps) * norm
  float eps = 0;
  FloatView gate{};  // if it has data: gate * sigmoid(gate) * x

  MatmulInput(FloatView plain) : x(plain) {}  // implicit: most inputs are nothing else
  static MatmulInput normed(FloatView x, const DeviceTensor& weight, float eps) {
    MatmulInput input(x);
    input.norm = &weight;
    input.eps = eps;
    return input;
  }
  static MatmulInput gated(FloatView gate, FloatView up) {
    MatmulInput input(up);
    input.gate = gate;
    return input;
  }
};

// A matrix that takes some rows of a matmul's input, such as one of several experts with its
// tokens.
struct MatmulPart {
  const DeviceTensor* weights;  // [rows, cols]
  int64_t first;                // row of the input that belongs to y's first
  FloatView y;                  // [n_tokens, rows]
};

// Some rows of an input.
inline MatmulInput rows_of(const MatmulInput& input, int64_t first, int64_t n) {
  const auto part = [&](const FloatView& view) {
    return view.data ? FloatView{view.row(first), n, view.cols, view.stride} : view;
  };
  MatmulInput out = input;
  out.x = part(input.x);
  out.gate = part(input.gate);
  return out;
}

// The pairs of values that a rotary embedding turns: (2i, 2i+1), as GGUF stores llama, or (i, i +
// n_rot/2).
enum class RopeStyle : uint8_t { interleaved, halves };

struct Rope {
  RopeStyle style;
  int n_rot;  // leading values of each head that are turned
  const float*
      cos;  // [n_positions, n_rot / 2] on the device, already multiplied by the attention factor
  const float* sin;
  int first = 0;                     // value of each head with which the turned ones begin
  const float* block_cos = nullptr;  // [n_positions / 64, n_rot / 2]: means over 64 positions
  const float* block_sin = nullptr;
};

// Coded caches want to know two things of keys: how the keys were turned, and the queries [n_rows,
// n_heads * k_dim] that will read them.
struct KeyContext {
  const Rope* rope = nullptr;  // null: not at all
  FloatView q{};
  int n_heads = 0;  // 0: q is not known yet
  // [n_kv_heads * k_dim]: the mean of keys before they are turned, and their balance against the
  // queries; null: those of a sequence's first positions.
  const DeviceTensor* mean = nullptr;
  const DeviceTensor* balance = nullptr;
};

// The inputs of a step of the gated delta rule, in rows of one stride: heads of queries and keys,
// and heads of values.  Each value head also has two numbers: `decay` multiplies the state, and
// `beta` says how much of the new is taken.
struct DeltaInput {
  FloatView q, k, v;
  FloatView decay, beta;
};

// The inputs of a step of a state space model: heads of values x, and, in rows of one stride, b and
// c, which a group of heads shares.  Each head also has three numbers (Mamba 2): `decay` multiplies
// the state, `step` is the length of the step, and `skip` says how much of x goes past the state.
// Where the layer of the state has rates (Mamba 1), each value has a step and a skip, and there are
// no decays.
struct ScanInput {
  FloatView x, b, c;
  FloatView decay, step;
  const DeviceTensor* skip;  // null: nothing goes past the state
  int n_groups;
};

// The inputs of a step of RWKV 7, of each head a row: queries, decays, keys and values, and the key
// that is removed and the one that takes its place.
struct WkvInput {
  FloatView q, decay, k, v;
  FloatView removed, replaced;
};

struct AttentionShape {
  int n_heads;
  float scale;         // of q . k
  int64_t window = 0;  // positions that a query sees, its own included; 0: all
  float soft_cap = 0;  // c: scores s become c tanh(s / c); 0: as they are
  const DeviceTensor* sinks =
      nullptr;  // per head: the score of a position without value, part of every softmax
  const Rope* rope = nullptr;  // as KeyContext had it
  bool causal = true;          // false: a query sees its whole sequence, which the batch holds from
                               // position 0 on, or window / 2 positions to either side
  // Where it is not 0, a score shrinks by the distance to the position times the head's
  // alibi_slope() (backend/alibi.h).
  float max_alibi_bias = 0;
};

// The function between the matrices of a feed-forward block.
enum class Nonlinearity : uint8_t {
  silu,          // x / (1 + e^-x)
  sigmoid,       // 1 / (1 + e^-x)
  gelu,          // the tanh form: x / (1 + e^-2u), u = sqrt(2/pi) (x + 0.044715 x^3)
  gelu_erf,      // x (1 + erf(x / sqrt(2))) / 2
  relu_squared,  // max(x, 0)^2
  softplus,      // ln(1 + e^x)
  slow_decay,    // e^(-e^(-1/2) / (1 + e^-x))
  linear,        // x
  clamped_silu,  // only gated: (1 + clamp(up, -7, 7)) g / (1 + e^-1.702 g), g = min(gate, 7)
  xielu,         // only with its numbers: Xielu
  count,
};
inline constexpr std::string_view kNonlinearityNames[] = {
    "silu",     "sigmoid",    "gelu",   "gelu_erf",     "relu_squared",
    "softplus", "slow_decay", "linear", "clamped_silu", "xielu"};
static_assert(std::size(kNonlinearityNames) == static_cast<size_t>(Nonlinearity::count));

// xIELU: alpha_p x^2 + beta x for x >= 0, else alpha_n (e^min(x, eps) - 1 - x) + beta x.
struct Xielu {
  float alpha_p = 0, alpha_n = 0, beta = 0, eps = 0;
};

// Ways to do a matmul with a rotated format; all give the same result up to rounding.
enum class RotatedMatmul : uint8_t {
  activation,  // rotate and quantize the activation, exact integer dot products (the fast way)
  activation_float,  // rotate the activation, stay in fp32 (reference)
  weight,  // inverse transform of the decoded weights in the tile load, unrotated fp32 activation
           // (the paper's)
};

struct BackendOptions {
  std::string device = "auto";  // "auto": what HRUN_DEVICE says, else a GPU where there is one;
                                // "cpu" or "none"; "cuda", "cuda1", ...
  int64_t n_gpu_layers =
      -1;  // layers that go to the GPU, n_layers + 1 for the head as well; -1: everything
  int n_threads = 0;     // 0: the physical cores this process may use
  std::string cpu_tier;  // empty: HRUN_CPU_TIER, else the best the CPU has
  RotatedMatmul rotated_matmul = RotatedMatmul::activation;
};

// One run of operations over the rows of a batch.
struct PassInfo {
  uint64_t owner = 0;  // of the memory that the operations work in; never the same twice
  Batch batch;
  int64_t n_logits = 0;
  bool repeatable = false;  // the next pass of this owner with spans of the same lengths and as
                            // many logits does the same, but for tokens, positions and pages
};

// Operations are checked here, once for all backends, and done by the do_... of a backend.  All
// throw ArgumentError, naming the operation and what was expected, before anything is done.
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string description() const = 0;  // "cpu, tier avx2, 2 threads"
  virtual int n_threads() const = 0;

  // Throws OutOfMemoryError naming `purpose`, the need and what is free.
  virtual std::unique_ptr<DeviceBuffer> allocate(size_t bytes, std::string_view purpose) = 0;
  virtual void write(void* to, std::span<const uint8_t> from) = 0;
  virtual void read(const void* from, std::span<uint8_t> to) = 0;

  // The only place that may repack weights.  The view must stay valid as long as the tensor (a
  // mapped file).
  std::unique_ptr<DeviceTensor> upload(const TensorView& view, TensorUse use);
  std::unique_ptr<DeviceTensor> upload(const TensorView& view) {
    return upload(view, TensorUse::any);
  }
  // Does the same with slices of one shape and format, which may share memory: it is free when the
  // last of them goes.
  std::vector<std::unique_ptr<DeviceTensor>> upload_slices(std::span<const TensorView> slices,
                                                           TensorUse use);

  // The operations of a pass come between these two calls.  A backend that recorded a repeatable
  // pass runs it from its record, and begin_pass() returns true: the operations need not be called
  // again.  `complete`: all operations were called.  end_pass(true) returns false where they were
  // only recorded and the record could not be made: the pass is to be begun again.  end_pass(false)
  // throws nothing.
  virtual bool begin_pass(const PassInfo&) { return false; }
  virtual bool end_pass(bool complete) {
    static_cast<void>(complete);
    return true;
  }

  // out[t] = row tokens[t] of the table, in the original basis.
  void embed(const DeviceTensor& table, std::span<const int32_t> tokens, FloatView out);
  // out = x / sqrt(mean(x^2) + eps) * weight
  void rms_norm(FloatView x, const DeviceTensor& weight, float eps, FloatView out);
  // out = (x - mean) / sqrt(variance + eps) * weight + bias; bias may be null
  void layer_norm(FloatView x, const DeviceTensor& weight, const DeviceTensor* bias, float eps,
                  FloatView out);
  // y = x W^T for several matrices that share an input: the input is rotated and quantized once per
  // kind. The bits are those of rms_norm() or silu_mul() followed by a plain matmul.
  void matmul(std::span<const MatmulTarget> targets, const MatmulInput& x);
  // y = x W^T for several matrices.  Each has its own rows of the input, which may also be rows of
  // others.  The bits are those of one matmul() after the other, which is what happens here; a
  // backend that can do them at once saves the overhead of many small ones.
  void matmul_parts(std::span<const MatmulPart> parts, const MatmulInput& x);
  // Applies a matrix to each head: y[t, h] = W_h x[t, h], heads of x and y so many values apart.
  void matmul_heads(Slices weights, FloatView x, int64_t x_step, FloatView y, int64_t y_step);
  // Can it choose the experts of such a layer itself, so that a pass with experts() is repeatable?
  virtual bool chooses_experts(const ExpertBlock&) const { return false; }
  // out[t] = sum over the experts that the router's logits [n_tokens, n_experts] choose for row t.
  // The bits are those of matmul_parts() and mix_rows() with the host's choice.  Only if
  // chooses_experts().
  void experts(const ExpertBlock& block, FloatView logits, FloatView x,
               const ExpertScratch& scratch, FloatView out);
  // x[t, head] is turned by the position of row t.
  void rope(FloatView x, int n_heads, const Rope& rope, const Batch& batch);

  // Memory for pages of keys and values.  Throws OutOfMemoryError naming `purpose`,
  // UnsupportedModelError for what the backend's kernels cannot do.
  std::unique_ptr<DeviceCache> make_cache(const CachePlan& plan, std::string_view purpose);
  // Stores keys and values [n_rows, n_kv_heads * dim] at the positions of their rows.
  void kv_append(const CacheSlot& cache, FloatView k, FloatView v, const Batch& batch,
                 const KeyContext& keys);
  void kv_append(const CacheSlot& cache, FloatView k, FloatView v, const Batch& batch) {
    kv_append(cache, k, v, batch, {});
  }
  // A row sees the positions of its sequence up to its own, from 0 or from the start of its window
  // on.  Where the shape is not causal, it sees the positions after its own too.  q, out: [n_rows,
  // n_heads * head_dim].
  void attention(FloatView q, const CacheSlot& cache, const Batch& batch,
                 const AttentionShape& shape, FloatView out);

  // Memory for states of recurrent layers.  Throws the errors of make_cache().
  std::unique_ptr<DeviceStates> make_states(const StatePlan& plan, std::string_view purpose);
  // Computes for each column out[t] = sum over i of taps[i] x[t - n_past + i], then silu where
  // asked.  The last inputs of a sequence before the batch are in its state.  taps: [n_past + 1,
  // columns] in one row.  x and out may be the same.
  void short_conv(FloatView x, const DeviceTensor& taps, const StateSlot& state, const Batch& batch,
                  bool silu, FloatView out);
  // Per value head and row, with the head's matrix S: S <- decay S + k d^T for
  // d = beta (v - decay S^T k), and out = S^T q.
  void delta_rule(const DeltaInput& in, const DeltaHeads& heads, const StateSlot& state,
                  const Batch& batch, FloatView out);
  // Per head and row, with the head's matrix S [state, values]: S <- decay S + b (step x)^T, and
  // out = S^T c + skip x.  Where the layer has rates, decays are of each number of S.
  void ssm_scan(const ScanInput& in, const StateSlot& state, const Batch& batch, FloatView out);
  // Per head and row, with the head's matrix S [keys, values]:
  // S <- decay S - replaced (S^T removed)^T + k v^T, where decay multiplies rows, and out = S^T q.
  void wkv(const WkvInput& in, const StateSlot& state, const Batch& batch, FloatView out);
  // Makes the state in slot `to` that of slot `from` (-1: before any token) after the n tokens
  // whose records in the redo log begin at log_row.
  void redo(DeviceStates& states, int32_t from, int32_t to, int64_t log_row, int64_t n);
  // Each head: x = x / sqrt(sum(x^2) + eps) * scale
  void l2_norm(FloatView x, int n_heads, float eps, float scale);
  // x[t] = e^(rate softplus(x[t] + bias))
  void decay(FloatView x, const DeviceTensor& bias, const DeviceTensor& rate);

  void silu_mul(FloatView gate, FloatView up,
                FloatView out);  // out = gate * sigmoid(gate) * up
  void gated(Nonlinearity f, FloatView gate, FloatView up,
             FloatView out);                                      // out = f(gate) * up
  void nonlinearity(Nonlinearity f, FloatView x, FloatView out);  // out = f(x)
  void xielu(FloatView x, const Xielu& f);                        // x = f(x)
  void add(FloatView x, FloatView y);                             // x += y
  void add_bias(FloatView x, const DeviceTensor& bias);           // x[t] += bias
  void scale(FloatView x, float factor);                          // x *= factor
  void soft_cap(FloatView x, float cap);                          // x = cap * tanh(x / cap)
  // Columns of heads: to[t, h * to_step + i] = from[t, h * from_step + i] for i < width; a step of
  // 0 repeats one head.
  void copy_heads(FloatView from, int64_t from_step, FloatView to, int64_t to_step, int n_heads,
                  int64_t width);
  // out[t] = weight * x[t], column by column
  void scale_columns(FloatView x, const DeviceTensor& weight, FloatView out);
  // Heads of every row, of which each x has n: out[t, h] = base[t, h] + sum over i of
  // (factors[t, h * n + i] + shift) * x[t, i], in this order.  out may be base, and not x.
  void mix_heads(FloatView factors, float shift, FloatView x, int n, FloatView base, FloatView out);
  // x[t] *= rms(y[t]) / rms(x[t]), with at least `least` for the mean of x[t]'s squares
  void match_rms(FloatView x, FloatView y, float least);
  // x[t] = max(x[t] - c, 0) for c = mean(x[t]) + deviations * sqrt(variance(x[t])): about as large
  // a part of values stays as a normal distribution has above so many standard deviations.
  void keep_above(FloatView x, float deviations);
  // out[i] = x[rows[i]]
  void gather_rows(FloatView x, std::span<const int32_t> rows, FloatView out);
  // out[t] = sum over k of weights[t * n + k] * x[rows[t * n + k]], n per token, in this order.
  void mix_rows(FloatView x, std::span<const int32_t> rows, std::span<const float> weights,
                FloatView out);
  // out[t] = weight x[t], where the weight is 1 / (1 + e^-logits[t]) in double precision, rounded.
  void weigh_rows(FloatView logits, FloatView x, FloatView out);

  // Can it draw tokens?
  virtual bool samples() const { return false; }
  // Draws from logits [n_vocab] on the device; `generator` is Pcg32::state and advances.  Only if
  // samples().
  virtual SampleResult sample(const float* /*logits*/, int64_t /*n_vocab*/, const SampleSettings&,
                              std::span<const SampleEdit>, uint64_t& /*generator*/) {
    return {0, SampleStatus::none_possible};
  }

  // Switches the measurement on, from zero, or off.
  virtual void time_operations(bool on) = 0;
  virtual OperationTimes operation_times() = 0;

 protected:
  // Each does what the operation above does, with arguments that were checked.  Those that are not
  // pure do it by others unless a backend has something better.
  virtual void do_embed(const DeviceTensor& table, std::span<const int32_t> tokens,
                        FloatView out) = 0;
  virtual void do_rms_norm(FloatView x, const DeviceTensor& weight, float eps, FloatView out) = 0;
  virtual void do_layer_norm(FloatView x, const DeviceTensor& weight, const DeviceTensor* bias,
                             float eps, FloatView out) = 0;
  virtual void do_matmul(std::span<const MatmulTarget> targets, const MatmulInput& x) = 0;
  virtual void do_matmul_parts(std::span<const MatmulPart> parts, const MatmulInput& x);
  virtual void do_matmul_heads(Slices weights, FloatView x, int64_t x_step, FloatView y,
                               int64_t y_step);
  virtual void do_experts(const ExpertBlock& block, FloatView logits, FloatView x,
                          const ExpertScratch& scratch, FloatView out);
  virtual void do_rope(FloatView x, int n_heads, const Rope& rope, const Batch& batch) = 0;
  virtual std::unique_ptr<DeviceCache> do_make_cache(const CachePlan& plan,
                                                     std::string_view purpose) = 0;
  virtual void do_kv_append(const CacheSlot& cache, FloatView k, FloatView v, const Batch& batch,
                            const KeyContext& keys) = 0;
  virtual void do_attention(FloatView q, const CacheSlot& cache, const Batch& batch,
                            const AttentionShape& shape, FloatView out) = 0;
  virtual std::unique_ptr<DeviceStates> do_make_states(const StatePlan& plan,
                                                       std::string_view purpose) = 0;
  virtual void do_short_conv(FloatView x, const DeviceTensor& taps, const StateSlot& state,
                             const Batch& batch, bool silu, FloatView out) = 0;
  virtual void do_delta_rule(const DeltaInput& in, const DeltaHeads& heads, const StateSlot& state,
                             const Batch& batch, FloatView out) = 0;
  virtual void do_ssm_scan(const ScanInput& in, const StateSlot& state, const Batch& batch,
                           FloatView out) = 0;
  virtual void do_wkv(const WkvInput& in, const StateSlot& state, const Batch& batch,
                      FloatView out) = 0;
  virtual void do_l2_norm(FloatView x, int n_heads, float eps, float scale) = 0;
  virtual void do_decay(FloatView x, const DeviceTensor& bias, const DeviceTensor& rate) = 0;
  virtual void do_silu_mul(FloatView gate, FloatView up, FloatView out) = 0;
  virtual void do_gated(Nonlinearity f, FloatView gate, FloatView up, FloatView out) = 0;
  virtual void do_nonlinearity(Nonlinearity f, FloatView x, FloatView out) = 0;
  virtual void do_xielu(FloatView x, const Xielu& f) = 0;
  virtual void do_add(FloatView x, FloatView y) = 0;
  virtual void do_add_bias(FloatView x, const DeviceTensor& bias) = 0;
  virtual void do_scale(FloatView x, float factor) = 0;
  virtual void do_soft_cap(FloatView x, float cap) = 0;
  virtual void do_copy_heads(FloatView from, int64_t from_step, FloatView to, int64_t to_step,
                             int n_heads, int64_t width) = 0;
  virtual void do_scale_columns(FloatView x, const DeviceTensor& weight, FloatView out) = 0;
  virtual void do_mix_heads(FloatView factors, float shift, FloatView x, int n, FloatView base,
                            FloatView out) = 0;
  virtual void do_match_rms(FloatView x, FloatView y, float least) = 0;
  virtual void do_keep_above(FloatView x, float deviations) = 0;
  virtual void do_gather_rows(FloatView x, std::span<const int32_t> rows, FloatView out) = 0;
  virtual void do_mix_rows(FloatView x, std::span<const int32_t> rows,
                           std::span<const float> weights, FloatView out) = 0;
  virtual void do_weigh_rows(FloatView logits, FloatView x, FloatView out);
  virtual std::vector<std::unique_ptr<DeviceTensor>> do_upload_slices(
      std::span<const TensorView> slices, const FormatInfo& info, TensorUse use);
  virtual std::unique_ptr<DeviceTensor> do_upload(const TensorView& view, const FormatInfo& info,
                                                  TensorUse use) = 0;
};

}  // namespace hrun
