// A MomentCollector that Python threads share.
#pragma once

#include <memory>
#include <utility>

#include "bindings/gil.h"
#include "calibration/moments.h"

namespace hrun::bindings {

struct PyMomentCollector {
  PyMomentCollector(std::shared_ptr<Model> model, int64_t block_width, int n_threads)
      : collector(std::move(model), block_width, n_threads) {}

  MomentCollector collector;
  CallMutex mutex;
};

}  // namespace hrun::bindings
