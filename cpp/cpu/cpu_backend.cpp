#include "cpu/cpu_backend.h"

#include <atomic>
#include <cstring>

#include "cpu/cpu_backend_parts.h"
#include "formats/rotation.h"

namespace hrun {

CpuBackend::CpuBackend(const BackendOptions& options)
    : tier_(select_cpu_tier(options.cpu_tier)),
      kernels_(*tier_.kernels),
      rotated_matmul_(options.rotated_matmul),
      pool_(options.n_threads),
      worker_scratch_(static_cast<size_t>(pool_.n_threads())) {}

DeviceDescription CpuBackend::device() {
  return {"cpu", format("the CPU, tier {}", select_cpu_tier().name), total_memory(), available_memory()};
}

std::string CpuBackend::description() const {
  return format("cpu, tier {}, {} {}", tier_.name, n_threads(), n_threads() == 1 ? "thread" : "threads");
}

const float* CpuBackend::signs(int64_t cols) {
  while (static_cast<int64_t>(signs_.size()) < cols) signs_.push_back(rotation_sign(static_cast<int64_t>(signs_.size())));
  return signs_.data();
}

std::unique_ptr<DeviceBuffer> CpuBackend::allocate(size_t bytes, std::string_view purpose) {
  // Activations are used whole.  What is larger is a cache, filled little by little, or the logits of a batch, seldom wanted.
  constexpr size_t kUsedWhole = size_t{32} << 20;
  return allocate_host(bytes, purpose, bytes <= kUsedWhole ? Pages::huge : Pages::small);
}

void CpuBackend::write(void* to, std::span<const uint8_t> from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}

void CpuBackend::read(const void* from, std::span<uint8_t> to) {
  if (!to.empty()) std::memcpy(to.data(), from, to.size());
}

std::unique_ptr<DeviceTensor> CpuBackend::upload(const TensorView& view, TensorUse use) {
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
  } else if (tensor->kernels->pack_panel && use != TensorUse::lookup) {
    pack(*tensor);
  }
  return tensor;
}

void CpuBackend::pack(CpuTensor& tensor) {
  const int64_t n_panels = (tensor.rows + kPanelRows - 1) / kPanelRows;
  tensor.panel_bytes = tensor.kernels->packed_panel_bytes(tensor.cols);
  tensor.packed = packed_memory_.take(tensor.panel_bytes * static_cast<size_t>(n_panels), "the repacked weights");
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

void CpuBackend::embed(const DeviceTensor& table, std::span<const int32_t> tokens, FloatView out) {
  const Turn turn(*this, Operation::embed);
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
  const Turn turn(*this, Operation::norm);
  const CpuTensor& w = on_cpu(weight);
  require(same_shape(x, out) && w.rows == 1 && w.cols == x.cols, "rms_norm", "x and out of one shape and a weight per column");
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.rms_norm(x.row(t), w.vector.data(), eps, x.cols, out.row(t)); });
}

void CpuBackend::rope(FloatView x, int n_heads, const Rope& rope, int64_t first_position) {
  const Turn turn(*this, Operation::rope);
  require(n_heads > 0 && x.cols % n_heads == 0 && rope.n_rot % 2 == 0 && rope.first >= 0 &&
              rope.first + rope.n_rot <= x.cols / n_heads,
          "rope", "whole heads that hold the values to turn");
  const int half = rope.n_rot / 2;
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    const int64_t at = (first_position + t) * half;
    kernels_.rope(x.row(t) + rope.first, n_heads, x.cols / n_heads, rope.n_rot, rope.style, rope.cos + at, rope.sin + at);
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
  const Turn turn(*this, Operation::kv_append);
  append(cache.k, cache.k_format, cache.capacity, cache.n_kv_heads, cache.k_dim, k, first_position);
  append(cache.v, cache.v_format, cache.capacity, cache.n_kv_heads, cache.v_dim, v, first_position);
}

