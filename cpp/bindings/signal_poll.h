// Long calls without the GIL look up now and then.
#pragma once

#include <nanobind/nanobind.h>

#include <chrono>

#include "bindings/gil.h"

namespace hrun::bindings {

// Checks for the end of the interpreter, and at most every 20 ms for Ctrl-C, without the GIL.
class SignalPoll {
 public:
  void operator()() {
    require_running();
    const auto now = std::chrono::steady_clock::now();
    if (now - last_ < std::chrono::milliseconds(20)) return;
    last_ = now;
    with_gil([] {
      if (PyErr_CheckSignals() != 0) throw nanobind::python_error();
    });
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

}  // namespace hrun::bindings
