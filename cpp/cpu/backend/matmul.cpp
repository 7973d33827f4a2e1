// Matrix products of the CPU backend: the input quantized once per kind, then panels of weights
// over the threads.
#include "cpu/backend/parallel.h"
#include "formats/rotation.h"

namespace hrun {

bool CpuBackend::uses_packed(const CpuTensor& tensor) const {
  return tensor.packed &&
         (!is_rotated(tensor.info->input_form) || rotated_matmul_ == RotatedMatmul::activation);
}

void CpuBackend::quantize(const ActivationSource& from, InputForm kind, QuantizedRows& out) {
  const FloatView& x = from.x;
  QuantizedScratch& scratch = quantized_[static_cast<int>(kind)];
  const auto n = static_cast<size_t>(x.rows);
  out.n_tokens = x.rows;
  out.cols = x.cols;
  out.n_blocks = (x.cols + input_form_columns(kind) - 1) / input_form_columns(kind);
  out.n_groups = round_up(x.cols, 2 * kGroup) / kGroup;
  out.codes = scratch.codes.get<int16_t>(n * static_cast<size_t>(out.cols),
                                         "the quantized input of a matmul");
  out.scale = scratch.scale.get<float>(n * static_cast<size_t>(out.n_blocks),
                                       "the quantized input of a matmul");
  out.sums = scratch.sums.get<int16_t>(n * static_cast<size_t>(out.n_groups),
                                       "the quantized input of a matmul");
  const float* sign = signs(x.cols);
  parallel(x.rows * out.n_blocks, input_form_columns(kind), [&](int64_t i, int) {
    kernels_.quantize_block(from, i / out.n_blocks, i % out.n_blocks, kind, sign, out);
  });
}

void CpuBackend::quantize_packed(const ActivationSource& from, InputForm kind,
                                 PackedActivations& out) {
  const FloatView& x = from.x;
  const char* purpose = "the quantized input of a matmul";
  QuantizedScratch& scratch = quantized_[static_cast<int>(kind)];
  const int columns = input_form_columns(kind);
  out.n_tokens = out.stride = x.rows;
  out.n_blocks = (x.cols + columns - 1) / columns;
  const auto n = static_cast<size_t>(x.rows) * static_cast<size_t>(out.n_blocks);
  out.codes = scratch.packed_codes.get<int8_t>(n * static_cast<size_t>(columns), purpose);
  out.scale = scratch.packed_scale.get<float>(n, purpose);
  out.block_sums = scratch.block_sums.get<int32_t>(n, purpose);
  out.sums8 = scratch.sums8.get<int16_t>(n * 32, purpose);
  out.sums16 = scratch.sums16.get<int16_t>(n * 16, purpose);
  out.sums32 = scratch.sums32.get<int16_t>(n * 8, purpose);
  const float* sign = signs(x.cols);
  parallel(x.rows * out.n_blocks, input_form_columns(kind), [&](int64_t i, int) {
    kernels_.quantize_packed(from, i / out.n_blocks, i % out.n_blocks, kind, sign, out);
  });
}

void CpuBackend::rotate(FloatView x, InputForm kind, FloatView& out) {
  const size_t count = static_cast<size_t>(x.rows) * static_cast<size_t>(x.cols);
  out = {
      quantized_[static_cast<int>(kind)].rotated.get<float>(count, "the rotated input of a matmul"),
      x.rows, x.cols, x.cols};
  const float* sign = signs(x.cols);
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    std::copy(x.row(t), x.row(t) + x.cols, out.row(t));
    for (int64_t first = 0; first < x.cols; first += kRotationBlock)
      kernels_.rotate_block(out.row(t) + first, first,
                            static_cast<int>(std::min<int64_t>(kRotationBlock, x.cols - first)),
                            sign, kind == InputForm::kRotatedSigned);
  });
}

