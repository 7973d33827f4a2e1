#include "cpu/cpu_backend.h"

#include <algorithm>
#include <atomic>
#include <cstring>

#include "base/error.h"
#include "formats/rotation.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace hrun {
namespace {

// Results must not depend on a host program that flushes subnormals or rounds in another direction.
class DefaultFloatMode {
 public:
#if defined(__x86_64__)
  DefaultFloatMode() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }
  ~DefaultFloatMode() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#endif
};

const CpuTensor& on_cpu(const DeviceTensor& tensor) { return static_cast<const CpuTensor&>(tensor); }

void require(bool ok, std::string_view operation, std::string_view expected) {
  if (!ok) throw ArgumentError("{}: expected {}", operation, expected);
}

bool same_shape(const FloatView& a, const FloatView& b) { return a.rows == b.rows && a.cols == b.cols; }

int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

}  // namespace

class CpuBackend::Turn {
 public:
  explicit Turn(CpuBackend& backend) {
    backend.pool_.require_same_process();  // before the lock, which another thread may have held at the fork
    lock_ = std::unique_lock(backend.mutex_);
  }

 private:
  std::unique_lock<std::mutex> lock_;
  DefaultFloatMode mode_;  // of this thread; parallel() sets that of the workers
};

CpuBackend::CpuBackend(const BackendOptions& options)
    : tier_(select_cpu_tier(options.cpu_tier)),
      kernels_(*tier_.kernels),
      rotated_matmul_(options.rotated_matmul),
      pool_(options.n_threads),
      worker_scratch_(static_cast<size_t>(pool_.n_threads())) {}

std::string CpuBackend::description() const {
  return format("cpu, tier {}, {} {}", tier_.name, n_threads(), n_threads() == 1 ? "thread" : "threads");
}

// fn(task, worker) for each task.  Work that is done before a second thread has woken up stays in this one.
template <class Function>
void CpuBackend::parallel(int64_t n_tasks, int64_t values_per_task, Function&& fn) {
  constexpr int64_t kWorthSharing = 16384, kWorthTaking = 4096;  // values
  const auto range = [&](int64_t begin, int64_t end, int worker) {
    const DefaultFloatMode mode;
    for (int64_t i = begin; i < end; ++i) fn(i, worker);
  };
  if (n_tasks < 2 || n_tasks * values_per_task < kWorthSharing) return range(0, n_tasks, 0);
  const int64_t fair = n_tasks / (8 * n_threads());  // chunks small enough to even out
  pool_.parallel(n_tasks, std::max({int64_t{1}, fair, kWorthTaking / std::max(values_per_task, int64_t{1})}), range);
}

const float* CpuBackend::signs(int64_t cols) {
  while (static_cast<int64_t>(signs_.size()) < cols) signs_.push_back(rotation_sign(static_cast<int64_t>(signs_.size())));
  return signs_.data();
}

std::unique_ptr<DeviceBuffer> CpuBackend::allocate(size_t bytes, std::string_view purpose) {
  return allocate_host(bytes, purpose);
}

void CpuBackend::write(DeviceBuffer& to, size_t offset, std::span<const uint8_t> from) {
  require(offset <= to.bytes && from.size() <= to.bytes - offset, "write", "bytes inside the buffer");
  if (!from.empty()) std::memcpy(static_cast<uint8_t*>(to.data) + offset, from.data(), from.size());
}

void CpuBackend::read(const void* from, std::span<uint8_t> to) {
  if (!to.empty()) std::memcpy(to.data(), from, to.size());
}

std::unique_ptr<DeviceTensor> CpuBackend::upload(const TensorView& view) {
  const Turn turn(*this);
  const FormatInfo* info = find_format(view.format);
  const std::string name = printable(view.name);
  if (!info) throw UnsupportedModelError("tensor '{}': unknown format id {}; known: {}", name, view.format, format_names());
  if (view.rows <= 0 || !info->row_ok(view.cols))
    throw UnsupportedModelError("tensor '{}': {} rows of {} values do not fit format {} (blocks of {})", name, view.rows,
                                view.cols, info->name, info->block_values);
  if (view.row_bytes != info->row_bytes(view.cols))
    throw ArgumentError("tensor '{}': rows of {} bytes, expected {}", name, view.row_bytes, info->row_bytes(view.cols));
  auto tensor = std::make_unique<CpuTensor>();
  tensor->format = view.format;
  tensor->rows = view.rows;
  tensor->cols = view.cols;
  tensor->bytes = view.row_bytes * static_cast<size_t>(view.rows);
  tensor->data = view.data;
  tensor->row_bytes = view.row_bytes;
  tensor->info = info;
  tensor->kernels = &kernels_.formats[info - formats().data()];
  if (view.rows == 1) {
    tensor->vector.resize(static_cast<size_t>(view.cols));
    tensor->kernels->decode_row(view.data, view.cols, signs(view.cols), false, tensor->vector.data());
  } else if (tensor->kernels->pack_panel) {
    pack(*tensor);
  }
  return tensor;
}

