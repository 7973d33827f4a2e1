// The CPU tiers, and the kernels one by one for the contract tests (hrun._core.testing).
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <chrono>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "base/error.h"
#include "base/pcg32.h"
#include "bindings/gil.h"
#include "bindings/names.h"
#include "cpu/backend/cpu_backend.h"
#include "cpu/measure.h"
#include "cpu/tiers.h"
#include "formats/list.h"

namespace nb = nanobind;

namespace hrun::bindings {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Vector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Tokens = nb::ndarray<const int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// One tier in the result of cpu_tiers().
struct TierInfo {
  std::string name, missing;
  bool available, active;
};

// An array under construction that Python will own.
template <class T>
struct Array {
  std::vector<size_t> shape;
  std::unique_ptr<T[]> data;

  explicit Array(std::vector<size_t> sizes) : shape(std::move(sizes)) {
    size_t count = 1;
    for (const size_t n : shape) count *= n;
    data = std::make_unique<T[]>(count);
  }
  nb::ndarray<nb::numpy, T> release() {
    T* raw = data.release();
    nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::ndarray<nb::numpy, T>(raw, shape.size(), shape.data(), owner);
  }
};

FloatView view(Array<float>& a) {
  const auto rows = static_cast<int64_t>(a.shape[0]), cols = static_cast<int64_t>(a.shape[1]);
  return {a.data.get(), rows, cols, cols};
}

Array<float> copy(const Matrix& m) {
  Array<float> out({m.shape(0), m.shape(1)});
  std::copy(m.data(), m.data() + m.size(), out.data.get());
  return out;
}

BackendOptions options(const std::string& tier, int n_threads,
                       RotatedMatmul way = RotatedMatmul::activation) {
  return {.device = "cpu", .n_threads = n_threads, .cpu_tier = tier, .rotated_matmul = way};
}

const FormatInfo& require_format(const std::string& name) {
  if (const FormatInfo* f = find_format(std::string_view(name))) return *f;
  throw ArgumentError("unknown format '{}'; known: {}", printable(name), format_names());
}

TensorView tensor(const std::string& format_name, const Bytes& data, int64_t rows, int64_t cols) {
  const FormatInfo& f = require_format(format_name);
  if (rows <= 0 || !f.row_ok(cols))
    throw ArgumentError("{} rows of {} values do not fit format {}", rows, cols, f.name);
  if (data.size() != f.row_bytes(cols) * static_cast<size_t>(rows))
    throw ArgumentError("{} rows of {} {} values take {} bytes, got {}", rows, cols, f.name,
                        f.row_bytes(cols) * static_cast<size_t>(rows), data.size());
  return {f.id, rows, cols, f.row_bytes(cols), data.data(), "testing"};
}

TensorView vector_tensor(const Vector& v) {
  return {F32::kId,
          1,
          static_cast<int64_t>(v.size()),
          v.size() * sizeof(float),
          reinterpret_cast<const uint8_t*>(v.data()),
          "testing"};
}

InputForm input_form_named(const std::string& name) {
  if (name == "int8x32") return InputForm::kInt8x32;
  if (name == "int8x64") return InputForm::kInt8x64;
  if (name == "int8x128") return InputForm::kInt8x128;
  if (name == "int8x256") return InputForm::kInt8x256;
  if (name == "rotated") return InputForm::kRotated;
  if (name == "rotated_signed") return InputForm::kRotatedSigned;
  throw ArgumentError(
      "unknown kind of activation '{}'; known: int8x32, int8x64, int8x128, int8x256, rotated, "
      "rotated_signed",
      printable(name));
}

std::vector<float> signs(int64_t cols) {
  std::vector<float> out(static_cast<size_t>(cols));
  for (int64_t c = 0; c < cols; ++c) out[static_cast<size_t>(c)] = rotation_sign(c);
  return out;
}

auto matmul(const std::string& tier, const std::string& format_name, const Bytes& data,
            int64_t rows, const Matrix& x, const std::string& way, int n_threads, int repeat,
            std::optional<Vector> norm, float eps, std::optional<Matrix> gate) {
  const auto cols = static_cast<int64_t>(x.shape(1));
  const TensorView weights = tensor(format_name, data, rows, cols);
  CpuBackend cpu(options(tier, n_threads, rotated_matmul(way)));
  const auto w = cpu.upload(weights);
  Array<float> y({x.shape(0), static_cast<size_t>(rows)});
  const FloatView input{const_cast<float*>(x.data()), static_cast<int64_t>(x.shape(0)), cols, cols};
  const MatmulTarget target{w.get(), view(y)};
  const auto norm_weight = norm ? cpu.upload(vector_tensor(*norm)) : nullptr;
  MatmulInput from = norm ? MatmulInput::normed(input, *norm_weight, eps) : MatmulInput(input);
  if (gate)
    from.gate = {const_cast<float*>(gate->data()), static_cast<int64_t>(gate->shape(0)),
                 static_cast<int64_t>(gate->shape(1)), static_cast<int64_t>(gate->shape(1))};
  {
    const WithoutGil release;
    for (int i = 0; i < repeat; ++i) cpu.matmul({&target, 1}, from);
  }
  return y.release();
}

// Returns (seconds of the best call, bytes of weights that it reads).
auto time_matmul(const std::string& tier, const std::string& format_name, const Bytes& data,
                 int64_t rows, const Matrix& x, int n_threads, double seconds) {
  const auto cols = static_cast<int64_t>(x.shape(1)), n = static_cast<int64_t>(x.shape(0));
  const TensorView weights = tensor(format_name, data, rows, cols);
  const WithoutGil release;
  CpuBackend cpu(options(tier, n_threads));
  const auto w = cpu.upload(weights);
  const auto y = std::make_unique<float[]>(static_cast<size_t>(n * rows));
  const FloatView input{const_cast<float*>(x.data()), n, cols, cols};
  const MatmulTarget target{w.get(), {y.get(), n, rows, rows}};
  const auto start = std::chrono::steady_clock::now();
  const auto since = [](auto from) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - from).count();
  };
  double best = 1e9;
  for (int i = 0; i < 3 || since(start) < seconds; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    cpu.matmul({&target, 1}, input);
    best = std::min(best, since(begin));
  }
  return std::pair(best, w->bytes);
}

