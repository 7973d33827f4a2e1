// The rotation of cached keys and values.  It is an orthogonal transform of any head size that is a
// multiple of 16, and it is its own inverse.
//
// Let 2^k be the largest power of two that divides d.  Each of the d / 2^k pieces of 2^k values
// goes through the Walsh-Hadamard transform.  Where there is more than one piece, the values at the
// same place of all pieces are reflected at their mean.
#pragma once

#include "cpu/lanes/lanes.h"

namespace hrun {
namespace {

// The two forms of the rotation share this.  `at(i)` is value i.
template <class Load, class Store>
HRUN_HD void reflect_pieces(int piece, int n_pieces, int step, Load&& at, Store&& put) {
  if (n_pieces == 1) return;
  const Lanes factor = splat(2.0f / static_cast<float>(n_pieces));
  for (int i = 0; i < piece; i += step) {
    Lanes sum = at(i);
    for (int m = 1; m < n_pieces; ++m) sum = add(sum, at(m * piece + i));
    sum = mul(sum, factor);
    for (int m = 0; m < n_pieces; ++m) put(m * piece + i, sub(at(m * piece + i), sum));
  }
}

// x: [d] vectors of kLanes, each lane one that is rotated.
HRUN_HD void rotate_columns(float* x, int d) {
  const int piece = d & -d;
  for (int half = 1; half < piece; half *= 2)
    for (int i = 0; i < d; i += 2 * half)
      for (int j = i; j < i + half; ++j) {
        float *const low = x + j * kLanes, *const high = low + half * kLanes;
        const Lanes a = load(low), b = load(high);
        store(low, add(a, b));
        store(high, sub(a, b));
      }
  const Lanes factor = splat(1.0f / __builtin_sqrtf(static_cast<float>(piece)));
  for (int i = 0; i < d; ++i) store(x + i * kLanes, mul(load(x + i * kLanes), factor));
  reflect_pieces(
      piece, d / piece, 1, [&](int i) { return load(x + i * kLanes); },
      [&](int i, Lanes v) { store(x + i * kLanes, v); });
}

// x: [d], one vector.
HRUN_HD void rotate_row(float* x, int d) {
  const int piece = d & -d;
  for (int i = 0; i < d; i += kLanes)
    store(x + i, butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(load(x + i))))));
  for (int half = kLanes; half < piece; half *= 2)
    for (int i = 0; i < d; i += 2 * half)
      for (int j = i; j < i + half; j += kLanes) {
        const Lanes a = load(x + j), b = load(x + j + half);
        store(x + j, add(a, b));
        store(x + j + half, sub(a, b));
      }
  const Lanes factor = splat(1.0f / __builtin_sqrtf(static_cast<float>(piece)));
  for (int i = 0; i < d; i += kLanes) store(x + i, mul(load(x + i), factor));
  reflect_pieces(
      piece, d / piece, kLanes, [&](int i) { return load(x + i); },
      [&](int i, Lanes v) { store(x + i, v); });
}

}  // namespace
}  // namespace hrun