void CpuBackend::attention(FloatView q, const KVLayer& cache, int64_t first_position, const AttentionShape& shape,
                           FloatView out) {
  const Turn turn(*this, Operation::attention);
  require(shape.n_heads > 0 && cache.n_kv_heads > 0 && shape.n_heads % cache.n_kv_heads == 0, "attention", "query heads in equal groups per kv head");
  require(q.cols == static_cast<int64_t>(shape.n_heads) * cache.k_dim && out.cols == static_cast<int64_t>(shape.n_heads) * cache.v_dim && q.rows == out.rows,
          "attention", "q of [n_tokens, n_heads * k_dim] and out of [n_tokens, n_heads * v_dim]");
  require(first_position >= 0 && q.rows <= cache.capacity && first_position <= cache.capacity - q.rows, "attention", "positions inside the cache");
  const auto kernel = kernels_.attention(cache.k_format, cache.v_format);
  const FormatInfo *k_info = find_format(cache.k_format), *v_info = find_format(cache.v_format);
  if (!kernel || !k_info || !v_info)
    throw UnsupportedModelError("the CPU keeps keys and values as f16 or f32, not as formats {} and {}", cache.k_format, cache.v_format);

  const int group = shape.n_heads / cache.n_kv_heads;
  require(!shape.sinks || (shape.sinks->rows == 1 && shape.sinks->cols == shape.n_heads), "attention", "one sink per head");
  const float* const sinks = shape.sinks ? on_cpu(*shape.sinks).vector.data() : nullptr;
  // The block in which the window of the token at this position begins.
  const auto first_block_of = [&](int64_t position) {
    return shape.window > 0 ? std::max<int64_t>(0, position + 1 - shape.window) / kAttentionBlock : 0;
  };
  const int64_t end = first_position + q.rows, begin_block = first_block_of(first_position);
  const int64_t n_blocks = (end + kAttentionBlock - 1) / kAttentionBlock - begin_block;
  const auto task_of = [&](int64_t kv_head, int64_t first_token, int64_t n_tokens) {
    const auto plane = [&](const void* base, const FormatInfo* info, int dim) {
      return static_cast<const uint8_t*>(base) + static_cast<size_t>(kv_head * cache.capacity * dim) * info->block_bytes;
    };
    const int64_t head = kv_head * group;
    return AttentionTask{
        .q = {q.row(first_token) + head * cache.k_dim, n_tokens, group * cache.k_dim, q.stride},
        .out = {out.row(first_token) + head * cache.v_dim, n_tokens, group * cache.v_dim, out.stride},
        .n_heads = group,
        .k = plane(cache.k, k_info, cache.k_dim),
        .v = plane(cache.v, v_info, cache.v_dim),
        .k_dim = cache.k_dim,
        .v_dim = cache.v_dim,
        .first_position = first_position + first_token,
        .scale = shape.scale,
        .window = shape.window,
        .soft_cap = shape.soft_cap,
        .sinks = sinks ? sinks + head : nullptr,
        .first_block = first_block_of(first_position + first_token),
        .n_blocks = (first_position + first_token + n_tokens + kAttentionBlock - 1) / kAttentionBlock -
                    first_block_of(first_position + first_token),
    };
  };
  const auto run = [&](const AttentionTask& task, int worker) {
    kernel(task, worker_scratch_[static_cast<size_t>(worker)].get<float>(task.scratch_floats(), "the queries of a head"));
  };
  // Some tokens together, so that a block of the cache is converted once for all their heads.
  constexpr int64_t kQueriesTogether = 32, kBlocksTogether = 4;
  const int64_t span = std::clamp<int64_t>(kQueriesTogether / group, 1, q.rows);
  const int64_t spans = (q.rows + span - 1) / span, n_tasks = spans * cache.n_kv_heads;
  const int64_t seen_by_most = std::min(first_position + q.rows / 2 + 1, n_blocks * kAttentionBlock);
  const int64_t cost = seen_by_most * (cache.k_dim + cache.v_dim) * group * span;
  if (spans > 1 || n_tasks >= 2 * n_threads() || n_threads() == 1 || n_blocks < 2 * kBlocksTogether) {
    parallel(n_tasks, cost, [&](int64_t i, int worker) {
      // Late tokens see more positions: they go first, so that no thread ends up alone with a long task.
      const int64_t first = (spans - 1 - i / cache.n_kv_heads) * span;
      run(task_of(i % cache.n_kv_heads, first, std::min(span, q.rows - first)), worker);
    });
    return;
  }
  // More threads than heads: each takes some blocks of positions, and what they found is joined.
  const int64_t pieces = (n_blocks + kBlocksTogether - 1) / kBlocksTogether;
  const int64_t n_queries = q.rows * group, stride = n_queries * (2 + cache.v_dim);
  float* const partial = partial_.get<float>(static_cast<size_t>(cache.n_kv_heads * n_blocks * stride), "the attention of a long context");
  parallel(cache.n_kv_heads * pieces, cost / pieces, [&](int64_t i, int worker) {
    AttentionTask task = task_of(i / pieces, 0, q.rows);
    const int64_t first = i % pieces * kBlocksTogether;
    task.first_block = begin_block + first;
    task.n_blocks = std::min(kBlocksTogether, n_blocks - first);
    task.partial = partial + (i / pieces * n_blocks + first) * stride;
    run(task, worker);
  });
  parallel(cache.n_kv_heads * n_queries, n_blocks * cache.v_dim, [&](int64_t i, int) {
    const int64_t query = i % n_queries;
    const AttentionTask task = task_of(i / n_queries, 0, q.rows);
    const int64_t position = first_position + query / group, first = first_block_of(position);
    const float* const found = partial + (i / n_queries * n_blocks + first - begin_block) * stride + query * task.partial_floats();
    kernels_.join_attention(found, position / kAttentionBlock + 1 - first, stride, cache.v_dim,
                            task.sinks ? task.sinks + query % group : nullptr, task.out_of(static_cast<int>(query)));
  });
}

void CpuBackend::silu_mul(FloatView gate, FloatView up, FloatView out) {
  const Turn turn(*this, Operation::gate);
  require(same_shape(gate, up) && same_shape(gate, out), "silu_mul", "three views of one shape");
  parallel(gate.rows, gate.cols, [&](int64_t t, int) { kernels_.silu_mul(gate.row(t), up.row(t), gate.cols, out.row(t)); });
}