auto quantize_activations(const std::string& tier, const std::string& kind_name, const Matrix& x) {
  const KernelTable& kernels = *select_cpu_tier(tier).kernels;
  const InputForm kind = input_form_named(kind_name);
  const size_t n = x.shape(0), cols = x.shape(1), block = input_form_columns(kind);
  if (cols == 0 || cols % 32 != 0)
    throw ArgumentError("{} columns; expected a multiple of 32", cols);
  const size_t blocks = (cols + block - 1) / block, groups = cols / kGroup;
  Array<int16_t> codes({n, cols}), sums({n, groups});
  Array<float> scale({n, blocks});
  const QuantizedRows to{codes.data.get(),
                         scale.data.get(),
                         sums.data.get(),
                         static_cast<int64_t>(n),
                         static_cast<int64_t>(cols),
                         static_cast<int64_t>(blocks),
                         static_cast<int64_t>(groups)};
  const FloatView input{const_cast<float*>(x.data()), to.n_tokens, to.cols, to.cols};
  const std::vector<float> sign = signs(to.cols);
  for (int64_t t = 0; t < to.n_tokens; ++t)
    for (int64_t b = 0; b < to.n_blocks; ++b)
      kernels.quantize_block({.x = input}, t, b, kind, sign.data(), to);
  return nb::make_tuple(codes.release(), scale.release(), sums.release());
}

auto rotate(const std::string& tier, const Matrix& x, bool with_signs) {
  const KernelTable& kernels = *select_cpu_tier(tier).kernels;
  if (x.shape(1) % 32 != 0)
    throw ArgumentError("{} columns; expected a multiple of 32", x.shape(1));
  Array<float> out = copy(x);
  const FloatView v = view(out);
  const std::vector<float> sign = signs(v.cols);
  for (int64_t t = 0; t < v.rows; ++t)
    for (int64_t first = 0; first < v.cols; first += kRotationBlock)
      kernels.rotate_block(v.row(t) + first, first,
                           static_cast<int>(std::min<int64_t>(kRotationBlock, v.cols - first)),
                           sign.data(), with_signs);
  return out.release();
}

