// Least-squares searches for the scales and codes of a block: what the encoders of the quantized
// formats share.
//
// Every search minimises sum_i importance[i] * (weight[i] - decoded[i])^2 over one block.  A search
// yields the block's integer view (format.h); the format then only packs it.  The method is the
// same throughout: try some scales per group, round, fit the scale by least squares, round again;
// then choose the integer scales against the fp16 scale that will really be stored, and refit that
// one.  Plain host code, compiled once; nothing here is on a matmul's path.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "formats/format.h"

namespace hrun::search {

// A block to encode, scaled by a power of two so that its largest magnitude lies in [0.5, 1): sums
// of squares neither overflow nor vanish, and scaling back is exact.
struct Target {
  int n = 0;
  int exponent = 0;  // weight = x * 2^exponent
  bool zero = true;  // all weights are 0: x and exponent are not set
  std::array<float, kMaxBlock> x;
  std::array<float, kMaxBlock> importance;  // relative: mean 1 over the block

  Target(const float* weights, const float* column_importance, int count) : n(count) {
    float largest = 0;
    for (int i = 0; i < n; ++i) largest = std::fmax(largest, std::fabs(weights[i]));
    zero = largest == 0;
    if (zero) return;
    std::frexp(largest, &exponent);
    for (int i = 0; i < n; ++i) x[static_cast<size_t>(i)] = std::ldexp(weights[i], -exponent);
    double sum = 0;
    if (column_importance)
      for (int i = 0; i < n; ++i) sum += column_importance[i];
    // Columns that the calibration never excited still get a little, so that no scale is left
    // undetermined.
    constexpr double kFloor = 1e-5;
    for (int i = 0; i < n; ++i)
      importance[static_cast<size_t>(i)] =
          sum > 0 ? static_cast<float>(column_importance[i] / sum * n + kFloor) : 1.0f;
  }

  // The scale nearest to `s` that an fp16 field can hold, both in units of x.  A scale too small
  // for fp16 becomes the smallest one: the integer scales below can make up for it.
  float storable(float s) const {
    if (s == 0) return 0;
    float stored = fp16_to_fp32(fp32_to_fp16(std::ldexp(s, exponent)));
    if (stored == 0) stored = 0x1p-24f;
    return std::ldexp(std::copysign(stored, s), -exponent);
  }
  // The same, but not smaller: so that integer scales chosen for `s` stay in their range where fp16
  // is coarse.
  float storable_above(float s) const {
    const float stored = storable(s);
    if (std::fabs(stored) >= std::fabs(s)) return stored;
    // The next pattern of the same sign is the next fp16 away from 0.
    const auto next = static_cast<uint16_t>(fp32_to_fp16(unscaled(stored)) + 1);
    return std::ldexp(fp16_to_fp32(next), -exponent);
  }
  // In units of the weights, exact for a storable scale.
  float unscaled(float s) const { return std::ldexp(s, exponent); }
};

// Round to an integer between kLow and kHigh; vectorizable on every CPU.
template <int kLow, int kHigh>
float round_within(float v) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  v = v < kLow ? kLow : v;
  v = v > kHigh ? kHigh : v;
  return (v + kRound) - kRound;
}

// sum_i term(i) over i < n in four interleaved partial sums, which compilers may then vectorize.
template <int n, class Term>
float sum(Term&& term) {
  float lane[4] = {};
  for (int i = 0; i < n; i += 4)
    for (int k = 0; k < 4; ++k) lane[k] += term(i + k);
  return (lane[0] + lane[1]) + (lane[2] + lane[3]);
}

// Integer codes kLow ... kHigh.
template <int kLow, int kHigh>
struct IntegerLevels {
  static constexpr float kReach = kHigh > -kLow ? kHigh : -kLow;  // largest magnitude
  static constexpr bool kMirrored = kLow != -kHigh;  // a negative scale gives other levels
  // Trial scales put the largest weight at kReach * kFirstTrial ... kReach * kLastTrial.
  static constexpr float kFirstTrial = 1 - 0.5f / kReach;
  static constexpr float kLastTrial = kReach > 16 ? 1.05f : kReach > 8 ? 1.2f : 1.5f;
  static constexpr int kTrials = 16;

  // q[i] = the level nearest to x[i] * inverse.
  template <int n>
  static void nearest(const float* x, const float*, float inverse, float* q) {
    for (int i = 0; i < n; ++i) q[i] = round_within<kLow, kHigh>(x[i] * inverse);
  }
};

// The sums that least squares needs: error(s) = xx - 2 s xq + s^2 qq.
struct Fit {
  float xq = 0, qq = 0;
  float scale() const { return qq > 0 ? xq / qq : 0.0f; }
  float gain() const {
    return qq > 0 ? xq * xq / qq : 0.0f;
  }  // what the best scale takes off the error
};

