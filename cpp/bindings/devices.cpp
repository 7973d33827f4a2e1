// Devices: the ones there are, what they can do, and how fast the products of one of them are.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>

#include "base/error.h"
#include "bindings/gil.h"
#include "bindings/names.h"
#include "devices/registry.h"
#include "formats/list.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace hrun::bindings {
namespace {

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// Returns (seconds of a product, bytes of weights that it reads).  `copies` of the matrix are
// multiplied in turn, so that they are larger than a cache.  They run as one pass, which a GPU runs
// from a record.
std::pair<double, size_t> time_matmul(const std::string& device, const std::string& format_name,
                                      const Bytes& data, int64_t rows, const Matrix& x,
                                      int64_t copies, const std::string& rotation, double seconds) {
  const FormatInfo* const format = find_format(std::string_view(format_name));
  const auto cols = static_cast<int64_t>(x.shape(1)), n = static_cast<int64_t>(x.shape(0));
  if (!format || rows < 1 || n < 1 || copies < 1 || !format->row_ok(cols) ||
      data.size() != format->row_bytes(cols) * static_cast<size_t>(rows))
    throw ArgumentError("time_matmul: {} bytes are no {} rows of {} values in format '{}'",
                        data.size(), rows, cols, printable(format_name));
  const RotatedMatmul way = rotated_matmul(rotation);
  const WithoutGil release;
  const std::unique_ptr<Backend> made = make_backend({.device = device, .rotated_matmul = way});
  Backend& backend = *made;
  std::vector<std::unique_ptr<DeviceTensor>> weights;
  for (int64_t i = 0; i < copies; ++i)
    weights.push_back(backend.upload(
        {format->id, rows, cols, format->row_bytes(cols), data.data(), "a benchmark"},
        TensorUse::product));
  const auto input = backend.allocate(x.size() * sizeof(float), "a benchmark");
  const auto output =
      backend.allocate(static_cast<size_t>(n * rows) * sizeof(float), "a benchmark");
  backend.write(input->data,
                {reinterpret_cast<const uint8_t*>(x.data()), x.size() * sizeof(float)});
  const FloatView from{static_cast<float*>(input->data), n, cols, cols},
      to{static_cast<float*>(output->data), n, rows, rows};
  const std::vector<int32_t> tokens(static_cast<size_t>(n));
  const Batch batch{tokens, tokens, {}};
  const auto since = [](auto start) {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  const auto once = [&] {
    const auto start = std::chrono::steady_clock::now();
    if (!backend.begin_pass({.owner = ~uint64_t{0}, .batch = batch, .repeatable = true}))
      for (const auto& w : weights) {
        const MatmulTarget target{w.get(), to};
        backend.matmul({&target, 1}, from);
      }
    backend.end_pass(true);
    float value = 0;
    backend.read(output->data, {reinterpret_cast<uint8_t*>(&value), sizeof value});  // waits
    return since(start);
  };
  const auto start = std::chrono::steady_clock::now();
  for (int i = 0; i < 3; ++i) once();
  double best = once();
  while (since(start) < seconds) best = std::min(best, once());
  return {best / static_cast<double>(copies), weights.front()->bytes};
}

}  // namespace

void init_devices(nb::module_& m) {
  nb::class_<DeviceDescription>(m, "Device", "What --device can name.")
      .def_ro("name", &DeviceDescription::name)
      .def_ro("description", &DeviceDescription::description)
      .def_ro("total_bytes", &DeviceDescription::total_bytes)
      .def_ro("free_bytes", &DeviceDescription::free_bytes)
      .def_ro("kind", &DeviceDescription::kind)
      .def_ro("index", &DeviceDescription::index);
  m.def(
      "devices",
      [](bool free_memory) {
        const WithoutGil release;  // a GPU takes seconds to start
        std::string reason;
        std::vector<DeviceDescription> all = list_devices(reason, free_memory);
        return std::pair(std::move(all), std::move(reason));
      },
      "free_memory"_a = true,
      "The devices, the CPU last, and why there is no GPU among them.  Without `free_memory` no "
      "GPU is "
      "started, and free_bytes is all that it has.");
  m.def(
      "device_peaks",
      [](const std::string& name) {
        const DevicePeaks p = measure_device(name);
        return std::tuple(p.read, p.copy, p.int8, p.fp16);
      },
      "name"_a, nb::call_guard<WithoutGil>(),
      "(bytes read, bytes copied, int8 operations, fp16 operations) per second of a GPU, measured. "
      "Raises DeviceError.");
  m.def("time_device_matmul", &time_matmul, "device"_a, "format"_a, "weights"_a, "rows"_a, "x"_a,
        "copies"_a = 1, "rotation"_a = "activation", "seconds"_a = 0.2,
        "(seconds of the best product, bytes of weights that it reads); `copies` of the matrix in "
        "turn.");
}

}  // namespace hrun::bindings