void CpuBackend::pack(CpuTensor& tensor) {
  const int64_t n_panels = (tensor.rows + kPanelRows - 1) / kPanelRows;
  tensor.panel_bytes = tensor.kernels->packed_panel_bytes(tensor.cols);
  tensor.packed = allocate_host(tensor.panel_bytes * static_cast<size_t>(n_panels), "the repacked weights");
  std::atomic<bool> fits = true;
  parallel(n_panels, kPanelRows * tensor.cols, [&](int64_t p, int) {
    const int rows = static_cast<int>(std::min<int64_t>(kPanelRows, tensor.rows - p * kPanelRows));
    auto* panel = static_cast<uint8_t*>(tensor.packed->data) + static_cast<size_t>(p) * tensor.panel_bytes;
    if (!tensor.kernels->pack_panel(tensor.row(p * kPanelRows), tensor.row_bytes, rows, tensor.cols, panel)) fits = false;
  });
  if (!fits) {
    tensor.packed.reset();  // odd numbers: the general kernel reads the file's layout
    return;
  }
  tensor.bytes = tensor.packed->bytes;
  tensor.holds_copy = true;
}

bool CpuBackend::uses_packed(const CpuTensor& tensor) const {
  return tensor.packed && (!is_rotated(tensor.info->activation) || rotated_matmul_ == RotatedMatmul::activation);
}

void CpuBackend::embed(const DeviceTensor& table, std::span<const int32_t> tokens, FloatView out) {
  const Turn turn(*this);
  const CpuTensor& t = on_cpu(table);
  require(out.cols == t.cols && out.rows == static_cast<int64_t>(tokens.size()), "embed", "out of [n_tokens, columns of the table]");
  for (const int32_t token : tokens)
    if (token < 0 || token >= t.rows) throw ArgumentError("token {} is outside the vocabulary of {}", token, t.rows);
  const float* sign = signs(t.cols);
  parallel(out.rows, t.cols, [&](int64_t i, int) {
    t.kernels->decode_row(t.row(tokens[static_cast<size_t>(i)]), t.cols, sign, false, out.row(i));
  });
}

void CpuBackend::rms_norm(FloatView x, const DeviceTensor& weight, float eps, FloatView out) {
  const Turn turn(*this);
  const CpuTensor& w = on_cpu(weight);
  require(same_shape(x, out) && w.rows == 1 && w.cols == x.cols, "rms_norm", "x and out of one shape and a weight per column");
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.rms_norm(x.row(t), w.vector.data(), eps, x.cols, out.row(t)); });
}

void CpuBackend::quantize(FloatView x, Activation kind, QuantizedRows& out) {
  QuantizedScratch& scratch = quantized_[static_cast<int>(kind)];
  const auto n = static_cast<size_t>(x.rows);
  out.n_tokens = x.rows;
  out.cols = x.cols;
  out.n_blocks = (x.cols + activation_columns(kind) - 1) / activation_columns(kind);
  out.n_groups = round_up(x.cols, 2 * kGroup) / kGroup;
  out.codes = scratch.codes.get<int16_t>(n * static_cast<size_t>(out.cols), "the quantized input of a matmul");
  out.scale = scratch.scale.get<float>(n * static_cast<size_t>(out.n_blocks), "the quantized input of a matmul");
  out.sums = scratch.sums.get<int16_t>(n * static_cast<size_t>(out.n_groups), "the quantized input of a matmul");
  const float* sign = signs(x.cols);
  parallel(x.rows * out.n_blocks, activation_columns(kind), [&](int64_t i, int) {
    kernels_.quantize_block(x, i / out.n_blocks, i % out.n_blocks, kind, sign, out);
  });
}