// The integer view of rows, which a matmul works on.
auto unpack(const std::string& format_name, const Bytes& data, int64_t rows, int64_t cols) {
  const TensorView weights = tensor(format_name, data, rows, cols);
  const auto n = static_cast<size_t>(rows), width = static_cast<size_t>(cols);
  nb::object result;
  const bool found = Formats::visit(weights.format, [&]<class F>() {
    if constexpr (QuantizedFormat<F>) {
      const auto blocks = static_cast<size_t>(n_blocks<F>(cols));
      Array<int8_t> codes({n, width});
      Array<int16_t> group_scale({n, width / kGroup}), group_offset({n, width / kGroup});
      Array<float> scale({n, blocks}), offset({n, blocks});
      for (size_t r = 0; r < n; ++r)
        for (size_t b = 0; b < blocks; ++b) {
          const int length = block_length<F>(cols, static_cast<int64_t>(b));
          const size_t first = r * width + b * F::kBlockValues;
          IntBlock block{};
          F::unpack(weights.data + r * weights.row_bytes + b * F::kBlockBytes, length, block);
          std::copy(block.codes, block.codes + length, codes.data.get() + first);
          std::copy(block.group_scale, block.group_scale + length / kGroup,
                    group_scale.data.get() + first / kGroup);
          if (F::kHasOffset)
            std::copy(block.group_offset, block.group_offset + length / kGroup,
                      group_offset.data.get() + first / kGroup);
          scale.data[r * blocks + b] = block.scale;
          offset.data[r * blocks + b] = F::kHasOffset ? block.offset : 0.0f;
        }
      result = nb::make_tuple(codes.release(), group_scale.release(), group_offset.release(),
                              scale.release(), offset.release());
    }
  });
  if (!found || !result.is_valid())
    throw ArgumentError("format {} has no integer view", printable(format_name));
  return result;
}

auto embed(const std::string& tier, const std::string& format_name, const Bytes& data, int64_t rows,
           int64_t cols, const Tokens& tokens, int n_threads) {
  const TensorView table = tensor(format_name, data, rows, cols);
  CpuBackend cpu(options(tier, n_threads));
  const auto w = cpu.upload(table);
  Array<float> out({tokens.size(), static_cast<size_t>(cols)});
  cpu.embed(*w, {tokens.data(), tokens.size()}, view(out));
  return out.release();
}

auto rms_norm(const std::string& tier, const Matrix& x, const Vector& weight, float eps) {
  CpuBackend cpu(options(tier, 1));
  Array<float> values = copy(x), out({x.shape(0), x.shape(1)});
  const auto w = cpu.upload(vector_tensor(weight));
  cpu.rms_norm(view(values), *w, eps, view(out));
  return out.release();
}

auto rope(const std::string& tier, const Matrix& x, int n_heads, const Matrix& cos,
          const Matrix& sin, const std::string& style, int64_t first_position) {
  if (style != "interleaved" && style != "halves")
    throw ArgumentError("unknown rope style '{}'", printable(style));
  if (cos.shape(0) != sin.shape(0) || cos.shape(1) != sin.shape(1) || first_position < 0 ||
      static_cast<size_t>(first_position) + x.shape(0) > cos.shape(0))
    throw ArgumentError("rope: cos and sin of one shape, with a row per position");
  CpuBackend cpu(options(tier, 1));
  Array<float> out = copy(x);
  const Rope tables{style == "halves" ? RopeStyle::halves : RopeStyle::interleaved,
                    2 * static_cast<int>(cos.shape(1)), cos.data(), sin.data()};
  BatchRows rows;
  rows.add_positions(static_cast<int64_t>(x.shape(0)), first_position, {});
  cpu.rope(view(out), n_heads, tables, rows.batch());
  return out.release();
}