template <int n>
Fit fit(const float* x, const float* importance, const float* q) {
  return {sum<n>([&](int i) { return importance[i] * q[i] * x[i]; }),
          sum<n>([&](int i) { return importance[i] * q[i] * q[i]; })};
}

template <int n>
float error(const float* x, const float* importance, const float* q, float scale,
            float offset = 0) {
  return sum<n>([&](int i) {
    const float e = x[i] - (scale * q[i] - offset);
    return importance[i] * e * e;
  });
}

// The real scale with which the levels L fit x best; 0 for zeros.
template <class L, int n>
float best_scale(const float* x, const float* importance) {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = std::fmax(largest, std::fabs(x[i]));
  if (largest == 0) return 0;
  float q[n];
  float best_gain = 0, best = 0;
  const auto consider = [&](float inverse) {
    if (!std::isfinite(inverse)) return false;
    L::template nearest<n>(x, importance, inverse, q);
    const Fit f = fit<n>(x, importance, q);
    if (!(f.gain() > best_gain)) return false;
    best_gain = f.gain();
    best = f.scale();
    return true;
  };
  for (int side = 0; side <= static_cast<int>(L::kMirrored); ++side)
    for (int k = 0; k < L::kTrials; ++k) {
      const float reach = L::kFirstTrial + (L::kLastTrial - L::kFirstTrial) *
                                               static_cast<float>(k) / (L::kTrials - 1);
      consider((side ? -1.0f : 1.0f) * L::kReach * reach / largest);
    }
  if constexpr (requires { L::kLeast; }) consider(L::kLeast / largest);
  for (int round = 0; round < 3 && best != 0 && consider(1.0f / best); ++round) {}
  return best;
}

// The integer scales kLow, kLow + kStep, ..., kHigh of groups.
template <int kLowest, int kHighest, int kStepping>
struct ScaleSet {
  static constexpr int kLow = kLowest, kHigh = kHighest, kStep = kStepping;
  // The scale of largest magnitude, to which the strongest group is mapped.
  static constexpr int kExtreme = kHigh >= -kLow ? kHigh : kLow;
  static int nearest(float v) {
    const float steps =
        std::clamp((v - kLow) / kStep, 0.0f, static_cast<float>((kHigh - kLow) / kStep));
    return kLow + kStep * static_cast<int>(steps + 0.5f);
  }
};

// The integer view of an encoded block; `offset` and `group_offset` only for the affine search.
struct Encoded {
  float scale = 0, offset = 0;  // representable in fp16
  std::array<int8_t, kMaxBlock> codes{};
  std::array<int, kMaxGroups> group_scale{}, group_offset{};  // per group of the search, not per 16
};

// weight = scale * group_scale[g] * code, codes from L, group scales from S, groups of kGroupSize
// weights.
template <class L, class S, int kGroupSize>
void scaled(const Target& t, Encoded& out) {
  constexpr int kGroups = kMaxBlock / kGroupSize;
  out = {};
  float ideal[kGroups] = {}, extreme = 0;
  if (!t.zero)
    for (int g = 0; g < kGroups; ++g) {
      ideal[g] = best_scale<L, kGroupSize>(&t.x[g * kGroupSize], &t.importance[g * kGroupSize]);
      if (std::fabs(ideal[g]) > std::fabs(extreme)) extreme = ideal[g];
    }
  // A block of zeros still needs codes that the format can pack.
  float q[kMaxBlock] = {}, best_q[kMaxBlock], zeros[kMaxBlock] = {};
  L::template nearest<kMaxBlock>(zeros, zeros, 0, best_q);
  out.group_scale.fill(S::nearest(0));
  if (extreme != 0) {
    float best_error = error<kMaxBlock>(t.x.data(), t.importance.data(), zeros, 0);
    float d = extreme / S::kExtreme;
    std::array<int, kMaxGroups> scales{};
    for (int round = 0; round < 3; ++round) {
      d = round == 0 ? t.storable_above(d) : t.storable(d);
      float total = 0;
      Fit all;
      for (int g = 0; g < kGroups; ++g) {
        const float *x = &t.x[g * kGroupSize], *importance = &t.importance[g * kGroupSize];
        const int middle = S::nearest(ideal[g] / d);
        float group_error = HUGE_VALF, trial[kGroupSize];
        for (int s = std::max(S::kLow, middle - S::kStep);
             s <= std::min(S::kHigh, middle + S::kStep); s += S::kStep) {
          const float scale = d * static_cast<float>(s);
          L::template nearest<kGroupSize>(x, importance, s ? 1.0f / scale : 0.0f, trial);
          const float e = error<kGroupSize>(x, importance, trial, scale);
          if (e < group_error) {
            group_error = e;
            scales[g] = s;
            std::copy_n(trial, kGroupSize, q + g * kGroupSize);
          }
        }
        total += group_error;
        const Fit f = fit<kGroupSize>(x, importance, q + g * kGroupSize);
        all.xq += f.xq * static_cast<float>(scales[g]);
        all.qq += f.qq * static_cast<float>(scales[g] * scales[g]);
      }
      if (total < best_error) {
        best_error = total;
        out.scale = t.unscaled(d);
        out.group_scale = scales;
        std::copy_n(q, kMaxBlock, best_q);
      }
      const float refit = t.storable(all.scale());
      if (refit == 0 || refit == d) break;
      d = refit;
    }
  }
  for (int i = 0; i < kMaxBlock; ++i) out.codes[i] = static_cast<int8_t>(best_q[i]);
}

