// Second moments of matmul inputs, and encoding against them.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "base/error.h"
#include "bindings/gil.h"
#include "bindings/moments.h"
#include "encode/encoders.h"
#include "encode/ldlq.h"
#include "formats/list.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hrun::bindings {
namespace {

using Floats = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Moments = nb::ndarray<const float, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

template <class T>
nb::ndarray<nb::numpy, T> owned(std::unique_ptr<T[]> data, std::initializer_list<size_t> shape) {
  T* raw = data.release();
  nb::capsule owner(raw, [](void* p) noexcept { delete[] static_cast<T*>(p); });
  return nb::ndarray<nb::numpy, T>(raw, shape, owner);
}

std::unique_ptr<InputFactor> make_factor(Moments moments, int64_t cols, double damping,
                                         int n_threads) {
  const auto groups = static_cast<int64_t>(moments.shape(0)),
             width = static_cast<int64_t>(moments.shape(1));
  if (width < 1 || moments.shape(1) != moments.shape(2) || cols < 1 ||
      groups != (cols + width - 1) / width)
    throw ArgumentError(
        "second moments of {} columns are square matrices, [groups, width, width]; found [{}, {}, "
        "{}]",
        cols, moments.shape(0), moments.shape(1), moments.shape(2));
  const WithoutGil release;
  return std::make_unique<InputFactor>(moments.data(), cols, width, damping, n_threads);
}

const Encoder& require_trellis(const std::string& name) {
  const FormatInfo* f = find_format(std::string_view(name));
  const Encoder* const encoder = f ? find_encoder(f->id) : nullptr;
  if (!encoder || !encoder->trellis)
    throw ArgumentError("format '{}' has no trellis code", printable(name));
  return *encoder;
}

nb::tuple encode(const std::string& name, Floats weights, const InputFactor& factor, int survivors,
                 float scale, int passes, const std::string& tensor, int vector_bits) {
  const Encoder& encoder = require_trellis(name);
  const FormatInfo& f = *find_format(encoder.format);
  const auto rows = static_cast<int64_t>(weights.shape(0)),
             cols = static_cast<int64_t>(weights.shape(1));
  if (cols != factor.cols())
    throw ArgumentError("the rows have {} values, the input {}", cols, factor.cols());
  if (!f.row_ok(cols))
    throw ArgumentError("a row of {} values does not fit format {}", cols, f.name);
  if (survivors < 1 || survivors > 4096)
    throw ArgumentError("survivors is {}, must be 1 to 4096", survivors);
  if (passes < 1) throw ArgumentError("passes is {}, must be at least 1", passes);
  if (!(scale > 0) || !std::isfinite(scale)) throw ArgumentError("scale {} is not positive", scale);
  const size_t row_bytes = f.row_bytes(cols);
  auto out = std::make_unique<uint8_t[]>(row_bytes * static_cast<size_t>(rows));
  auto costs = std::make_unique<double[]>(static_cast<size_t>(rows)),
       energies = std::make_unique<double[]>(static_cast<size_t>(rows));
  {
    const WithoutGil release;
    LdlqOptions options;
    options.survivors = survivors;
    options.scale = scale;
    options.passes = passes;
    options.vector_bits = vector_bits;
    std::vector<float> x(static_cast<size_t>(rows * cols));
    for (int64_t r = 0; r < rows; ++r) {
      const float* w = weights.data() + r * cols;
      float* const row = x.data() + r * cols;
      for (int64_t i = 0; i < cols; ++i)
        if (!(std::fabs(w[i]) <= encoder.max_weight))
          throw ConversionError(
              "tensor '{}': value {} of row {} is {}; {} holds finite weights of magnitude up to "
              "{}",
              printable(tensor), i, r, w[i], f.name, encoder.max_weight);
      std::copy_n(w, cols, row);
      for (int64_t first = 0; first < cols; first += kRotationBlock)
        rotate_block(row + first, first,
                     static_cast<int>(std::min<int64_t>(kRotationBlock, cols - first)), true);
    }
    std::vector<RowCost> found(static_cast<size_t>(rows));
    encode_trellis_rows_ldlq(encoder.trellis(), x.data(), rows, factor, options, out.get(),
                             found.data());
    for (size_t r = 0; r < found.size(); ++r) {
      costs[r] = found[r].error;
      energies[r] = found[r].energy;
    }
  }
  const auto n = static_cast<size_t>(rows);
  return nb::make_tuple(owned(std::move(out), {row_bytes * n}), owned(std::move(costs), {n}),
                        owned(std::move(energies), {n}));
}

// An input of a collector, which may sum in another thread while Python looks.
struct PyMomentInput {
  std::shared_ptr<PyMomentCollector> owner;
  size_t index;

