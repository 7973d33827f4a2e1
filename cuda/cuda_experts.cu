// Slices of tensors that one launch multiplies: experts, which the device chooses itself, and heads
// of latent attention.
#include <algorithm>

#include "cuda/cuda_backend_parts.h"
#include "cuda/kernels/elementwise.h"
#include "cuda/kernels/experts.h"
#include "formats/list.h"

namespace hrun::gpu {
namespace {

// Bytes from a slice to the next.
size_t slice_bytes(Slices slices, Piece CudaTensor::* layout) {
  if (slices.size() < 2) return 0;
  const Piece &first = on_device(*slices[0]).*layout, &second = on_device(*slices[1]).*layout;
  return static_cast<size_t>(second.data - first.data);
}

// Do slices have this layout, all of one tensor from its first to its last?
bool has_layout(Slices slices, Piece CudaTensor::* layout) {
  const Piece &first = on_device(*slices.front()).*layout,
              &last = on_device(*slices.back()).*layout;
  return first && last && first.memory == last.memory &&
         first.data + (slices.size() - 1) * slice_bytes(slices, layout) == last.data;
}

}  // namespace

// One of the tensors whose slices are multiplied.
struct CudaBackend::SlicedTarget {
  Slices weights;
  FloatView y;
  int64_t slice_y = 0;
};

bool CudaBackend::multiplies_at_once(Slices slices) const {
  const CudaTensor& w = on_device(*slices.front());
  if (has_layout(slices, &CudaTensor::packed)) return true;
  if (!has_layout(slices, &CudaTensor::plain)) return false;
  if (w.info->is_float) return true;
  return w.info->input_form != InputForm::kFloat &&
         (!is_rotated(w.info->input_form) || rotated_matmul_ == RotatedMatmul::activation);
}

void CudaBackend::multiply_slices(std::span<const SlicedTarget> targets, PreparedInput& input,
                                  int64_t slice_x, const SliceTask& task) {
  std::vector<PackedProduct> parts;  // of one format
  const auto multiply_parts = [&] {
    if (parts.empty()) return;
    matmul_slices(gpu_, parts, quantized(input, find_format(parts[0].w.format)->input_form), task);
    parts.clear();
  };
  for (const SlicedTarget& target : targets) {
    const CudaTensor& w = on_device(*target.weights.front());
    if (!w.packed || (!parts.empty() && parts[0].w.format != w.format)) multiply_parts();
    if (w.packed) {
      PackedProduct part{w.packed_matrix(), target.y};
      part.slice_bytes = slice_bytes(target.weights, &CudaTensor::packed);
      part.slice_y = target.slice_y;
      parts.push_back(part);
      continue;
    }
    const size_t bytes = slice_bytes(target.weights, &CudaTensor::plain);
    if (w.info->is_float)
      matmul_floats_slices(gpu_, w.plain_matrix(), bytes, floats(input, InputForm::kFloat), slice_x,
                           target.y, target.slice_y, task);
    else
      matmul_plain_slices(gpu_, w.plain_matrix(), bytes, quantized(input, w.info->input_form),
                          target.y, target.slice_y, task);
  }
  multiply_parts();
}

bool CudaBackend::chooses_experts(const ExpertBlock& block) const {
  const ExpertRule& rule = block.rule;
  if (!chooses_experts_ || rule.n_experts > kMostExperts || rule.n_used > kMostExpertsUsed ||
      rule.n_groups > kMostExpertGroups || block.up.empty() || block.down.empty())
    return false;
  for (const Slices bias : {block.gate_bias, block.up_bias, block.down_bias})
    if (!bias.empty() && !has_layout(bias, &CudaTensor::vector)) return false;
  return (block.gate.empty() || multiplies_at_once(block.gate)) && multiplies_at_once(block.up) &&
         multiplies_at_once(block.down);
}

void CudaBackend::do_experts(const ExpertBlock& block, FloatView logits, FloatView x,
                             const ExpertScratch& scratch, FloatView out) {
  const Turn turn(*this, Operation::matmul);
  const ExpertRule& rule = block.rule;
  const int64_t n = x.rows, slots = n * rule.n_used;
  const ExpertLists lists =
      expert_lists(experts_.get<uint8_t>(expert_lists_bytes(n, rule.n_experts, rule.n_used)), n,
                   rule.n_experts, rule.n_used);
  choose_experts(gpu_, rule, rule.correction ? vector_of(*rule.correction) : nullptr,
                 rule.factor ? vector_of(*rule.factor) : nullptr, logits, lists);
  const auto rows = [&](const FloatView& view) {
    return view.data ? FloatView{view.data, slots, view.cols, view.stride} : view;
  };
  const auto add_biases = [&](Slices biases, FloatView y) {
    if (biases.empty()) return;
    const auto step =
        static_cast<int64_t>(slice_bytes(biases, &CudaTensor::vector) / sizeof(float));
    add_expert_bias(gpu_, y, vector_of(*biases.front()), step, lists.expert_of);
  };
  const FloatView gate = block.gate.empty() ? FloatView{} : rows(scratch.gate),
                  up = rows(scratch.up), mixed = rows(scratch.mixed);

  // One token is the input of all its experts.
  const MatmulInput from(n == 1 ? x : FloatView{x.data, slots, x.cols, x.stride});
  PreparedInput input{from};
  if (n > 1) input.rows.list = lists.token_of;
  quantized_turn_ = 1 - quantized_turn_;
  const SlicedTarget gate_up[] = {{block.gate, gate}, {block.up, up}};
  multiply_slices(std::span(gate_up).subspan(gate.data ? 0 : 1), input, 0, lists.task);
  add_biases(block.gate_bias, gate);
  add_biases(block.up_bias, up);

  MatmulInput activated(up);
  if (gate.data && block.f == Nonlinearity::silu)
    activated = MatmulInput::gated(gate, up);
  else if (gate.data)
    gpu::gated(gpu_, block.f, gate, up, up);
  else
    gpu::nonlinearity(gpu_, block.f, up, up);
  PreparedInput second{activated};
  quantized_turn_ = 1 - quantized_turn_;
  SliceTask by_row = lists.task;
  by_row.one_row = false;
  const SlicedTarget down{block.down, mixed};
  multiply_slices({&down, 1}, second, 0, by_row);
  add_biases(block.down_bias, mixed);
  if (may_wait())
    pending_.mix = {mixed, out, lists.slot_of, lists.weights, rule.n_used};
  else
    gpu::mix_rows(gpu_, mixed, lists.slot_of, lists.weights, rule.n_used, out);
}

void CudaBackend::do_weigh_rows(FloatView logits, FloatView x, FloatView out) {
  const Turn turn(*this, Operation::add);
  gpu::weigh_rows(gpu_, logits.data, x, out);
}

void CudaBackend::do_matmul_heads(Slices weights, FloatView x, int64_t x_step, FloatView y,
                                  int64_t y_step) {
  const Turn turn(*this, Operation::matmul);
  const auto n_heads = static_cast<int>(weights.size());
  const CudaTensor& w = on_device(*weights.front());
  // Heads that lie side by side are rows of their own, which are quantized head by head.
  const bool are_rows = w.info->is_float || x.rows == 1 || x.stride == n_heads * x_step;
  if (!multiplies_at_once(weights) || !are_rows)
    return Backend::do_matmul_heads(weights, x, x_step, y, y_step);
  SliceTask task;
  task.few = x.rows <= 8 ? 8 : 16;
  task.n_slices = n_heads;
  task.n_rows = static_cast<int>(x.rows);
  const MatmulInput from(w.info->is_float ? FloatView{x.data, x.rows, w.cols, x.stride}
                                          : FloatView{x.data, x.rows * n_heads, w.cols, x_step});
  PreparedInput input{from};
  if (!w.info->is_float) input.rows = {nullptr, x.rows, n_heads};
  quantized_turn_ = 1 - quantized_turn_;
  const SlicedTarget target{weights, {y.data, x.rows, w.rows, y.stride}, y_step};
  multiply_slices({&target, 1}, input, x_step, task);
}

}  // namespace hrun::gpu