// weight = scale * code in one group of n, the scale in fp16: the 32-wide formats.
template <class L, int n>
void single(const Target& t, Encoded& out) {
  out = {};
  const float zeros[n] = {};
  float q[n];
  const float d = t.zero ? 0.0f : t.storable(best_scale<L, n>(t.x.data(), t.importance.data()));
  if (d != 0) L::template nearest<n>(t.x.data(), t.importance.data(), 1.0f / d, q);
  // fp16 may have no scale small enough.
  const bool better_than_zeros = d != 0 && error<n>(t.x.data(), t.importance.data(), q, d) <
                                               error<n>(t.x.data(), t.importance.data(), zeros, 0);
  if (better_than_zeros)
    out.scale = t.unscaled(d);
  else
    L::template nearest<n>(zeros, zeros, 0, q);
  for (int i = 0; i < n; ++i) out.codes[i] = static_cast<int8_t>(q[i]);
}

// A group as a line: x = scale * q - offset, q = 0 ... kHighest.
struct Line {
  float scale = 0, offset = 0;
};

// The sums over x, q and 1 that fit a line by least squares.
struct LineFit {
  double x1 = 0, xq = 0, q1 = 0, qq = 0, one = 0;

  template <int n>
  static LineFit of(const float* x, const float* w, const float* q) {
    return {sum<n>([&](int i) { return w[i] * x[i]; }),
            sum<n>([&](int i) { return w[i] * q[i] * x[i]; }),
            sum<n>([&](int i) { return w[i] * q[i]; }),
            sum<n>([&](int i) { return w[i] * q[i] * q[i]; }), sum<n>([&](int i) { return w[i]; })};
  }
  // Adds the sums of a group whose q counts `scale` times and whose 1 counts `offset` times.
  void add_scaled(double scale, double offset, const LineFit& f) {
    x1 += offset * f.x1;
    xq += scale * f.xq;
    q1 += scale * offset * f.q1;
    qq += scale * scale * f.qq;
    one += offset * offset * f.one;
  }
  // The best line; with `only_down` its offset is not negative.
  Line solve(bool only_down) const {
    const double determinant = qq * one - q1 * q1;
    if (determinant > 1e-9 * qq * one) {
      const double scale = (xq * one - x1 * q1) / determinant,
                   offset = (xq * q1 - x1 * qq) / determinant;
      if (!only_down || offset >= 0) return {static_cast<float>(scale), static_cast<float>(offset)};
    }
    return {qq > 0 ? static_cast<float>(xq / qq) : 0.0f, 0.0f};
  }
};

template <int kHighest, int n>
void nearest_on_line(const float* x, Line line, float* q) {
  const float inverse = line.scale != 0 ? 1.0f / line.scale : 0.0f;
  for (int i = 0; i < n; ++i) q[i] = round_within<0, kHighest>((x[i] + line.offset) * inverse);
}

// The line that fits best with codes 0 ... kHighest.
template <int kHighest, int n>
Line best_line(const float* x, const float* importance, bool only_down) {
  float low = x[0], high = x[0];
  for (int i = 1; i < n; ++i) {
    low = std::fmin(low, x[i]);
    high = std::fmax(high, x[i]);
  }
  if (only_down) low = std::fmin(low, 0.0f);
  float best_error = HUGE_VALF;
  Line best;
  float q[n];
  const auto consider = [&](Line line) {
    if (!(line.scale > 0)) return Line{};
    nearest_on_line<kHighest, n>(x, line, q);
    const Line fitted = LineFit::of<n>(x, importance, q).solve(only_down);
    const float e = error<n>(x, importance, q, fitted.scale, fitted.offset);
    if (!(e < best_error)) return Line{};
    best_error = e;
    best = fitted;
    return fitted;
  };
  // Trial ranges: the extremes, and both ends pulled in by up to a good step.
  const float step = (high - low) / kHighest;
  constexpr int kTrials = 12;
  for (int k = 0; k < kTrials; ++k) {
    const float cut = step * (-0.3f + 1.8f * static_cast<float>(k) / (kTrials - 1)) /
                      (kHighest > 7 ? 1.0f : 2.0f);
    consider(
        {(high - low - 2 * cut) / kHighest, only_down ? std::fmax(-low - cut, 0.0f) : -low - cut});
  }
  for (int round = 0; round < 4; ++round)
    if (consider(best).scale == 0) break;
  if (best_error == HUGE_VALF) best = {0, -low};  // all values equal
  return best;
}

