#include <nanobind/nanobind.h>

#include <new>

#include "base/error.h"

namespace nb = nanobind;

namespace hrun::bindings {

void init_errors(nb::module_& m) {
  // hrun.Error and under it one class per C++ type; ArgumentError is a ValueError too.
  auto base = nb::exception<Error>(m, "Error");
  nb::exception<ModelFileError>(m, "ModelFileError", base);
  nb::exception<UnsupportedModelError>(m, "UnsupportedModelError", base);
  nb::exception<ContextOverflowError>(m, "ContextOverflowError", base);
  nb::exception<OutOfMemoryError>(m, "OutOfMemoryError", base);
  nb::exception<DeviceError>(m, "DeviceError", base);
  nb::exception<ConversionError>(m, "ConversionError", base);
  nb::exception<GenerationError>(m, "GenerationError", base);
  nb::exception<ArgumentError>(m, "ArgumentError",
                               nb::make_tuple(base, nb::handle(PyExc_ValueError)));
  nb::exception<QueueFullError>(m, "QueueFullError", base);
  nb::exception<Cancelled>(m, "Cancelled", base);
}

}  // namespace hrun::bindings