auto silu_mul(const std::string& tier, const Matrix& gate, const Matrix& up) {
  CpuBackend cpu(options(tier, 1));
  Array<float> a = copy(gate), b = copy(up), out({gate.shape(0), gate.shape(1)});
  cpu.silu_mul(view(a), view(b), view(out));
  return out.release();
}

Nonlinearity nonlinearity_named(const std::string& name) {
  std::string known;
  for (size_t i = 0; i < std::size(kNonlinearityNames); ++i) {
    if (name == kNonlinearityNames[i]) return static_cast<Nonlinearity>(i);
    known += (i ? ", " : "") + std::string(kNonlinearityNames[i]);
  }
  throw ArgumentError("unknown nonlinearity '{}'; known: {}", printable(name), known);
}

auto gated(const std::string& tier, const std::string& name, const Matrix& gate, const Matrix& up) {
  CpuBackend cpu(options(tier, 1));
  Array<float> a = copy(gate), b = copy(up), out({gate.shape(0), gate.shape(1)});
  cpu.gated(nonlinearity_named(name), view(a), view(b), view(out));
  return out.release();
}

auto nonlinearity(const std::string& tier, const std::string& name, const Matrix& x) {
  CpuBackend cpu(options(tier, 1));
  Array<float> out = copy(x);
  cpu.nonlinearity(nonlinearity_named(name), view(out), view(out));
  return out.release();
}

auto xielu(const std::string& tier, const Matrix& x, float alpha_p, float alpha_n, float beta,
           float eps) {
  CpuBackend cpu(options(tier, 1));
  Array<float> out = copy(x);
  cpu.xielu(view(out), {alpha_p, alpha_n, beta, eps});
  return out.release();
}

auto layer_norm(const std::string& tier, const Matrix& x, const Vector& weight, const Vector& bias,
                float eps) {
  CpuBackend cpu(options(tier, 1));
  Array<float> values = copy(x), out({x.shape(0), x.shape(1)});
  const auto w = cpu.upload(vector_tensor(weight)), b = cpu.upload(vector_tensor(bias));
  cpu.layer_norm(view(values), *w, b.get(), eps, view(out));
  return out.release();
}

auto scale_columns(const std::string& tier, const Matrix& x, const Vector& weight) {
  CpuBackend cpu(options(tier, 1));
  Array<float> out = copy(x);
  const auto w = cpu.upload(vector_tensor(weight));
  cpu.scale_columns(view(out), *w, view(out));
  return out.release();
}

auto mix_heads(const std::string& tier, const Matrix& factors, float shift, const Matrix& x, int n,
               const Matrix& base) {
  CpuBackend cpu(options(tier, 2));
  Array<float> f = copy(factors), values = copy(x), out = copy(base);
  cpu.mix_heads(view(f), shift, view(values), n, view(out), view(out));
  return out.release();
}

auto match_rms(const std::string& tier, const Matrix& x, const Matrix& y, float least) {
  CpuBackend cpu(options(tier, 1));
  Array<float> out = copy(x), like = copy(y);
  cpu.match_rms(view(out), view(like), least);
  return out.release();
}

auto keep_above(const std::string& tier, const Matrix& x, float deviations) {
  CpuBackend cpu(options(tier, 1));
  Array<float> out = copy(x);
  cpu.keep_above(view(out), deviations);
  return out.release();
}

auto soft_cap(const std::string& tier, const Matrix& x, float cap) {
  CpuBackend cpu(options(tier, 1));
  Array<float> out = copy(x);
  cpu.soft_cap(view(out), cap);
  return out.release();
}

auto mix_rows(const std::string& tier, const Matrix& x, const Tokens& rows, const Vector& weights,
              int64_t n_tokens) {
  CpuBackend cpu(options(tier, 1));
  Array<float> values = copy(x), out({static_cast<size_t>(n_tokens), x.shape(1)});
  cpu.mix_rows(view(values), {rows.data(), rows.size()}, {weights.data(), weights.size()},
               view(out));
  return out.release();
}

auto add_bias(const std::string& tier, const Matrix& x, const Vector& bias) {
  CpuBackend cpu(options(tier, 1));
  Array<float> out = copy(x);
  const auto b = cpu.upload(vector_tensor(bias));
  cpu.add_bias(view(out), *b);
  return out.release();
}