// weight = scale * code - offset in one group of n, both in fp16: the affine 32-wide formats.
template <int kHighest, int n>
void single_line(const Target& t, Encoded& out) {
  out = {};
  if (t.zero) return;
  Line line = best_line<kHighest, n>(t.x.data(), t.importance.data(), false);
  line = {t.storable(line.scale), t.storable(line.offset)};
  float q[n], zeros[n] = {};
  nearest_on_line<kHighest, n>(t.x.data(), line, q);
  const auto error_of = [&](const float* codes, Line l) {
    return error<n>(t.x.data(), t.importance.data(), codes, l.scale, l.offset);
  };
  if (!(error_of(q, line) < error_of(zeros, {}))) return;  // fp16 may have no scale small enough
  out.scale = t.unscaled(line.scale);
  out.offset = t.unscaled(line.offset);
  for (int i = 0; i < n; ++i) out.codes[i] = static_cast<int8_t>(q[i]);
}

// weight = scale * group_scale[g] * code - offset * group_offset[g] with codes 0 ... kHighest and
// group scales and offsets 0 ... kScaleMax: the affine k-quants.
template <int kHighest, int kScaleMax, int kGroupSize>
void affine(const Target& t, Encoded& out) {
  constexpr int kGroups = kMaxBlock / kGroupSize;
  out = {};
  if (t.zero) return;
  Line ideal[kGroups], shared;
  for (int g = 0; g < kGroups; ++g) {
    ideal[g] =
        best_line<kHighest, kGroupSize>(&t.x[g * kGroupSize], &t.importance[g * kGroupSize], true);
    shared.scale = std::fmax(shared.scale, ideal[g].scale / kScaleMax);
    shared.offset = std::fmax(shared.offset, ideal[g].offset / kScaleMax);
  }
  float q[kMaxBlock] = {}, best_q[kMaxBlock] = {};
  float best_error = error<kMaxBlock>(t.x.data(), t.importance.data(), q, 0);
  std::array<int, kMaxGroups> scales{}, offsets{};
  for (int round = 0; round < 4; ++round) {
    if (round == 0)
      shared = {t.storable_above(shared.scale), t.storable_above(shared.offset)};
    else
      shared = {t.storable(shared.scale), t.storable(shared.offset)};
    if (!(shared.scale > 0 || shared.offset > 0)) break;
    float total = 0;
    LineFit all;
    for (int g = 0; g < kGroups; ++g) {
      const float *x = &t.x[g * kGroupSize], *importance = &t.importance[g * kGroupSize];
      const auto nearest = [](float v, float unit) {
        return unit > 0 ? static_cast<int>(
                              std::clamp(v / unit, 0.0f, static_cast<float>(kScaleMax)) + 0.5f)
                        : 0;
      };
      const int s_middle = nearest(ideal[g].scale, shared.scale),
                m_middle = nearest(ideal[g].offset, shared.offset);
      float group_error = HUGE_VALF, trial[kGroupSize];
      for (int s = std::max(0, s_middle - 1); s <= std::min(kScaleMax, s_middle + 1); ++s)
        for (int m = std::max(0, m_middle - 1); m <= std::min(kScaleMax, m_middle + 1); ++m) {
          const Line line{shared.scale * static_cast<float>(s),
                          shared.offset * static_cast<float>(m)};
          nearest_on_line<kHighest, kGroupSize>(x, line, trial);
          const float e = error<kGroupSize>(x, importance, trial, line.scale, line.offset);
          if (e < group_error) {
            group_error = e;
            scales[g] = s;
            offsets[g] = m;
            std::copy_n(trial, kGroupSize, q + g * kGroupSize);
          }
        }
      total += group_error;
      all.add_scaled(scales[g], offsets[g],
                     LineFit::of<kGroupSize>(x, importance, q + g * kGroupSize));
    }
    if (total < best_error) {
      best_error = total;
      out.scale = t.unscaled(shared.scale);
      out.offset = t.unscaled(shared.offset);
      out.group_scale = scales;
      out.group_offset = offsets;
      std::copy_n(q, kMaxBlock, best_q);
    }
    const Line refit = all.solve(true);
    if (t.storable(refit.scale) == shared.scale && t.storable(refit.offset) == shared.offset) break;
    shared = refit;
  }
  for (int i = 0; i < kMaxBlock; ++i) out.codes[i] = static_cast<int8_t>(best_q[i]);
}

}  // namespace hrun::search
