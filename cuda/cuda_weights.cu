// Weights of the CUDA backend: the layout that each use needs, and the kernel that reads it.
#include <algorithm>
#include <array>
#include <cstring>

#include "backend/plugin.h"
#include "cuda/cuda_backend.h"
#include "cuda/cuda_backend_parts.h"
#include "cuda/kernels/matmul_weight.h"
#include "cuda/kernels/rows.h"
#include "formats/list.h"

namespace hrun::gpu {
namespace {

constexpr size_t kStagingBytes = size_t{64}
                                 << 20;  // of file rows on their way into a packed layout
constexpr size_t kDecodedBytes = size_t{64} << 20;  // of decoded rows

std::string name_of(const TensorView& view) { return message("tensor '{}'", printable(view.name)); }

}  // namespace

std::unique_ptr<DeviceTensor> CudaBackend::do_upload(const TensorView& view, const FormatInfo& info,
                                                     TensorUse use) {
  return std::move(do_upload_slices({&view, 1}, info, use).front());
}

std::vector<std::unique_ptr<DeviceTensor>> CudaBackend::do_upload_slices(
    std::span<const TensorView> slices, const FormatInfo& info, TensorUse use) {
  const Turn turn(*this);
  const bool by_weight = is_rotated(info.input_form) && rotated_matmul_ == RotatedMatmul::weight;
  const bool by_integers =
      !is_rotated(info.input_form) || rotated_matmul_ == RotatedMatmul::activation;
  const auto memory = [&] { return SliceMemory(gpu_, slices.size()); };
  SliceMemory plain = memory(), packed = memory(), weight_domain = memory(), vector = memory();
  std::vector<std::unique_ptr<DeviceTensor>> out;
  for (size_t i = 0; i < slices.size(); ++i) {
    const TensorView& view = slices[i];
    auto tensor = std::make_unique<CudaTensor>();
    const std::string name = name_of(view);
    tensor->format = view.format;
    tensor->rows = view.rows;
    tensor->cols = view.cols;
    tensor->row_bytes = view.row_bytes;
    tensor->info = &info;
    tensor->bytes = tensor->row_bytes * static_cast<size_t>(view.rows);
    tensor->holds_copy = true;
    if (view.rows == 1) {
      std::vector<float> values(static_cast<size_t>(view.cols));
      info.decode_row(view.data, view.cols, values.data());
      tensor->vector = vector.take(i, values.size() * sizeof(float), name);
      gpu_.write(tensor->vector.data, values.data(), values.size() * sizeof(float));
    }
    if (use != TensorUse::lookup) {
      if (const size_t bytes =
              by_weight ? weight_domain_bytes(view.format, view.rows, view.cols) : 0) {
        tensor->weight_domain = weight_domain.take(i, bytes, name);
        upload_weight_domain(*tensor, view);
      } else if (const size_t packed_size =
                     by_integers ? packed_bytes(view.format, view.rows, view.cols) : 0) {
        tensor->packed = packed.take(i, packed_size, name);
        upload_packed(*tensor, view);
      }
    }
    if (use == TensorUse::lookup && view.rows > 1 && tensor->bytes > kLargestTable) {
      tensor->on_host = view.data;
      tensor->holds_copy = false;
      tensor->rows_of_pass =
          std::make_unique<Memory>(gpu_, kMostRecordedTokens * tensor->row_bytes, name);
    } else if (use != TensorUse::product || (!tensor->packed && !tensor->weight_domain)) {
      tensor->plain = plain.take(i, tensor->row_bytes * static_cast<size_t>(view.rows), name);
      upload_plain(*tensor, view);
    }
    out.push_back(std::move(tensor));
  }
  gpu_.wait();  // products read weights before they wait for other kernels, such as those that pack
  return out;
}

void CudaBackend::upload_plain(CudaTensor& tensor, const TensorView& view) {
  gpu_.write(tensor.plain.data, view.data, tensor.plain.bytes);
}

// Brings the rows of a file to the device a part at a time, and calls pack(rows, first, how many).
template <class Pack>
void CudaBackend::upload_in_parts(const TensorView& view, const Pack& pack) {
  const auto fitting = static_cast<int64_t>(kStagingBytes / view.row_bytes) / kPackRows * kPackRows;
  const int64_t step = std::min(std::max(fitting, kPackRows), view.rows);
  auto* const staging = staging_.get<uint8_t>(static_cast<size_t>(step) * view.row_bytes);
  for (int64_t first = 0; first < view.rows; first += step) {
    const int64_t n = std::min(step, view.rows - first);
    gpu_.write(staging, view.data + static_cast<size_t>(first) * view.row_bytes,
               static_cast<size_t>(n) * view.row_bytes);
    pack(staging, first, n);
  }
}

void CudaBackend::upload_packed(CudaTensor& tensor, const TensorView& view) {
  tensor.bytes = tensor.packed.bytes;
  upload_in_parts(view, [&](const uint8_t* rows, int64_t first, int64_t n) {
    pack(gpu_, rows, first, n, tensor.packed_matrix());
  });
}

void CudaBackend::upload_weight_domain(CudaTensor& tensor, const TensorView& view) {
  tensor.bytes = tensor.weight_domain.bytes;
  upload_in_parts(view, [&](const uint8_t* rows, int64_t first, int64_t n) {
    pack_weight_domain(gpu_, view.format, rows, view.row_bytes, first, n, view.rows, view.cols,
                       tensor.weight_domain.data);
  });
}

void CudaBackend::do_embed(const DeviceTensor& table, std::span<const int32_t> tokens,
                           FloatView out) {
  const Turn turn(*this, Operation::embed);
  const CudaTensor& t = on_device(table);
  if (t.on_host) return embed_from_host(t, tokens, out);
  require(static_cast<bool>(t.plain), "embed", "a table uploaded for look-ups");
  decode_rows(gpu_, t.plain_matrix(), 0, upload_indices(tokens), false, out);
}

// Copies rows of a table on the host, as they are, to the device.
void CudaBackend::bring_rows(const CudaTensor& table, std::span<const int32_t> rows, uint8_t* to) {
  std::vector<uint8_t> bytes(rows.size() * table.row_bytes);
  for (size_t i = 0; i < rows.size(); ++i)
    std::memcpy(bytes.data() + i * table.row_bytes,
                table.on_host + static_cast<size_t>(rows[i]) * table.row_bytes, table.row_bytes);
  gpu_.write(to, bytes.data(), bytes.size());
}

void CudaBackend::embed_from_host(const CudaTensor& table, std::span<const int32_t> rows,
                                  FloatView out) {
  const bool by_token = rows.data() == pass_.batch.tokens.data(),
             by_position = rows.data() == pass_.batch.positions.data();
  if (in_pass_ && recordable(pass_) && !by_token && !by_position)
    pass_.repeatable = false;  // nobody could say which rows a later pass needs
  const auto most = static_cast<size_t>(std::max<int64_t>(
      kMostRecordedTokens, static_cast<int64_t>(kStagingBytes / table.row_bytes)));
  for (size_t first = 0; first < rows.size(); first += most) {
    const std::span<const int32_t> some = rows.subspan(first, std::min(most, rows.size() - first));
    const auto n = static_cast<int64_t>(some.size());
    const bool few = n <= kMostRecordedTokens;
    auto* const to = few ? static_cast<uint8_t*>(table.rows_of_pass->data)
                         : table_rows_.get<uint8_t>(some.size() * table.row_bytes);
    if (!recording_) bring_rows(table, some, to);  // else begin_pass() did
    decode_rows(gpu_, {table.format, n, table.cols, table.row_bytes, to}, 0, nullptr, false,
                {out.row(static_cast<int64_t>(first)), n, out.cols, out.stride});
  }
  if (in_pass_ && recordable(pass_)) lookups_.push_back({&table, by_position});
}

QuantizeSource CudaBackend::source(const MatmulInput& input) const {
  QuantizeSource from{.x = input.x};
  if (input.norm) {
    from.norm = vector_of(*input.norm);
    from.eps = input.eps;
  }
  from.gate = input.gate.data;
  from.gate_stride = input.gate.stride;
  return from;
}

QuantizedRows CudaBackend::memory_for(const FloatView& x, InputForm kind) {
  QuantizedRows rows = quantized_shape(kind, x.rows, x.cols);
  QuantizedScratch& scratch = quantized_[2 * static_cast<size_t>(kind) + quantized_turn_];
  const auto n = static_cast<size_t>(rows.n_tokens);
  rows.codes = scratch.codes.get<int8_t>(n * static_cast<size_t>(rows.stride));
  rows.scales = scratch.scales.get<float>(n * static_cast<size_t>(rows.n_blocks));
  rows.sums = scratch.sums.get<int16_t>(n * static_cast<size_t>(rows.stride / kGroup));
  if (wants_transposed(kind))
    rows.transposed = scratch.transposed.get<int8_t>(n * static_cast<size_t>(rows.stride));
  return rows;
}

const QuantizedRows& CudaBackend::quantized(PreparedInput& input, InputForm kind) {
  QuantizedRows& rows = input.quantized[static_cast<size_t>(kind)];
  if (rows.codes) return rows;
  rows = memory_for(input.from.x, kind);
  QuantizeSource from = source(input.from);
  from.rows = input.rows;
  quantize(gpu_, from, kind, rows);
  return rows;
}

// The input in fp32, rotated as `kind` says.  Kinds of one matmul() beyond the first overwrite each
// other's memory, so they are not kept.
FloatView CudaBackend::floats(PreparedInput& input, InputForm kind) {
  FloatView& view = input.floats[static_cast<size_t>(kind)];
  if (view.data) return view;
  const FloatView& x = input.from.x;
  if (!input.from.norm && !input.from.gate.data && !is_rotated(kind) && !input.rows.list)
    return view = x;
  input.floats.fill({});
  view = {floats_.get<float>(static_cast<size_t>(x.rows * x.cols)), x.rows, x.cols, x.cols};
  QuantizeSource from = source(input.from);
  from.rows = input.rows;
  prepare_floats(gpu_, from, kind, view);
  return view;
}

void CudaBackend::multiply_decoded(const CudaTensor& w, FloatView x, bool own_basis, FloatView y) {
  const auto fitting =
      std::max<int64_t>(1, static_cast<int64_t>(kDecodedBytes / sizeof(float)) / w.cols);
  const int64_t step = std::min(fitting, w.rows);
  auto* const decoded = decoded_.get<float>(static_cast<size_t>(step * w.cols));
  for (int64_t first = 0; first < w.rows; first += step) {
    const int64_t n = std::min(step, w.rows - first);
    decode_rows(gpu_, w.plain_matrix(), first, nullptr, own_basis, {decoded, n, w.cols, w.cols});
    const PlainMatrix part{F32::kId, n, w.cols, static_cast<size_t>(w.cols) * sizeof(float),
                           reinterpret_cast<const uint8_t*>(decoded)};
    matmul_floats(gpu_, part, x, {y.data + first, y.rows, n, y.stride});
  }
}

void CudaBackend::multiply(const CudaTensor& w, PreparedInput& input, FloatView y) {
  const InputForm kind = w.info->input_form;
  if (w.weight_domain) {
    const FloatView x = floats(input, InputForm::kFloat);
    void* const scratch =
        product_.get<uint8_t>(weight_domain_scratch_bytes(w.format, w.rows, w.cols, x.rows));
    return matmul_weight_domain(gpu_, w.format, w.weight_domain.data, w.rows, w.cols, x, y,
                                scratch);
  }
  if (w.info->is_float)
    return matmul_floats(gpu_, w.plain_matrix(), floats(input, InputForm::kFloat), y);
  if (kind == InputForm::kFloat) return multiply_decoded(w, floats(input, kind), false, y);
  if (!is_rotated(kind) || rotated_matmul_ == RotatedMatmul::activation)
    return matmul_plain(gpu_, w.plain_matrix(), quantized(input, kind), y);
  const bool own_basis = rotated_matmul_ == RotatedMatmul::activation_float;
  multiply_decoded(w, floats(input, own_basis ? kind : InputForm::kFloat), own_basis, y);
}

void CudaBackend::do_matmul(std::span<const MatmulTarget> targets, const MatmulInput& from) {
  const Turn turn(*this, Operation::matmul, Keep::products);
  PreparedInput input{from};
  quantized_turn_ = 1 - quantized_turn_;
  if (targets.empty() || !quantize_with_pending(on_device(*targets[0].weights), input))
    flush(Keep::nothing);
  std::vector<PackedProduct> parts;  // packed targets of one format in a row
  const auto multiply_parts = [&] {
    if (parts.empty()) return;
    const QuantizedRows& rows = quantized(input, find_format(parts[0].w.format)->input_form);
    if (parts.size() < targets.size() || !wait_for_end(parts, rows)) gpu::matmul(gpu_, parts, rows);
    parts.clear();
  };
  for (const MatmulTarget& target : targets) {
    const CudaTensor& w = on_device(*target.weights);
    if (!w.packed || (!parts.empty() && parts[0].w.format != w.format)) multiply_parts();
    if (w.packed)
      parts.push_back({w.packed_matrix(), target.y});
    else
      multiply(w, input, target.y);
  }
  multiply_parts();
}

}  // namespace hrun::gpu
