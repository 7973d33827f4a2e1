// The registry of weight formats and their codecs, for the converter and the tests.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "bindings/gil.h"
#include "encode/encoders.h"
#include "encode/trellis_fast.h"
#include "formats/list.h"

namespace nb = nanobind;

namespace hrun::bindings {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatVector = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

const FormatInfo& require_format(const std::string& name) {
  if (const FormatInfo* f = find_format(std::string_view(name))) return *f;
  throw ArgumentError("unknown format '{}'; known: {}", printable(name), format_names());
}

const TrellisCode* trellis_of(const FormatInfo& f) {
  const Encoder* const encoder = find_encoder(f.id);
  return encoder && encoder->trellis ? &encoder->trellis() : nullptr;
}

void require_row(const FormatInfo& f, int64_t cols) {
  if (!f.row_ok(cols))
    throw ArgumentError("a row of {} values does not fit format {} (blocks of {})", cols, f.name,
                        f.block_values);
}

template <class T>
nb::ndarray<nb::numpy, T> owned(std::unique_ptr<T[]> data, std::initializer_list<size_t> shape) {
  T* raw = data.release();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(raw, shape, owner);
}

nb::ndarray<nb::numpy, float> decode(const std::string& name, Bytes data, int64_t rows,
                                     int64_t cols, bool own_basis) {
  const FormatInfo& f = require_format(name);
  require_row(f, cols);
  const size_t row_bytes = f.row_bytes(cols);
  if (rows < 0 || data.size() != row_bytes * static_cast<size_t>(rows))
    throw ArgumentError("{} rows of {} {} values take {} bytes, got {}", rows, cols, f.name,
                        row_bytes * static_cast<size_t>(rows), data.size());
  auto out = std::make_unique<float[]>(static_cast<size_t>(rows * cols));
  {
    const WithoutGil release;
    for (int64_t r = 0; r < rows; ++r)
      (own_basis ? f.decode_row_own_basis : f.decode_row)(
          data.data() + static_cast<size_t>(r) * row_bytes, cols, out.get() + r * cols);
  }
  return owned(std::move(out), {static_cast<size_t>(rows), static_cast<size_t>(cols)});
}

nb::ndarray<nb::numpy, uint8_t> encode(const std::string& name, Floats weights,
                                       nb::object importance, const std::string& tensor,
                                       bool fast) {
  const FormatInfo& f = require_format(name);
  const Encoder* const encoder = find_encoder(f.id);
  if (!encoder)
    throw ArgumentError("format {} can be read but not written; written: {}", f.name,
                        encoder_names());
  const auto rows = static_cast<int64_t>(weights.shape(0)),
             cols = static_cast<int64_t>(weights.shape(1));
  require_row(f, cols);
  const float* per_column = nullptr;
  FloatVector importance_array;
  if (!importance.is_none()) {
    importance_array = nb::cast<FloatVector>(importance);
    if (static_cast<int64_t>(importance_array.size()) != cols)
      throw ArgumentError("importance has {} values, the rows have {}", importance_array.size(),
                          cols);
    per_column = importance_array.data();
  }
  const float* w = weights.data();
  const size_t row_bytes = f.row_bytes(cols);
  auto out = std::make_unique<uint8_t[]>(row_bytes * static_cast<size_t>(rows));
  {
    const WithoutGil release;
    for (int64_t i = 0; i < rows * cols; ++i)
      if (!(std::fabs(w[i]) <= encoder->max_weight))
        throw ConversionError(
            "tensor '{}': value {} of row {} is {}; {} holds finite weights of magnitude up to {}",
            printable(tensor), i % cols, i / cols, w[i], f.name, encoder->max_weight);
    for (int64_t i = 0; per_column && i < cols; ++i)
      if (!(per_column[i] >= 0 && std::isfinite(per_column[i])))
        throw ConversionError(
            "tensor '{}': the importance of column {} is {}; it must be finite and not negative",
            printable(tensor), i, per_column[i]);
    if (fast && encoder->trellis)
      encode_trellis_rows_fast(encoder->trellis(), fast_trellis(encoder->trellis()), w, rows, cols,
                               out.get());
    else
      for (int64_t r = 0; r < rows; ++r)
        encoder->encode_row(w + r * cols, per_column, cols,
                            out.get() + static_cast<size_t>(r) * row_bytes);
  }
  return owned(std::move(out), {row_bytes * static_cast<size_t>(rows)});
}

}  // namespace

