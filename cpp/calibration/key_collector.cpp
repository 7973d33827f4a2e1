#include "calibration/key_collector.h"

#include <algorithm>

#include "base/error.h"
#include "backend/key_statistics.h"
#include "formats/cache_codes.h"

namespace hrun {
namespace {

std::vector<float> read_floats(Backend& backend, const float* from, int64_t n) {
  std::vector<float> out(static_cast<size_t>(n));
  backend.read(from, {reinterpret_cast<uint8_t*>(out.data()), out.size() * sizeof(float)});
  return out;
}

}  // namespace

KeyCollector::KeyCollector(int64_t n_layers) {
  if (n_layers < 1) throw ArgumentError("{} layers: a model has at least one", n_layers);
  layers_.resize(static_cast<size_t>(n_layers));
}

void KeyCollector::keys(Backend& backend, int64_t layer, const KeysOfPass& seen) {
  if (layer >= static_cast<int64_t>(layers_.size()))
    throw ArgumentError("layer {}: the keys of {} are collected", layer, layers_.size());
  Sums& sums = layers_[static_cast<size_t>(layer)];
  const int dim = static_cast<int>(seen.k.cols) / seen.n_kv_heads,
            group = seen.n_heads / seen.n_kv_heads;
  const auto n_values = static_cast<size_t>(seen.k.cols);
  const int half = seen.rope ? seen.rope->n_rot / 2 : 0;
  if (sums.n == 0) {
    for (auto* const of : {&sums.keys, &sums.k2, &sums.q2}) of->assign(n_values, 0.0);
    sums.k_dim = dim;
    if (seen.rope) {
      sums.rope = *seen.rope;
      sums.rope.cos = sums.rope.sin = sums.rope.block_cos = sums.rope.block_sin = nullptr;
      sums.turned = true;
      const std::vector<float> cos = read_floats(backend, seen.rope->cos, half);
      for (int j = 0; j < half; ++j) sums.stretch.push_back(stretch_of(cos.data(), j));
    }
  }
  for (int64_t row = 0; row < seen.k.rows; ++row) {
    const int64_t position = seen.positions[static_cast<size_t>(row)];
    if (position < kExactPositions) continue;  // caches keep them as they are
    const std::vector<float> k = read_floats(backend, seen.k.row(row), seen.k.cols),
                             q = read_floats(backend, seen.q.row(row), seen.q.cols);
    const std::vector<float> cos = half > 0 ? read_floats(backend, seen.rope->cos + position * half,
                                                          half)
                                            : std::vector<float>{},
                             sin = half > 0 ? read_floats(backend, seen.rope->sin + position * half,
                                                          half)
                                            : std::vector<float>{};
    for (int h = 0; h < seen.n_kv_heads; ++h) {
      const auto at = static_cast<size_t>(h * dim);
      std::vector<double> back(k.begin() + h * dim, k.begin() + (h + 1) * dim);
      for_pairs(seen.rope, [&](int a, int b, int j) {
        const auto i = static_cast<size_t>(j);
        const double c = cos[i], s = sin[i], x = k[at + static_cast<size_t>(a)],
                     y = k[at + static_cast<size_t>(b)];
        back[static_cast<size_t>(a)] = c * x + s * y;
        back[static_cast<size_t>(b)] = c * y - s * x;
      });
      for (size_t i = 0; i < static_cast<size_t>(dim); ++i) {
        sums.keys[at + i] += back[i];
        sums.k2[at + i] += static_cast<double>(k[at + i]) * k[at + i];
        for (int of = h * group; of < (h + 1) * group; ++of) {
          const double x = q[static_cast<size_t>(of * dim) + i];
          sums.q2[at + i] += x * x;
        }
      }
    }
    ++sums.n;
  }
}

KeyCollector::Tables KeyCollector::tables(int64_t layer) const {
  if (layer < 0 || layer >= static_cast<int64_t>(layers_.size()))
    throw ArgumentError("layer {}: the model has {}", layer, layers_.size());
  const Sums& sums = layers_[static_cast<size_t>(layer)];
  Tables out;
  if (sums.n == 0) return out;
  const auto dim = static_cast<size_t>(sums.k_dim), n_values = sums.keys.size();
  const auto n = static_cast<double>(sums.n);
  const Rope* const rope = sums.turned ? &sums.rope : nullptr;
  out.mean.resize(n_values);
  out.balance.resize(n_values);
  for (size_t at = 0; at < n_values; at += dim) {
    // What a pair's keys are multiplied by, where they are turned.
    std::vector<double> stretch(dim, 1.0);
    for_pairs(rope, [&](int a, int b, int j) {
      stretch[static_cast<size_t>(a)] = stretch[static_cast<size_t>(b)] =
          sums.stretch[static_cast<size_t>(j)];
    });
    std::vector<float> k2(dim), q2(dim);
    for (size_t i = 0; i < dim; ++i) {
      const double mean = sums.keys[at + i] / n / stretch[i];
      out.mean[at + i] = static_cast<float>(mean);
      k2[i] = static_cast<float>(std::max(0.0, sums.k2[at + i] / n));
      q2[i] = static_cast<float>(sums.q2[at + i] / n);
    }
    // Of a pair's squares the mean's part is the same wherever the pair is turned to.
    for_pairs(rope, [&](int a, int b, int) {
      for (float* const of : {k2.data(), q2.data()}) of[a] = of[b] = (of[a] + of[b]) / 2;
      const double x = out.mean[at + static_cast<size_t>(a)],
                   y = out.mean[at + static_cast<size_t>(b)];
      const double part = stretch[static_cast<size_t>(a)] * (x * x + y * y) / 2;
      k2[static_cast<size_t>(a)] = k2[static_cast<size_t>(b)] =
          static_cast<float>(std::max(0.0, k2[static_cast<size_t>(a)] - part));
    });
    for (size_t i = 0; i < dim; ++i) {
      const int d = static_cast<int>(i);
      if (rope && d >= rope->first && d < rope->first + rope->n_rot) continue;
      const double x = out.mean[at + i];
      k2[i] = static_cast<float>(std::max(0.0, k2[i] - x * x));
    }
    balance_of_squares(rope, sums.k_dim, k2.data(), q2.data(), out.balance.data() + at);
  }
  return out;
}

}  // namespace hrun