  // Calls fn(input) with what the collector holds now; fn must not touch Python.
  template <class Function>
  auto look(Function&& fn) const {
    return owner->mutex.call([&] { return fn(owner->collector.inputs()[index]); });
  }
};

std::vector<double> mean(const std::vector<double>& sums, int64_t n) {
  std::vector<double> out(sums);
  for (double& x : out) x /= static_cast<double>(std::max<int64_t>(n, 1));
  return out;
}

template <class T>
nb::ndarray<nb::numpy, T> array(const std::vector<T>& from) {
  auto out = std::make_unique<T[]>(from.size());
  std::copy(from.begin(), from.end(), out.get());
  return owned(std::move(out), {from.size()});
}

// The mean moments, with the upper triangle filled in.
nb::ndarray<nb::numpy, float> moments(const PyMomentInput& self) {
  size_t width = 0, groups = 0;
  auto out = self.owner->mutex.call_without_gil([&] {
    const MomentInput& in = self.owner->collector.inputs()[self.index];
    if (in.sums.empty())
      throw ArgumentError("the input of '{}' was not selected",
                          in.tensors.empty() ? "" : in.tensors[0]);
    width = static_cast<size_t>(in.width);
    groups = static_cast<size_t>(in.groups());
    auto means = std::make_unique<float[]>(in.sums.size());
    const double scale = 1.0 / static_cast<double>(std::max<int64_t>(in.n_tokens, 1));
    for (size_t g = 0; g < groups; ++g) {
      const float* from = in.sums.data() + g * width * width;
      float* to = means.get() + g * width * width;
      for (size_t i = 0; i < width; ++i)
        for (size_t j = 0; j <= i; ++j)
          to[i * width + j] = to[j * width + i] =
              static_cast<float>(static_cast<double>(from[i * width + j]) * scale);
    }
    return means;
  });
  return owned(std::move(out), {groups, width, width});
}

nb::ndarray<nb::numpy, float> sample(const PyMomentInput& self) {
  size_t cols = 0;
  const auto values = self.look([&](const MomentInput& in) {
    cols = static_cast<size_t>(in.cols);
    return in.sample;
  });
  auto out = std::make_unique<float[]>(values.size());
  std::copy(values.begin(), values.end(), out.get());
  return owned(std::move(out), {values.size() / cols, cols});
}

}  // namespace