namespace {

PackedActivations rows_of(PackedActivations x, InputForm kind, int64_t first, int64_t n) {
  x.codes += first * input_form_columns(kind);
  x.scale += first;
  x.block_sums += first;
  x.sums8 += first * 32;
  x.sums16 += first * 16;
  x.sums32 += first * 8;
  x.n_tokens = n;
  return x;
}

QuantizedRows rows_of(QuantizedRows x, int64_t first, int64_t n) {
  x.codes += first * x.cols;
  x.scale += first * x.n_blocks;
  x.sums += first * x.n_groups;
  x.n_tokens = n;
  return x;
}

FloatView rows_of(const FloatView& x, int64_t first, int64_t n) {
  return {x.row(first), n, x.cols, x.stride};
}

// The number of panels of weights in one task.  It is the number that the kernel for this many
// tokens multiplies at a time, or fewer where the threads would not get equal shares of the rows.
int64_t task_panels(int64_t n_rows, int64_t n_tokens, int n_threads) {
  if (n_tokens > kFewTokensAtMost) return kPackedPanels;
  const int64_t fewest_tasks = 8 * n_threads;
  return n_tokens <= 2 && n_rows / (2 * kPanelRows) < fewest_tasks ? 1 : 2;
}

}  // namespace

void CpuBackend::multiply_packed(const MatmulPart& part, int64_t first_panel, int64_t most_panels,
                                 const PreparedInput& input, int worker) {
  const CpuTensor& w = on_cpu(*part.weights);
  const InputForm kind = w.info->input_form;
  const PackedActivations x =
      rows_of(input.packed[static_cast<int>(kind)], kind, part.first, part.y.rows);
  const int64_t n_panels = (w.rows + kPanelRows - 1) / kPanelRows;
  const PackedWeights weights{static_cast<const uint8_t*>(w.packed->data), w.panel_bytes, w.rows,
                              w.cols, prefetch_};
  float* const scratch = worker_scratch_[static_cast<size_t>(worker)].get<float>(
      static_cast<size_t>(x.n_tokens) * kPackedPanels * kPanelRows, "the sums of a matmul");
  w.kernels->matmul_packed(weights, first_panel,
                           static_cast<int>(std::min(most_panels, n_panels - first_panel)), x,
                           part.y.data, part.y.stride, scratch);
}

// Multiplies sixteen rows of one part by all its tokens.
void CpuBackend::multiply_panel(const MatmulPart& part, int64_t first_row,
                                const PreparedInput& input, int worker) {
  const CpuTensor& w = on_cpu(*part.weights);
  const int64_t first = part.first, n_tokens = part.y.rows;
  const InputForm kind = w.info->input_form;
  const WeightRows rows{w.row(first_row), w.row_bytes,
                        static_cast<int>(std::min<int64_t>(kPanelRows, w.rows - first_row)),
                        w.cols};
  float* const y = part.y.data + first_row;
  Scratch& scratch = worker_scratch_[static_cast<size_t>(worker)];

  const bool as_floats =
      !w.kernels->matmul_int || (is_rotated(kind) && rotated_matmul_ != RotatedMatmul::activation);
  if (!as_floats) {
    float* const sums =
        scratch.get<float>(static_cast<size_t>(n_tokens) * kPanelRows, "the sums of a matmul");
    w.kernels->matmul_int(rows, rows_of(input.quantized[static_cast<int>(kind)], first, n_tokens),
                          y, part.y.stride, sums);
    return;
  }
  const FloatView x = rows_of(input.x, first, n_tokens);
  // For a few tokens it is cheaper to widen the weights again for each token than to store them.
  constexpr int64_t kWidenAgain = 4;
  if (w.info->is_float && x.rows <= kWidenAgain) {
    w.kernels->matmul_float(rows, x, y, part.y.stride);
    return;
  }
  const bool own_basis = rotated_matmul_ == RotatedMatmul::activation_float;
  const FloatView factor = is_rotated(kind) && own_basis
                               ? rows_of(input.rotated[static_cast<int>(kind)], first, n_tokens)
                               : x;
  const int64_t stride = round_up(w.cols, kLanes);
  float* const decoded = scratch.get<float>(static_cast<size_t>(kDecodedRows * stride),
                                            "the decoded rows of a matmul");
  for (int r = 0; r < rows.n_rows; r += kDecodedRows) {
    const int n = std::min(kDecodedRows, rows.n_rows - r);
    for (int i = 0; i < n; ++i)
      w.kernels->decode_row(w.row(first_row + r + i), w.cols, signs_.data(), own_basis,
                            decoded + i * stride);
    kernels_.matmul_decoded(decoded, stride, n, factor, y + r, part.y.stride);
  }
}