auto exp(const std::string& tier, const Vector& x) {
  Array<float> out({x.size()});
  select_cpu_tier(tier).kernels->exp(x.data(), static_cast<int64_t>(x.size()), out.data.get());
  return out.release();
}

auto to_fp16(const std::string& tier, const Vector& x) {
  Array<uint16_t> out({x.size()});
  select_cpu_tier(tier).kernels->to_fp16(x.data(), static_cast<int64_t>(x.size()), out.data.get());
  return out.release();
}

// Appends all keys and values in `chunk`-token steps and attends after each.
// With `reads`: (that, blocks of keys and of values that were read as codes).
nb::object attention(const std::string& tier, const Matrix& q, const Matrix& k, const Matrix& v,
                     int n_heads, int n_kv_heads, float scale, const std::string& k_format,
                     const std::string& v_format, int64_t chunk, int n_threads, int64_t window,
                     float cap, const nb::object& sinks, uint64_t shuffle, bool causal, bool reads,
                     int k_plain) {
  const auto n = static_cast<int64_t>(q.shape(0));
  if (n_heads <= 0 || n_kv_heads <= 0 || chunk <= 0 || k.shape(0) != q.shape(0) ||
      v.shape(0) != q.shape(0))
    throw ArgumentError("attention: heads, a chunk and as many keys and values as queries");
  CpuBackend cpu(options(tier, n_threads));
  const CachePlan plan{{{n_kv_heads, static_cast<int>(k.shape(1)) / n_kv_heads,
                         static_cast<int>(v.shape(1)) / n_kv_heads, cache_type_named(k_format),
                         cache_type_named(v_format), k_plain}},
                       (n + kPagePositions - 1) / kPagePositions};
  const auto made = cpu.make_cache(plan, "a test");
  const CacheSlot cache{made.get(), 0};
  std::vector<int32_t> pages = consecutive_pages(n);
  // Any order of pages gives the same bits.
  if (shuffle != 0) {
    Pcg32 random = Pcg32::seeded(shuffle);
    for (size_t i = pages.size(); i > 1; --i)
      std::swap(pages[i - 1],
                pages[static_cast<size_t>(random.uniform() * static_cast<double>(i))]);
  }
  Array<float> qs = copy(q), ks = copy(k), vs = copy(v);
  Array<float> out(
      {q.shape(0), static_cast<size_t>(n_heads) * static_cast<size_t>(cache.layer().v_dim)});
  const auto sink_tensor =
      sinks.is_none() ? nullptr : cpu.upload(vector_tensor(nb::cast<Vector>(sinks)));
  AttentionShape attention_shape{n_heads, scale, window, cap, sink_tensor.get()};
  attention_shape.causal = causal;
  const auto part = [](const FloatView& all, int64_t first, int64_t rows) {
    return FloatView{all.row(first), rows, all.cols, all.stride};
  };
  for (int64_t first = 0; first < n; first += chunk) {
    const int64_t n_rows = std::min(chunk, n - first);
    BatchRows rows;
    rows.add_positions(n_rows, first, pages);
    cpu.kv_append(cache, part(view(ks), first, n_rows), part(view(vs), first, n_rows), rows.batch(),
                  {nullptr, part(view(qs), first, n_rows), n_heads});
    cpu.attention(part(view(qs), first, n_rows), cache, rows.batch(), attention_shape,
                  part(view(out), first, n_rows));
  }
  const CodedBlocks read = cpu.coded_blocks_read();
  nb::object values = nb::cast(out.release());
  if (!reads) return values;
  return nb::make_tuple(values, read.keys, read.values);
}