void init_calibration(nb::module_& m) {
  nb::class_<InputFactor>(m, "InputFactor",
                          "Factored second moments of a matmul's input, in the rotated basis.")
      .def_static(
          "make",
          [](Moments moments, int64_t cols, double damping, int n_threads) {
            return make_factor(moments, cols, damping, n_threads).release();
          },
          nb::rv_policy::take_ownership, "moments"_a, "cols"_a, "damping"_a = 0.01,
          "n_threads"_a = 0,
          "moments: float32 [groups, width, width], the diagonal blocks of E[x x^T]; damping: "
          "multiple of the mean diagonal; n_threads: 0 for all, the result is the same. "
          "Raises ConversionError where they are not positive definite.")
      .def_prop_ro("cols", &InputFactor::cols)
      .def_prop_ro("width", &InputFactor::width)
      .def_prop_ro("mean_power", &InputFactor::mean_power);
  nb::class_<PyMomentInput>(
      m, "MomentInput",
      "A matmul input: the tensors that read it, and the sums over the tokens seen.")
      .def_prop_ro("tensors",
                   [](const PyMomentInput& self) {
                     return self.look([](const MomentInput& in) { return in.tensors; });
                   })
      .def_prop_ro("cols",
                   [](const PyMomentInput& self) {
                     return self.look([](const MomentInput& in) { return in.cols; });
                   })
      .def_prop_ro("width",
                   [](const PyMomentInput& self) {
                     return self.look([](const MomentInput& in) { return in.width; });
                   })
      .def_prop_ro("n_tokens",
                   [](const PyMomentInput& self) {
                     return self.look([](const MomentInput& in) { return in.n_tokens; });
                   })
      .def_prop_ro(
          "power",
          [](const PyMomentInput& self) {
            return array(
                self.look([](const MomentInput& in) { return mean(in.power, in.n_tokens); }));
          },
          nb::rv_policy::move, "float64 [cols]: mean square per column, original basis")
      .def_prop_ro(
          "peak",
          [](const PyMomentInput& self) {
            return array(self.look([](const MomentInput& in) { return in.peak; }));
          },
          nb::rv_policy::move, "float64 [cols]: largest magnitude per column")
      .def("sample", &sample, "float32 [up to 64, cols]: a few inputs as they are, original basis.")
      .def("moments", &moments,
           "float32 [groups, width, width]: E[x x^T], rotated basis. Raises ArgumentError if not "
           "selected.");
  nb::class_<PyObserver>(m, "Observer", "What Session.forward(observer=) takes.");
  nb::class_<PyKeyCollector, PyObserver>(
      m, "KeyCollector",
      "Collects the mean of keys and their balance against the queries, of all layers or of some "
      "after others.")
      .def(nb::init<int64_t>(), "n_layers"_a)
      .def(
          "tables",
          [](PyKeyCollector& self, int64_t layer) {
            const KeyCollector::Tables found =
                self.mutex.call([&] { return self.collector.tables(layer); });
            return nb::make_tuple(array(found.mean), array(found.balance));
          },
          "layer"_a,
          "float32 [n_kv_heads * k_dim] each, empty where the layer has no keys of its own: the "
          "mean before they are turned, and the balance.");
  nb::class_<PyMomentCollector, PyObserver>(
      m, "MomentCollector",
      "Sums second moments of a model's matmul inputs; see Session.forward(observer=).")
      .def(nb::init<std::shared_ptr<Model>, int64_t, int>(), nb::call_guard<WithoutGil>(),
           "model"_a, "block_width"_a = 0, "n_threads"_a = 0)
      .def_prop_ro("inputs",
                   [](std::shared_ptr<PyMomentCollector> self) {
                     const size_t n =
                         self->mutex.call([&] { return self->collector.inputs().size(); });
                     std::vector<PyMomentInput> all;
                     for (size_t i = 0; i < n; ++i) all.push_back({self, i});
                     return all;
                   })
      .def(
          "select",
          [](PyMomentCollector& c, const std::vector<int64_t>& indices,
             const std::vector<int64_t>& widths) {
            if (widths.size() != indices.size())
              throw ArgumentError("one width per input is needed");
            c.mutex.call_without_gil([&] { c.collector.select(indices, widths); });
          },
          "indices"_a, "widths"_a,
          "Sum these inputs from zero, as blocks of the given widths (0: all columns).");
  m.def("encode_calibrated", &encode, "format"_a, "weights"_a, "factor"_a, "survivors"_a, "scale"_a,
        "passes"_a = 1, "tensor"_a = "", "vector_bits"_a = 512,
        "float32 [rows, cols] to blocks, uint8 [rows * row_bytes], and each row's e H e^T and w H "
        "w^T, float64 [rows]. Raises "
        "ArgumentError, ConversionError.");
}

}  // namespace hrun::bindings
