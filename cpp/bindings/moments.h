// Observers that Python threads share.
#pragma once

#include <memory>
#include <utility>

#include "bindings/gil.h"
#include "calibration/key_collector.h"
#include "calibration/moments.h"

namespace hrun::bindings {

struct PyObserver {
  virtual ~PyObserver() = default;
  virtual MatmulObserver& observer() = 0;

  CallMutex mutex;
};

struct PyMomentCollector : PyObserver {
  PyMomentCollector(std::shared_ptr<Model> model, int64_t block_width, int n_threads)
      : collector(std::move(model), block_width, n_threads) {}
  MatmulObserver& observer() override { return collector; }

  MomentCollector collector;
};

struct PyKeyCollector : PyObserver {
  explicit PyKeyCollector(int64_t n_layers) : collector(n_layers) {}
  MatmulObserver& observer() override { return collector; }

  KeyCollector collector;
};

}  // namespace hrun::bindings
