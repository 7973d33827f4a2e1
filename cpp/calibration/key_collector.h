// The mean of keys and their balance against the queries, collected while a model runs over text,
// for files that bring them to coded caches (cpu/backend/coded_cache.cpp has what they are for).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "model/forward.h"

namespace hrun {

class KeyCollector : public MatmulObserver {
 public:
  // The layers may run one after the other, each in a model of its own that is gone when the next
  // one runs.
  explicit KeyCollector(int64_t n_layers);

  void matmul_input(Backend&, std::span<const MatmulTarget>, const MatmulInput&) override {}
  void slice_input(Backend&, const DeviceTensor&, const MatmulInput&) override {}
  void keys(Backend& backend, int64_t layer, const KeysOfPass& seen) override;

  // [n_kv_heads * k_dim] each; empty where the layer had no keys to see.
  struct Tables {
    std::vector<float> mean, balance;
  };
  Tables tables(int64_t layer) const;

 private:
  // Sums over positions, [n_kv_heads * k_dim]: keys that are turned back, times the table's
  // stretch; squares of keys; squares of the queries that read them.
  struct Sums {
    std::vector<double> keys, k2, q2;
    std::vector<float> stretch;  // of each pair
    Rope rope{};                 // without its tables, which are the model's
    bool turned = false;
    int k_dim = 0;
    int64_t n = 0;
  };
  std::vector<Sums> layers_;
};

}  // namespace hrun