void CpuBackend::quantize_packed(FloatView x, Activation kind, PackedActivations& out) {
  const char* purpose = "the quantized input of a matmul";
  QuantizedScratch& scratch = quantized_[static_cast<int>(kind)];
  const auto n = static_cast<size_t>(x.rows);
  out.n_tokens = x.rows;
  out.stride = round_up(x.cols, 64);
  out.n_blocks = (x.cols + activation_columns(kind) - 1) / activation_columns(kind);
  out.n_units = round_up(x.cols, 64) / 32;
  out.codes = scratch.packed_codes.get<int8_t>(n * static_cast<size_t>(out.stride), purpose);
  out.scale = scratch.packed_scale.get<float>(n * static_cast<size_t>(out.n_blocks), purpose);
  out.block_sums = scratch.block_sums.get<int32_t>(n * static_cast<size_t>(out.n_blocks), purpose);
  out.sums16 = scratch.sums16.get<int16_t>(n * 2 * static_cast<size_t>(out.n_units), purpose);
  out.sums32 = scratch.sums32.get<int16_t>(n * static_cast<size_t>(out.n_units), purpose);
  const float* sign = signs(x.cols);
  parallel(x.rows * out.n_blocks, activation_columns(kind), [&](int64_t i, int) {
    kernels_.quantize_packed(x, i / out.n_blocks, i % out.n_blocks, kind, sign, out);
  });
}

void CpuBackend::rotate(FloatView x, Activation kind, FloatView& out) {
  const size_t count = static_cast<size_t>(x.rows) * static_cast<size_t>(x.cols);
  out = {quantized_[static_cast<int>(kind)].rotated.get<float>(count, "the rotated input of a matmul"), x.rows, x.cols, x.cols};
  const float* sign = signs(x.cols);
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    std::copy(x.row(t), x.row(t) + x.cols, out.row(t));
    for (int64_t first = 0; first < x.cols; first += kRotationBlock)
      kernels_.rotate_block(out.row(t) + first, first, static_cast<int>(std::min<int64_t>(kRotationBlock, x.cols - first)), sign,
                            kind == Activation::kRotatedSigned);
  });
}

void CpuBackend::multiply_packed(const MatmulTarget& target, int64_t first_panel, const PreparedInput& input, int worker) {
  const CpuTensor& w = on_cpu(*target.weights);
  const PackedActivations& x = input.packed[static_cast<int>(w.info->activation)];
  const int64_t n_panels = (w.rows + kPanelRows - 1) / kPanelRows;
  const PackedWeights weights{static_cast<const uint8_t*>(w.packed->data), w.panel_bytes, w.rows, w.cols};
  float* const scratch = worker_scratch_[static_cast<size_t>(worker)].get<float>(
      static_cast<size_t>(x.n_tokens) * kPackedPanels * kPanelRows, "the sums of a matmul");
  w.kernels->matmul_packed(weights, first_panel, static_cast<int>(std::min<int64_t>(kPackedPanels, n_panels - first_panel)), x,
                           target.y.data, target.y.stride, scratch);
}

// Sixteen rows of one target for all tokens.
void CpuBackend::multiply_panel(const MatmulTarget& target, int64_t first_row, FloatView x, const PreparedInput& input,
                                int worker) {
  const CpuTensor& w = on_cpu(*target.weights);
  const Activation kind = w.info->activation;
  const WeightRows rows{w.row(first_row), w.row_bytes, static_cast<int>(std::min<int64_t>(kPanelRows, w.rows - first_row)), w.cols};
  float* const y = target.y.data + first_row;
  Scratch& scratch = worker_scratch_[static_cast<size_t>(worker)];

  const bool as_floats = !w.kernels->matmul_int || (is_rotated(kind) && rotated_matmul_ != RotatedMatmul::activation);
  if (!as_floats) {
    float* const sums = scratch.get<float>(static_cast<size_t>(x.rows) * kPanelRows, "the sums of a matmul");
    w.kernels->matmul_int(rows, input.quantized[static_cast<int>(kind)], y, target.y.stride, sums);
    return;
  }
  // Up to a few tokens it is cheaper to widen the weights again for each than to store them.
  constexpr int64_t kWidenAgain = 4;
  if (w.info->is_float && x.rows <= kWidenAgain) {
    w.kernels->matmul_float(rows, x, y, target.y.stride);
    return;
  }
  const bool own_basis = rotated_matmul_ == RotatedMatmul::activation_float;
  const FloatView factor = is_rotated(kind) && own_basis ? input.rotated[static_cast<int>(kind)] : x;
  const int64_t stride = round_up(w.cols, kLanes);
  float* const decoded = scratch.get<float>(static_cast<size_t>(kDecodedRows * stride), "the decoded rows of a matmul");
  for (int r = 0; r < rows.n_rows; r += kDecodedRows) {
    const int n = std::min(kDecodedRows, rows.n_rows - r);
    for (int i = 0; i < n; ++i) w.kernels->decode_row(w.row(first_row + r + i), w.cols, signs_.data(), own_basis, decoded + i * stride);
    kernels_.matmul_decoded(decoded, stride, n, factor, y + r, target.y.stride);
  }
}