void init_formats(nb::module_& m) {
  nb::class_<FormatInfo>(m, "FormatInfo", "A weight format, from the C++ registry.")
      .def_prop_ro("name", [](const FormatInfo& f) { return std::string(f.name); })
      .def_ro("id", &FormatInfo::id, "GGML type id, or 0x48520000 + n for our own")
      .def_ro("block_values", &FormatInfo::block_values)
      .def_ro("block_bytes", &FormatInfo::block_bytes)
      .def_ro("version", &FormatInfo::version,
              "of the format's definition; written into each file of our own formats")
      .def_ro("is_float", &FormatInfo::is_float)
      .def_ro("has_offset", &FormatInfo::has_offset,
              "does a block subtract offsets from its weights?")
      .def_prop_ro(
          "encodable", [](const FormatInfo& f) { return find_encoder(f.id) != nullptr; },
          "can hrun write it?")
      .def_prop_ro(
          "max_weight",
          [](const FormatInfo& f) {
            const Encoder* const encoder = find_encoder(f.id);
            return encoder ? encoder->max_weight : 0.0f;
          },
          "largest magnitude that encode() takes")
      .def_prop_ro(
          "trellis", [](const FormatInfo& f) { return trellis_of(f) != nullptr; },
          "can be encoded against second moments (encode_calibrated)?")
      .def_prop_ro("rotated", [](const FormatInfo& f) { return is_rotated(f.input_form); })
      .def_prop_ro("signed_rotation",
                   [](const FormatInfo& f) { return f.input_form == InputForm::kRotatedSigned; })
      .def_prop_ro(
          "activation_block",
          [](const FormatInfo& f) {
            return f.input_form == InputForm::kFloat ? 0 : input_form_columns(f.input_form);
          },
          "columns per int8 activation scale, 0 for float formats")
      .def_prop_ro("bits_per_weight", &FormatInfo::bits_per_weight)
      .def(
          "row_ok", [](const FormatInfo& f, int64_t cols) { return f.row_ok(cols); },
          nb::arg("cols"))
      .def(
          "row_bytes",
          [](const FormatInfo& f, int64_t cols) {
            require_row(f, cols);
            return f.row_bytes(cols);
          },
          nb::arg("cols"))
      .def("__repr__",
           [](const FormatInfo& f) { return message("<format {} id {}>", f.name, f.id); });

  m.def(
      "formats",
      [] {
        std::vector<FormatInfo> all(formats().begin(), formats().end());
        return all;
      },
      "All weight formats, in registry order.");
  m.def("decode", &decode, nb::arg("format"), nb::arg("data"), nb::arg("rows"), nb::arg("cols"),
        nb::arg("own_basis") = false,
        "Blocks to float32 [rows, cols]; own_basis leaves rotated formats rotated. Raises "
        "ArgumentError.");
  m.def("encode", &encode, nb::arg("format"), nb::arg("weights"),
        nb::arg("importance") = nb::none(), nb::arg("tensor") = "", nb::arg("fast") = false,
        "float32 [rows, cols] to blocks, uint8 [rows * row_bytes]; fast: trellis codes with costs "
        "of 8 bits. Raises ArgumentError, and ConversionError "
        "for NaN, infinity and values beyond max_weight.");
  m.def(
      "rotation_signs",
      [](int64_t cols) {
        auto out = std::make_unique<float[]>(static_cast<size_t>(cols));
        for (int64_t c = 0; c < cols; ++c) out[static_cast<size_t>(c)] = rotation_sign(c);
        return owned(std::move(out), {static_cast<size_t>(cols)});
      },
      nb::arg("cols"), "The fixed sign per column of the signed rotation, float32 [cols].");
}

}  // namespace hrun::bindings