void CpuBackend::add(FloatView x, FloatView y) {
  const Turn turn(*this, Operation::add);
  require(same_shape(x, y), "add", "two views of one shape");
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.add(x.row(t), y.row(t), x.cols); });
}

void CpuBackend::add_bias(FloatView x, const DeviceTensor& bias) {
  const Turn turn(*this, Operation::add);
  const CpuTensor& b = on_cpu(bias);
  require(b.rows == 1 && b.cols == x.cols, "add_bias", "one bias per column");
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.add(x.row(t), b.vector.data(), x.cols); });
}

void CpuBackend::layer_norm(FloatView x, const DeviceTensor& weight, const DeviceTensor* bias, float eps, FloatView out) {
  const Turn turn(*this, Operation::norm);
  const CpuTensor& w = on_cpu(weight);
  require(same_shape(x, out) && w.rows == 1 && w.cols == x.cols && (!bias || (bias->rows == 1 && bias->cols == x.cols)), "layer_norm",
          "x and out of one shape, and a weight and a bias per column");
  const float* const b = bias ? on_cpu(*bias).vector.data() : nullptr;
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.layer_norm(x.row(t), w.vector.data(), b, eps, x.cols, out.row(t)); });
}

void CpuBackend::gated(Nonlinearity f, FloatView gate, FloatView up, FloatView out) {
  const Turn turn(*this, Operation::gate);
  require(same_shape(gate, up) && same_shape(gate, out), "gated", "three views of one shape");
  parallel(gate.rows, gate.cols, [&](int64_t t, int) { kernels_.gated(f, gate.row(t), up.row(t), gate.cols, out.row(t)); });
}

void CpuBackend::activate(Nonlinearity f, FloatView x, FloatView out) {
  const Turn turn(*this, Operation::gate);
  require(same_shape(x, out) && f != Nonlinearity::clamped_silu, "activate", "two views of one shape, and a function of one value");
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.activate(f, x.row(t), x.cols, out.row(t)); });
}

void CpuBackend::scale(FloatView x, float factor) {
  const Turn turn(*this, Operation::add);
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.scale(x.row(t), factor, x.cols); });
}

void CpuBackend::soft_cap(FloatView x, float cap) {
  const Turn turn(*this, Operation::add);
  require(cap > 0, "soft_cap", "a positive cap");
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.soft_cap(x.row(t), cap, x.cols); });
}

void CpuBackend::copy_heads(FloatView from, int64_t from_step, FloatView to, int64_t to_step, int n_heads, int64_t width) {
  const Turn turn(*this, Operation::add);
  const auto inside = [&](const FloatView& view, int64_t step) { return step >= 0 && (n_heads - 1) * step + width <= view.cols; };
  require(n_heads > 0 && from.rows == to.rows && inside(from, from_step) && inside(to, to_step), "copy_heads", "heads inside both views");
  parallel(from.rows, n_heads * width, [&](int64_t t, int) {
    for (int h = 0; h < n_heads; ++h) {
      const float* const head = from.row(t) + h * from_step;
      std::copy(head, head + width, to.row(t) + h * to_step);
    }
  });
}

void CpuBackend::gather_rows(FloatView x, std::span<const int32_t> rows, FloatView out) {
  const Turn turn(*this, Operation::add);
  require(out.rows == static_cast<int64_t>(rows.size()) && out.cols == x.cols, "gather_rows", "a row of out per index");
  for (const int32_t row : rows) require(row >= 0 && row < x.rows, "gather_rows", "rows of x");
  parallel(out.rows, out.cols, [&](int64_t i, int) {
    const float* const row = x.row(rows[static_cast<size_t>(i)]);
    std::copy(row, row + x.cols, out.row(i));
  });
}

void CpuBackend::mix_rows(FloatView x, std::span<const int32_t> rows, std::span<const float> weights, FloatView out) {
  const Turn turn(*this, Operation::add);
  require(out.rows > 0 && rows.size() == weights.size() && static_cast<int64_t>(rows.size()) % out.rows == 0 && out.cols == x.cols,
          "mix_rows", "as many weights as rows, equally many per token");
  for (const int32_t row : rows) require(row >= 0 && row < x.rows, "mix_rows", "rows of x");
  const auto per_token = static_cast<int64_t>(rows.size()) / out.rows;
  parallel(out.rows, out.cols * per_token, [&](int64_t t, int) {
    std::fill(out.row(t), out.row(t) + out.cols, 0.0f);
    for (int64_t k = t * per_token; k < (t + 1) * per_token; ++k)
      kernels_.add_scaled(out.row(t), weights[static_cast<size_t>(k)], x.row(rows[static_cast<size_t>(k)]), x.cols);
  });
}

void CpuBackend::time_operations(bool on) {
  const Turn turn(*this);
  times_ = {};
  times_.on = on;
}

OperationTimes CpuBackend::operation_times() {
  const Turn turn(*this);
  return times_;
}

}  // namespace hrun