// Codes and scales of 64 keys or values of a head, [64, dim].
auto code_block(const std::string& tier, const Matrix& x, const std::string& format, bool keys,
                const Vector& centre, const Vector& balance) {
  const int dim = static_cast<int>(x.shape(1));
  const CacheType type = cache_type_named(format);
  if (x.shape(0) != kPagePositions || dim % 16 != 0 || !is_coded(type) ||
      static_cast<int>(centre.size()) != dim || static_cast<int>(balance.size()) != dim)
    throw ArgumentError("code_block: 64 rows of a multiple of 16 values, a centre and a balance");
  std::vector<uint16_t> rows(static_cast<size_t>(kPagePositions) * static_cast<size_t>(dim));
  for (int p = 0; p < kPagePositions; ++p)
    for (int i = 0; i < dim; ++i)
      rows[static_cast<size_t>(keys ? (p / kLanes * dim + i) * kLanes + p % kLanes : p * dim + i)] =
          fp32_to_fp16(x(p, i));
  Array<uint8_t> out({static_cast<size_t>((dim * cache_code_bits(type) / 8 + 2) * kPagePositions)});
  const BlockToCode block{reinterpret_cast<const uint8_t*>(rows.data()),
                          dim,
                          dim,
                          keys,
                          type,
                          centre.data(),
                          balance.data(),
                          out.data.get()};
  Scratch scratch;
  select_cpu_tier(tier).kernels->code_block(block,
                                            scratch.get<float>(block.scratch_floats(), "a test"));
  return out.release();
}

}  // namespace

