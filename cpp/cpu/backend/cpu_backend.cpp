#include "cpu/backend/cpu_backend.h"

#include <atomic>
#include <cmath>
#include <cstring>

#include "base/cpu_features.h"
#include "cpu/backend/parallel.h"
#include "formats/rotation.h"

namespace hrun {

namespace {

// Chosen by measurement: on a Zen 5 windows cost a fifth; on a Xeon, lines after each other cost 4
// to 7 %.
Prefetch prefetch_of_this_cpu() {
  return cpu_vendor() == "AuthenticAMD" ? Prefetch::linear : Prefetch::halves;
}

}  // namespace

CpuBackend::CpuBackend(const BackendOptions& options)
    : tier_(select_cpu_tier(options.cpu_tier)),
      kernels_(*tier_.kernels),
      rotated_matmul_(options.rotated_matmul),
      prefetch_(prefetch_of_this_cpu()),
      pool_(options.n_threads),
      worker_scratch_(static_cast<size_t>(pool_.n_threads())) {}

DeviceDescription CpuBackend::device() {
  return {"cpu",          message("the CPU, tier {}", select_cpu_tier().name),
          total_memory(), available_memory(),
          "cpu",          0};
}

std::string CpuBackend::description() const {
  return message("cpu, tier {}, {} {}", tier_.name, n_threads(),
                 n_threads() == 1 ? "thread" : "threads");
}

const float* CpuBackend::signs(int64_t cols) {
  while (static_cast<int64_t>(signs_.size()) < cols)
    signs_.push_back(rotation_sign(static_cast<int64_t>(signs_.size())));
  return signs_.data();
}

std::unique_ptr<DeviceBuffer> CpuBackend::allocate(size_t bytes, std::string_view purpose) {
  // A buffer that is not used whole, such as a cache or the logits of a batch, is used from its
  // beginning on.
  return allocate_host(bytes, purpose, Pages::huge);
}

void CpuBackend::write(void* to, std::span<const uint8_t> from) {
  if (!from.empty()) std::memcpy(to, from.data(), from.size());
}

void CpuBackend::read(const void* from, std::span<uint8_t> to) {
  if (!to.empty()) std::memcpy(to.data(), from, to.size());
}

std::unique_ptr<DeviceTensor> CpuBackend::do_upload(const TensorView& view, const FormatInfo& info,
                                                    TensorUse use) {
  const Turn turn(*this);
  auto tensor = std::make_unique<CpuTensor>();
  tensor->format = view.format;
  tensor->rows = view.rows;
  tensor->cols = view.cols;
  tensor->bytes = view.row_bytes * static_cast<size_t>(view.rows);
  tensor->data = view.data;
  tensor->row_bytes = view.row_bytes;
  tensor->info = &info;
  tensor->kernels = &kernels_.formats[&info - formats().data()];
  if (view.rows == 1) {
    tensor->vector.resize(static_cast<size_t>(view.cols));
    tensor->kernels->decode_row(view.data, view.cols, signs(view.cols), false,
                                tensor->vector.data());
  } else if (tensor->kernels->pack_panel && use != TensorUse::lookup) {
    pack(*tensor);
  }
  return tensor;
}

void CpuBackend::pack(CpuTensor& tensor) {
  const int64_t n_panels = (tensor.rows + kPanelRows - 1) / kPanelRows;
  tensor.panel_bytes = tensor.kernels->packed_panel_bytes(tensor.cols);
  tensor.packed = packed_memory_.take(tensor.panel_bytes * static_cast<size_t>(n_panels),
                                      "the repacked weights");
  std::atomic<bool> fits = true;
  parallel(n_panels, kPanelRows * tensor.cols, [&](int64_t p, int) {
    const int rows = static_cast<int>(std::min<int64_t>(kPanelRows, tensor.rows - p * kPanelRows));
    auto* panel =
        static_cast<uint8_t*>(tensor.packed->data) + static_cast<size_t>(p) * tensor.panel_bytes;
    if (!tensor.kernels->pack_panel(tensor.row(p * kPanelRows), tensor.row_bytes, rows, tensor.cols,
                                    panel))
      fits = false;
  });
  if (!fits) {
    tensor.packed.reset();  // odd numbers: the general kernel reads the file's layout
    return;
  }
  tensor.bytes = tensor.packed->bytes;
  tensor.holds_copy = true;
}

void CpuBackend::do_embed(const DeviceTensor& table, std::span<const int32_t> tokens,
                          FloatView out) {
  const Turn turn(*this, Operation::embed);
  const CpuTensor& t = on_cpu(table);
  const float* sign = signs(t.cols);
  parallel(out.rows, t.cols, [&](int64_t i, int) {
    t.kernels->decode_row(t.row(tokens[static_cast<size_t>(i)]), t.cols, sign, false, out.row(i));
  });
}

void CpuBackend::do_rms_norm(FloatView x, const DeviceTensor& weight, float eps, FloatView out) {
  const Turn turn(*this, Operation::norm);
  const CpuTensor& w = on_cpu(weight);
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    kernels_.rms_norm(x.row(t), w.vector.data(), eps, x.cols, out.row(t));
  });
}

void CpuBackend::do_rope(FloatView x, int n_heads, const Rope& rope, const Batch& batch) {
  const Turn turn(*this, Operation::rope);
  const int half = rope.n_rot / 2;
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    const int64_t at = int64_t{batch.positions[static_cast<size_t>(t)]} * half;
    kernels_.rope(x.row(t) + rope.first, n_heads, x.cols / n_heads, rope.n_rot, rope.style,
                  rope.cos + at, rope.sin + at);
  });
}

