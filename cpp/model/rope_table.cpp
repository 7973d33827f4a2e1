#include "model/rope_table.h"

#include <algorithm>
#include <cmath>

#include "base/kv_page.h"
#include "base/math64.h"

namespace hrun {
namespace {

constexpr double kTwoPi = 6.283185307179586476925;

// YaRN (Peng et al. 2023): the pair whose wavelength makes `rotations` turns in the original
// context.
double yarn_pair(const RopeParams& p, double rotations) {
  const auto n_rot = static_cast<double>(p.n_rot);
  return n_rot * math64::log(p.original_ctx / (rotations * kTwoPi)) / (2 * math64::log(p.base));
}

}  // namespace

std::vector<double> rope_frequencies(const RopeParams& p, std::span<const float> factors) {
  const auto pairs = static_cast<size_t>(p.n_rot / 2);
  std::vector<double> frequency(pairs);
  double low = 0, high = 0;
  if (p.scaling == RopeScaling::yarn) {
    low = yarn_pair(p, p.yarn_beta_fast);
    high = yarn_pair(p, p.yarn_beta_slow);
    if (p.yarn_truncates) low = std::floor(low), high = std::ceil(high);
    low = std::max(0.0, low);
    high = std::min(static_cast<double>(p.n_rot - 1), high);
  }
  for (size_t i = 0; i < pairs; ++i) {
    const double exponent = -2.0 * static_cast<double>(i) / static_cast<double>(p.n_rot);
    double f = math64::pow(p.base, exponent);
    if (!factors.empty()) f /= static_cast<double>(factors[i]);
    switch (p.scaling) {
      case RopeScaling::none:
      case RopeScaling::llama3:  // already in the factors
      case RopeScaling::longrope:
        break;
      case RopeScaling::linear:
        f /= p.factor;
        break;
      case RopeScaling::yarn: {
        // Fast pairs keep their frequency, slow ones are interpolated, with a linear ramp between.
        const double ramp =
            std::clamp((static_cast<double>(i) - low) / std::max(0.001, high - low), 0.0, 1.0);
        f = f * (1 - ramp) + f / p.factor * ramp;
        break;
      }
    }
    frequency[i] = f;
  }
  return frequency;
}

RopeTable make_rope_table(const RopeParams& p, std::span<const float> factors,
                          int64_t n_positions) {
  const std::vector<double> frequency = rope_frequencies(p, factors);
  double magnitude = p.attn_factor;
  if (p.scaling == RopeScaling::yarn && p.factor > 1) magnitude *= 1 + 0.1 * math64::log(p.factor);
  RopeTable table;
  const size_t size = frequency.size() * static_cast<size_t>(n_positions);
  table.cos.reserve(size);
  table.sin.reserve(size);
  std::vector<double> cos_sum(frequency.size()), sin_sum(frequency.size());
  for (int64_t position = 0; position < n_positions; ++position) {
    double length = magnitude;
    if (p.temperature > 0)
      length *= 1 + p.temperature *
                        math64::log(1 + std::floor(static_cast<double>(position) / p.original_ctx));
    for (size_t i = 0; i < frequency.size(); ++i) {
      double c, s;
      math64::cos_sin(static_cast<double>(position) * frequency[i], c, s);
      table.cos.push_back(static_cast<float>(c * length));
      table.sin.push_back(static_cast<float>(s * length));
      cos_sum[i] += c;
      sin_sum[i] += s;
    }
    if (position % kPagePositions != kPagePositions - 1) continue;
    constexpr double kMean = 1.0 / kPagePositions;
    for (size_t i = 0; i < frequency.size(); ++i) {
      table.block_cos.push_back(static_cast<float>(cos_sum[i] * kMean * magnitude));
      table.block_sin.push_back(static_cast<float>(sin_sum[i] * kMean * magnitude));
      cos_sum[i] = sin_sum[i] = 0;
    }
  }
  return table;
}

}  // namespace hrun