void init_cpu(nb::module_& m) {
  nb::class_<TierInfo>(m, "CpuTier", "A set of CPU instructions this build has kernels for.")
      .def_ro("name", &TierInfo::name)
      .def_ro("available", &TierInfo::available, "can this CPU run it?")
      .def_ro("active", &TierInfo::active,
              "is it what a Model uses by default, HRUN_CPU_TIER considered?")
      .def_ro("missing", &TierInfo::missing, "features this CPU lacks, separated by spaces")
      .def("__repr__", [](const TierInfo& t) {
        return message("<CPU tier {}{}>", t.name, t.available ? "" : ", not available");
      });
  m.def(
      "cpu_tiers",
      [] {
        const CpuTier* active = &select_cpu_tier();
        std::vector<TierInfo> all;
        for (const CpuTier& t : cpu_tiers())
          all.push_back({std::string(t.name), t.missing, t.available(), &t == active});
        return all;
      },
      "All CPU tiers of this build, worst first. Raises DeviceError if HRUN_CPU_TIER names one "
      "that cannot run.");
  m.def("default_thread_count", &default_thread_count, "Physical cores this process may use.");
  m.def("read_bandwidth", &measure_read_bandwidth, nb::arg("n_threads") = 0,
        nb::call_guard<WithoutGil>(),
        "Bytes per second that n_threads threads read from memory. Takes a second and 1 GiB; "
        "raises OutOfMemoryError.");
  m.def("int8_peak", &measure_int8_peak, nb::arg("n_threads") = 0, nb::arg("tier") = "",
        nb::call_guard<WithoutGil>(),
        "Operations per second of the tier's int8 multiply-add on registers, all threads.");

  nb::module_ t =
      m.def_submodule("testing", "Single kernels, for tests: float32 arrays in, fresh arrays out.");
  t.def(
      "tier_names",
      [] {
        std::vector<std::string> names;
        for (const CpuTier& tier : cpu_tiers()) names.emplace_back(tier.name);
        return names;
      },
      "All tiers of this build, whatever the CPU and the environment.");
  t.def("matmul", &matmul, nb::arg("tier"), nb::arg("format"), nb::arg("weights"), nb::arg("rows"),
        nb::arg("x"), nb::arg("way") = "activation", nb::arg("n_threads") = 1,
        nb::arg("repeat") = 1, nb::arg("norm") = nb::none(), nb::arg("eps") = 1e-5f,
        nb::arg("gate") = nb::none(),
        "y [n_tokens, rows]; of x, of its norm, or of silu(gate) * x");
  t.def("time_matmul", &time_matmul, nb::arg("tier"), nb::arg("format"), nb::arg("weights"),
        nb::arg("rows"), nb::arg("x"), nb::arg("n_threads") = 0, nb::arg("seconds") = 0.2,
        "(seconds of the best call, bytes of weights that a call reads)");
  t.def("barrier_seconds", &measure_barrier, nb::arg("n_threads") = 0, nb::call_guard<WithoutGil>(),
        "Seconds of a loop over all threads in which each does nothing.");
  t.def("quantize_activations", &quantize_activations, nb::arg("tier"), nb::arg("kind"),
        nb::arg("x"), "(codes int16 [n, cols], scale [n, blocks], sums int16 [n, cols / 16])");
  t.def("rotate", &rotate, nb::arg("tier"), nb::arg("x"), nb::arg("with_signs"));
  t.def("unpack", &unpack, nb::arg("format"), nb::arg("weights"), nb::arg("rows"), nb::arg("cols"),
        "(codes int8, group_scale int16, group_offset int16, scale, offset)");
  t.def("embed", &embed, nb::arg("tier"), nb::arg("format"), nb::arg("weights"), nb::arg("rows"),
        nb::arg("cols"), nb::arg("tokens"), nb::arg("n_threads") = 1);
  t.def("rms_norm", &rms_norm, nb::arg("tier"), nb::arg("x"), nb::arg("weight"), nb::arg("eps"));
  t.def("rope", &rope, nb::arg("tier"), nb::arg("x"), nb::arg("n_heads"), nb::arg("cos"),
        nb::arg("sin"), nb::arg("style"), nb::arg("first_position") = 0);
  t.def("silu_mul", &silu_mul, nb::arg("tier"), nb::arg("gate"), nb::arg("up"));
  t.def("layer_norm", &layer_norm, nb::arg("tier"), nb::arg("x"), nb::arg("weight"),
        nb::arg("bias"), nb::arg("eps"));
  t.def("gated", &gated, nb::arg("tier"), nb::arg("name"), nb::arg("gate"), nb::arg("up"));
  t.def("nonlinearity", &nonlinearity, nb::arg("tier"), nb::arg("name"), nb::arg("x"));
  t.def("xielu", &xielu, nb::arg("tier"), nb::arg("x"), nb::arg("alpha_p"), nb::arg("alpha_n"),
        nb::arg("beta"), nb::arg("eps"));
  t.def("scale_columns", &scale_columns, nb::arg("tier"), nb::arg("x"), nb::arg("weight"));
  t.def("mix_heads", &mix_heads, nb::arg("tier"), nb::arg("factors"), nb::arg("shift"),
        nb::arg("x"), nb::arg("n"), nb::arg("base"));
  t.def("match_rms", &match_rms, nb::arg("tier"), nb::arg("x"), nb::arg("y"), nb::arg("least"));
  t.def("keep_above", &keep_above, nb::arg("tier"), nb::arg("x"), nb::arg("deviations"));
  t.def("soft_cap", &soft_cap, nb::arg("tier"), nb::arg("x"), nb::arg("cap"));
  t.def("mix_rows", &mix_rows, nb::arg("tier"), nb::arg("x"), nb::arg("rows"), nb::arg("weights"),
        nb::arg("n_tokens"));
  t.def("add_bias", &add_bias, nb::arg("tier"), nb::arg("x"), nb::arg("bias"));
  t.def("exp", &exp, nb::arg("tier"), nb::arg("x"));
  t.def("to_fp16", &to_fp16, nb::arg("tier"), nb::arg("x"), "bit patterns, uint16");
  t.def("code_block", &code_block, nb::arg("tier"), nb::arg("x"), nb::arg("format"),
        nb::arg("keys"), nb::arg("centre"), nb::arg("balance"));
  t.def("attention", &attention, nb::arg("tier"), nb::arg("q"), nb::arg("k"), nb::arg("v"),
        nb::arg("n_heads"), nb::arg("n_kv_heads"), nb::arg("scale"), nb::arg("k_format") = "f16",
        nb::arg("v_format") = "f16", nb::arg("chunk") = 512, nb::arg("n_threads") = 1,
        nb::arg("window") = 0, nb::arg("soft_cap") = 0.0f, nb::arg("sinks") = nb::none(),
        nb::arg("shuffle") = 0, nb::arg("causal") = true, nb::arg("reads") = false,
        nb::arg("k_plain") = 0,
        "From an empty cache filled in steps of `chunk` tokens; one step where it is not causal.");
}

}  // namespace hrun::bindings
