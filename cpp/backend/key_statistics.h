// What coded caches want to know of keys and queries, and how it follows from sums over positions.
#pragma once

#include <cmath>
#include <cstring>

#include "backend/backend.h"

namespace hrun {

// Calls f(a, b, j) for the dimensions a and b of each pair that is turned.
template <class Function>
void for_pairs(const Rope* rope, Function&& f) {
  if (!rope) return;
  const bool interleaved = rope->style == RopeStyle::interleaved;
  for (int j = 0; j < rope->n_rot / 2; ++j) {
    const int a = rope->first + (interleaved ? 2 * j : j);
    f(a, interleaved ? a + 1 : a + rope->n_rot / 2, j);
  }
}

// The square of what the rotary table multiplies the length of pair j by.
inline float stretch_of(const float* cos, int j) { return cos[j] * cos[j]; }

// A balance with which keys can be multiplied, and queries divided.
inline float checked_balance(float x) { return x > 1e-6f && x < 1e6f ? x : 1.0f; }

// Gives keys and queries equal parts in every channel, from the sums of their squares, of which the
// two of a pair become one.  The fourth power of a channel's balance is the queries' sum over the
// keys'.
inline void balance_of_squares(const Rope* rope, int dim, float* k2, float* q2, float* balance) {
  constexpr float kLeast = 0.01f;  // of the mean
  float k_mean = 0, q_mean = 0;
  for (float* const sums : {k2, q2})
    for_pairs(rope, [&](int a, int b, int) { sums[a] = sums[b] = (sums[a] + sums[b]) / 2; });
  for (int i = 0; i < dim; ++i) k_mean += k2[i], q_mean += q2[i];
  k_mean /= static_cast<float>(dim), q_mean /= static_cast<float>(dim);
  for (int i = 0; i < dim; ++i) {
    const float ratio = (q2[i] + kLeast * q_mean) / (k2[i] + kLeast * k_mean);
    balance[i] = checked_balance(std::sqrt(std::sqrt(ratio)));  // also where it is not a number
  }
}

}  // namespace hrun