// The input as the quantizing kernels take it; for a norm it has the factor of each token.
ActivationSource CpuBackend::source(const MatmulInput& input) {
  ActivationSource from{.x = input.x, .gate = input.gate};
  if (!input.norm) return from;
  float* const inverse =
      inverse_.get<float>(static_cast<size_t>(input.x.rows), "the norms of a batch");
  parallel(input.x.rows, input.x.cols, [&](int64_t t, int) {
    inverse[t] = kernels_.norm_inverse(input.x.row(t), input.eps, input.x.cols);
  });
  from.weight = on_cpu(*input.norm).vector.data();
  from.inverse = inverse;
  return from;
}

// The input stored, for kernels that take floats.
FloatView CpuBackend::materialise(const MatmulInput& input) {
  const FloatView& x = input.x;
  if (!input.norm && !input.gate.data) return x;
  const size_t count = static_cast<size_t>(x.rows) * static_cast<size_t>(x.cols);
  const FloatView out{input_.get<float>(count, "the input of a matmul"), x.rows, x.cols, x.cols};
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    if (input.norm)
      kernels_.rms_norm(x.row(t), on_cpu(*input.norm).vector.data(), input.eps, x.cols, out.row(t));
    else
      kernels_.silu_mul(input.gate.row(t), x.row(t), x.cols, out.row(t));
  });
  return out;
}

void CpuBackend::prepare(const CpuTensor& w, const MatmulInput& from, PreparedInput& input) {
  const InputForm kind = w.info->input_form;
  const auto k = static_cast<size_t>(kind);
  const bool as_int8 = kind != InputForm::kFloat &&
                       (!is_rotated(kind) || rotated_matmul_ == RotatedMatmul::activation);
  if (as_int8) {
    bool& done = (uses_packed(w) ? input.has_packed : input.has_quantized)[k];
    if (std::exchange(done, true)) return;
    if (!input.source.x.data) input.source = source(from);
    return uses_packed(w) ? quantize_packed(input.source, kind, input.packed[k])
                          : quantize(input.source, kind, input.quantized[k]);
  }
  if (!input.x.data) input.x = materialise(from);
  if (is_rotated(kind) && rotated_matmul_ == RotatedMatmul::activation_float &&
      !input.rotated[k].data)
    rotate(input.x, kind, input.rotated[k]);
}

void CpuBackend::do_matmul(std::span<const MatmulTarget> targets, const MatmulInput& from) {
  Turn turn(*this, Operation::quantize);
  parts_.clear();
  for (const MatmulTarget& target : targets) parts_.push_back({target.weights, 0, target.y});
  multiply(parts_, from, turn);
}

void CpuBackend::do_matmul_parts(std::span<const MatmulPart> parts, const MatmulInput& from) {
  Turn turn(*this, Operation::quantize);
  multiply(parts, from, turn);
}

void CpuBackend::multiply(std::span<const MatmulPart> parts, const MatmulInput& from, Turn& turn) {
  const FloatView& x = from.x;
  PreparedInput input;
  int64_t n_tasks = 0, n_rows = 0;
  first_tasks_.clear();
  for (const MatmulPart& part : parts) n_rows += on_cpu(*part.weights).rows;
  const int64_t panels = task_panels(n_rows, x.rows, n_threads());
  const int64_t rows = panels * kPanelRows;
  for (const MatmulPart& part : parts) {
    const CpuTensor& w = on_cpu(*part.weights);
    first_tasks_.push_back(n_tasks);
    n_tasks += (w.rows + rows - 1) / rows;
    prepare(w, from, input);
  }
  signs(x.cols);  // grown here, because the workers only read
  turn.next(Operation::matmul);
  parallel(n_tasks, rows * x.cols, [&](int64_t task, int worker) {
    const auto which =
        std::upper_bound(first_tasks_.begin(), first_tasks_.end(), task) - first_tasks_.begin() - 1;
    const MatmulPart& part = parts[static_cast<size_t>(which)];
    const CpuTensor& w = on_cpu(*part.weights);
    task -= first_tasks_[static_cast<size_t>(which)];
    if (uses_packed(w)) return multiply_packed(part, task * panels, panels, input, worker);
    for (int64_t row = task * rows; row < std::min((task + 1) * rows, w.rows); row += kPanelRows)
      multiply_panel(part, row, input, worker);
  });
}

}  // namespace hrun