void CpuBackend::do_silu_mul(FloatView gate, FloatView up, FloatView out) {
  const Turn turn(*this, Operation::gate);
  parallel(gate.rows, gate.cols, [&](int64_t t, int) {
    kernels_.silu_mul(gate.row(t), up.row(t), gate.cols, out.row(t));
  });
}

void CpuBackend::do_add(FloatView x, FloatView y) {
  const Turn turn(*this, Operation::add);
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.add(x.row(t), y.row(t), x.cols); });
}

void CpuBackend::do_add_bias(FloatView x, const DeviceTensor& bias) {
  const Turn turn(*this, Operation::add);
  const CpuTensor& b = on_cpu(bias);
  parallel(x.rows, x.cols,
           [&](int64_t t, int) { kernels_.add(x.row(t), b.vector.data(), x.cols); });
}

void CpuBackend::do_layer_norm(FloatView x, const DeviceTensor& weight, const DeviceTensor* bias,
                               float eps, FloatView out) {
  const Turn turn(*this, Operation::norm);
  const CpuTensor& w = on_cpu(weight);
  const float* const b = bias ? on_cpu(*bias).vector.data() : nullptr;
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    kernels_.layer_norm(x.row(t), w.vector.data(), b, eps, x.cols, out.row(t));
  });
}

void CpuBackend::do_gated(Nonlinearity f, FloatView gate, FloatView up, FloatView out) {
  const Turn turn(*this, Operation::gate);
  parallel(gate.rows, gate.cols, [&](int64_t t, int) {
    kernels_.gated(f, gate.row(t), up.row(t), gate.cols, out.row(t));
  });
}

void CpuBackend::do_nonlinearity(Nonlinearity f, FloatView x, FloatView out) {
  const Turn turn(*this, Operation::gate);
  parallel(x.rows, x.cols,
           [&](int64_t t, int) { kernels_.nonlinearity(f, x.row(t), x.cols, out.row(t)); });
}

void CpuBackend::do_xielu(FloatView x, const Xielu& f) {
  const Turn turn(*this, Operation::gate);
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.xielu(x.row(t), f, x.cols); });
}

void CpuBackend::do_scale(FloatView x, float factor) {
  const Turn turn(*this, Operation::add);
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.scale(x.row(t), factor, x.cols); });
}

void CpuBackend::do_soft_cap(FloatView x, float cap) {
  const Turn turn(*this, Operation::add);
  parallel(x.rows, x.cols, [&](int64_t t, int) { kernels_.soft_cap(x.row(t), cap, x.cols); });
}

void CpuBackend::do_copy_heads(FloatView from, int64_t from_step, FloatView to, int64_t to_step,
                               int n_heads, int64_t width) {
  const Turn turn(*this, Operation::add);
  parallel(from.rows, n_heads * width, [&](int64_t t, int) {
    for (int h = 0; h < n_heads; ++h) {
      const float* const head = from.row(t) + h * from_step;
      std::copy(head, head + width, to.row(t) + h * to_step);
    }
  });
}

void CpuBackend::do_scale_columns(FloatView x, const DeviceTensor& weight, FloatView out) {
  const Turn turn(*this, Operation::gate);
  const CpuTensor& w = on_cpu(weight);
  parallel(x.rows, x.cols, [&](int64_t t, int) {
    kernels_.gated(Nonlinearity::linear, w.vector.data(), x.row(t), x.cols, out.row(t));
  });
}

void CpuBackend::do_mix_heads(FloatView factors, float shift, FloatView x, int n, FloatView base,
                              FloatView out) {
  const Turn turn(*this, Operation::add);
  const int64_t width = x.cols / n, n_heads = out.cols / width;
  parallel(out.rows * n_heads, width * (n + 1), [&](int64_t task, int) {
    const int64_t t = task / n_heads, h = task % n_heads;
    float* const to = out.row(t) + h * width;
    const float* const from = base.row(t) + h * width;
    if (from != to) std::copy(from, from + width, to);
    for (int i = 0; i < n; ++i)
      kernels_.add_scaled(to, factors.row(t)[h * n + i] + shift, x.row(t) + i * width, width);
  });
}

void CpuBackend::do_match_rms(FloatView x, FloatView y, float least) {
  const Turn turn(*this, Operation::norm);
  const float most = 1.0f / std::sqrt(least);
  parallel(x.rows, x.cols + y.cols, [&](int64_t t, int) {
    const float inverse = std::min(kernels_.norm_inverse(x.row(t), 0, x.cols), most);
    kernels_.scale(x.row(t), inverse / kernels_.norm_inverse(y.row(t), 0, y.cols), x.cols);
  });
}

void CpuBackend::do_keep_above(FloatView x, float deviations) {
  const Turn turn(*this, Operation::gate);
  parallel(x.rows, x.cols,
           [&](int64_t t, int) { kernels_.keep_above(x.row(t), deviations, x.cols); });
}

void CpuBackend::do_gather_rows(FloatView x, std::span<const int32_t> rows, FloatView out) {
  const Turn turn(*this, Operation::add);
  parallel(out.rows, out.cols, [&](int64_t i, int) {
    const float* const row = x.row(rows[static_cast<size_t>(i)]);
    std::copy(row, row + x.cols, out.row(i));
  });
}

void CpuBackend::do_mix_rows(FloatView x, std::span<const int32_t> rows,
                             std::span<const float> weights, FloatView out) {
  const Turn turn(*this, Operation::add);
  const auto per_token = static_cast<int64_t>(rows.size()) / out.rows;
  parallel(out.rows, out.cols * per_token, [&](int64_t t, int) {
    std::fill(out.row(t), out.row(t) + out.cols, 0.0f);
    for (int64_t k = t * per_token; k < (t + 1) * per_token; ++k)
      kernels_.add_scaled(out.row(t), weights[static_cast<size_t>(k)],
                          x.row(rows[static_cast<size_t>(k)]), x.cols);
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