void CpuBackend::matmul(std::span<const MatmulTarget> targets, FloatView x) {
  const Turn turn(*this);
  PreparedInput input;
  bool prepared[kActivations] = {}, prepared_packed[kActivations] = {};
  int64_t n_tasks = 0;
  const auto tasks_of = [](const CpuTensor& w) {
    const int64_t rows = w.packed ? kPackedPanels * kPanelRows : kPanelRows;
    return (w.rows + rows - 1) / rows;
  };
  for (const MatmulTarget& target : targets) {
    const CpuTensor& w = on_cpu(*target.weights);
    require(w.cols == x.cols && target.y.rows == x.rows && target.y.cols == w.rows, "matmul",
            "x of [n_tokens, columns of the weights] and y of [n_tokens, rows of the weights]");
    n_tasks += tasks_of(w);
    const Activation kind = w.info->activation;
    const auto k = static_cast<size_t>(kind);
    if (kind == Activation::kFloat || std::exchange((uses_packed(w) ? prepared_packed : prepared)[k], true)) continue;
    if (uses_packed(w)) quantize_packed(x, kind, input.packed[k]);
    else if (!is_rotated(kind) || rotated_matmul_ == RotatedMatmul::activation) quantize(x, kind, input.quantized[k]);
    else if (rotated_matmul_ == RotatedMatmul::activation_float) rotate(x, kind, input.rotated[k]);
  }
  signs(x.cols);  // grown here, because the workers only read
  parallel(n_tasks, kPanelRows * x.cols, [&](int64_t task, int worker) {
    for (const MatmulTarget& target : targets) {
      const CpuTensor& w = on_cpu(*target.weights);
      if (task >= tasks_of(w)) {
        task -= tasks_of(w);
        continue;
      }
      if (uses_packed(w)) return multiply_packed(target, task * kPackedPanels, input, worker);
      const int64_t rows = w.packed ? kPackedPanels * kPanelRows : kPanelRows;
      for (int64_t row = task * rows; row < std::min((task + 1) * rows, w.rows); row += kPanelRows)
        multiply_panel(target, row, x, input, worker);
      return;
    }
  });
}

void CpuBackend::rope(FloatView x, int n_heads, const Rope& rope, int64_t first_position) {
  const Turn turn(*this);
  require(n_heads > 0 && x.cols % n_heads == 0 && rope.n_rot % 2 == 0 && rope.n_rot <= x.cols / n_heads, "rope",
          "whole heads of at least n_rot values");
  const int half = rope.n_rot / 2;
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    const int64_t at = (first_position + t) * half;
    kernels_.rope(x.row(t), n_heads, x.cols / n_heads, rope.n_rot, rope.style, rope.cos + at, rope.sin + at);
  });
}

void CpuBackend::append(void* cache, FormatId format, int64_t capacity, int n_kv_heads, int dim, FloatView x,
                        int64_t first_position) {
  require(x.cols == static_cast<int64_t>(n_kv_heads) * dim, "kv_append", "[n_tokens, n_kv_heads * head_dim]");
  require(first_position >= 0 && x.rows <= capacity && first_position <= capacity - x.rows, "kv_append", "positions inside the cache");
  if (format != F16::kId && format != F32::kId) throw UnsupportedModelError("the CPU keeps keys and values as f16 or f32, not as format {}", format);
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    for (int head = 0; head < n_kv_heads; ++head) {
      const float* from = x.row(t) + static_cast<int64_t>(head) * dim;
      const size_t at = static_cast<size_t>((head * capacity + first_position + t) * dim);
      if (format == F16::kId) kernels_.to_fp16(from, dim, static_cast<uint16_t*>(cache) + at);
      else std::copy(from, from + dim, static_cast<float*>(cache) + at);
    }
  });
}

