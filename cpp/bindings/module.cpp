// hrun._core: translation between C++ and Python, nothing else.  One init function per topic.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

namespace hrun::bindings {
void init_gil(nb::module_& m);
void init_errors(nb::module_& m);
void init_formats(nb::module_& m);
void init_gguf(nb::module_& m);
void init_cpu(nb::module_& m);
void init_runtime(nb::module_& m);
void init_engine(nb::module_& m);
void init_encoder(nb::module_& m);
void init_devices(nb::module_& m);
void init_calibration(nb::module_& m);
void init_tokenizer(nb::module_& m);
}  // namespace hrun::bindings

NB_MODULE(_core, m) {
  // At exit Python does not release what modules and test collectors still hold; that is no leak
  // worth a page of text.
  nb::set_leak_warnings(false);
  m.attr("__version__") = HRUN_VERSION;
  hrun::bindings::init_gil(m);
  hrun::bindings::init_errors(m);
  hrun::bindings::init_formats(m);
  hrun::bindings::init_gguf(m);
  hrun::bindings::init_cpu(m);
  hrun::bindings::init_runtime(m);
  hrun::bindings::init_engine(m);
  hrun::bindings::init_encoder(m);
  hrun::bindings::init_devices(m);
  hrun::bindings::init_calibration(m);
  hrun::bindings::init_tokenizer(m);
}