void CpuBackend::kv_append(const KVLayer& cache, FloatView k, FloatView v, int64_t first_position) {
  const Turn turn(*this);
  append(cache.k, cache.k_format, cache.capacity, cache.n_kv_heads, cache.k_dim, k, first_position);
  append(cache.v, cache.v_format, cache.capacity, cache.n_kv_heads, cache.v_dim, v, first_position);
}

void CpuBackend::attention(FloatView q, const KVLayer& cache, int64_t first_position, const AttentionShape& shape,
                           FloatView out) {
  const Turn turn(*this);
  require(shape.n_heads > 0 && cache.n_kv_heads > 0 && shape.n_heads % cache.n_kv_heads == 0, "attention", "query heads in equal groups per kv head");
  require(q.cols == static_cast<int64_t>(shape.n_heads) * cache.k_dim && out.cols == static_cast<int64_t>(shape.n_heads) * cache.v_dim && q.rows == out.rows,
          "attention", "q of [n_tokens, n_heads * k_dim] and out of [n_tokens, n_heads * v_dim]");
  require(first_position >= 0 && q.rows <= cache.capacity && first_position <= cache.capacity - q.rows, "attention", "positions inside the cache");
  const auto kernel = kernels_.attention(cache.k_format, cache.v_format);
  const FormatInfo *k_info = find_format(cache.k_format), *v_info = find_format(cache.v_format);
  if (!kernel || !k_info || !v_info)
    throw UnsupportedModelError("the CPU keeps keys and values as f16 or f32, not as formats {} and {}", cache.k_format, cache.v_format);

  const int group = shape.n_heads / cache.n_kv_heads;
  const int parts = (group + kAttentionHeads - 1) / kAttentionHeads;
  const int64_t per_token = static_cast<int64_t>(cache.n_kv_heads) * parts;
  const size_t scratch_values = static_cast<size_t>(kAttentionHeads * round_up(cache.k_dim, kLanes));
  const int64_t cost = (first_position + q.rows / 2 + 1) * (cache.k_dim + cache.v_dim) * std::min(group, kAttentionHeads);
  parallel(q.rows * per_token, cost, [&](int64_t task, int worker) {
    // Late tokens see more positions: they go first, so that no thread ends up alone with a long task.
    const int64_t t = q.rows - 1 - task / per_token;
    const int64_t kv_head = task % per_token / parts, part = task % parts;
    const int64_t head = kv_head * group + part * kAttentionHeads;
    const auto plane = [&](const void* base, const FormatInfo* info, int dim) {
      return static_cast<const uint8_t*>(base) + static_cast<size_t>(kv_head * cache.capacity * dim) * info->block_bytes;
    };
    const AttentionTask attention{
        .q = q.row(t) + head * cache.k_dim,
        .out = out.row(t) + head * cache.v_dim,
        .n_heads = static_cast<int>(std::min<int64_t>(kAttentionHeads, group - part * kAttentionHeads)),
        .k = plane(cache.k, k_info, cache.k_dim),
        .v = plane(cache.v, v_info, cache.v_dim),
        .k_dim = cache.k_dim,
        .v_dim = cache.v_dim,
        .n_positions = first_position + t + 1,
        .scale = shape.scale,
    };
    kernel(attention, worker_scratch_[static_cast<size_t>(worker)].get<float>(scratch_values, "the queries of a head"));
  });
}

void CpuBackend::silu_mul(FloatView gate, FloatView up, FloatView out) {
  const Turn turn(*this);
  require(same_shape(gate, up) && same_shape(gate, out), "silu_mul", "three views of one shape");
  parallel(gate.rows, gate.cols, [&](int64_t t, int) { kernels_.silu_mul(gate.row(t), up.row(t), gate.cols, out.row(t)); });
}

void CpuBackend::add(FloatView x, FloatView y) {
  const Turn turn(*this);
  require(same_shape(x, y), "add", "two views of one shape");
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.add(x.row(t), y.row(t), x.cols); });
}

void CpuBackend::add_bias(FloatView x, const DeviceTensor& bias) {
  const Turn turn(*this);
  const CpuTensor& b = on_cpu(bias);
  require(b.rows == 1 && b.cols == x.cols, "add_bias", "one bias per column");
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.add(x.row(t), b.vector.data(), x.cols); });
}

}  // namespace hrun
