// Norm, rotary embedding, activation function, sums: one token at a time.
#pragma once

#include "cpu/vector_kernels.h"
#include "cpu/lanes/math.h"

namespace hrun {
namespace {

// The sum of squares runs in 16 lanes and the fixed tree; square root and divisions are IEEE's.
float norm_inverse_kernel(const float* x, float eps, int64_t n_values) {
  Lanes squares = splat(0.0f);
  for_lanes(n_values, [&](int64_t i, int n) {
    const Lanes v = load_n(x + i, n);
    squares = fma(v, v, squares);
  });
  const float mean = reduce_add(squares) / static_cast<float>(n_values);
  return 1.0f / __builtin_sqrtf(mean + eps);
}

void rms_norm_kernel(const float* x, const float* weight, float eps, int64_t n_values, float* out) {
  const Lanes inverse = splat(norm_inverse_kernel(x, eps, n_values));
  for_lanes(n_values, [&](int64_t i, int n) {
    store_n(out + i, mul(mul(load_n(x + i, n), inverse), load_n(weight + i, n)), n);
  });
}

void rope_kernel(float* x, int n_heads, int64_t head_dim, int n_rot, RopeStyle style,
                 const float* cos, const float* sin) {
  const int half = n_rot / 2;
  for (int head = 0; head < n_heads; ++head) {
    float* const h = x + head * head_dim;
    if (style == RopeStyle::interleaved) {
      for (int i = 0; i < half; ++i) {
        const float a = h[2 * i], b = h[2 * i + 1];
        h[2 * i] = a * cos[i] - b * sin[i];
        h[2 * i + 1] = a * sin[i] + b * cos[i];
      }
    } else {
      for (int i = 0; i < half; ++i) {
        const float a = h[i], b = h[i + half];
        h[i] = a * cos[i] - b * sin[i];
        h[i + half] = a * sin[i] + b * cos[i];
      }
    }
  }
}

void to_fp16_kernel(const float* x, int64_t n_values, uint16_t* out) {
  int64_t i = 0;
  for (; i + kLanes <= n_values; i += kLanes) store_f16(out + i, load(x + i));
  for (; i < n_values; ++i) out[i] = fp32_to_fp16(x[i]);
}

void silu_mul_kernel(const float* gate, const float* up, int64_t n_values, float* out) {
  for_lanes(n_values, [&](int64_t i, int n) {
    store_n(out + i, mul(silu(load_n(gate + i, n)), load_n(up + i, n)), n);
  });
}

struct Spread {
  float mean, variance;
};

Spread spread_of(const float* x, int64_t n_values) {
  Lanes sum = splat(0.0f);
  for_lanes(n_values, [&](int64_t i, int n) { sum = add(sum, load_n(x + i, n)); });
  const auto count = static_cast<float>(n_values);
  const float mean = reduce_add(sum) / count;
  Lanes squares = splat(0.0f);
  for_lanes(n_values, [&](int64_t i, int n) {
    float centred[kLanes] = {};
    store_n(centred, sub(load_n(x + i, n), splat(mean)), n);
    squares = fma(load(centred), load(centred), squares);
  });
  return {mean, reduce_add(squares) / count};
}

void layer_norm_kernel(const float* x, const float* weight, const float* bias, float eps,
                       int64_t n_values, float* out) {
  const Spread spread = spread_of(x, n_values);
  const Lanes mean = splat(spread.mean);
  const Lanes inverse = splat(1.0f / __builtin_sqrtf(spread.variance + eps));
  for_lanes(n_values, [&](int64_t i, int n) {
    const Lanes y = mul(mul(sub(load_n(x + i, n), mean), inverse), load_n(weight + i, n));
    store_n(out + i, bias ? add(y, load_n(bias + i, n)) : y, n);
  });
}

void keep_above_kernel(float* x, float deviations, int64_t n_values) {
  const Spread spread = spread_of(x, n_values);
  const Lanes cutoff =
      fma(splat(deviations), splat(__builtin_sqrtf(spread.variance)), splat(spread.mean));
  for_lanes(n_values, [&](int64_t i, int n) {
    store_n(x + i, max(splat(0.0f), sub(load_n(x + i, n), cutoff)), n);
  });
}

// Applies f to each value in x.
Lanes activated(Nonlinearity f, Lanes x) {
  switch (f) {
    case Nonlinearity::silu:
      return silu(x);
    case Nonlinearity::sigmoid:
      return sigmoid(x);
    case Nonlinearity::gelu:
      return gelu(x);
    case Nonlinearity::gelu_erf:
      return gelu_erf(x);
    case Nonlinearity::relu_squared: {
      const Lanes positive = max(splat(0.0f), x);
      return mul(positive, positive);
    }
    case Nonlinearity::softplus:
      return softplus(x);
    case Nonlinearity::slow_decay:
      return slow_decay(x);
    case Nonlinearity::linear:
    case Nonlinearity::clamped_silu:  // of two values: clamped_silu()
    case Nonlinearity::xielu:         // has numbers of its own: xielu()
    case Nonlinearity::count:
      break;
  }
  return x;
}

void gated_kernel(Nonlinearity f, const float* gate, const float* up, int64_t n_values,
                  float* out) {
  for_lanes(n_values, [&](int64_t i, int n) {
    const Lanes g = load_n(gate + i, n), u = load_n(up + i, n);
    store_n(out + i, f == Nonlinearity::clamped_silu ? clamped_silu(g, u) : mul(activated(f, g), u),
            n);
  });
}

void nonlinearity_kernel(Nonlinearity f, const float* x, int64_t n_values, float* out) {
  for_lanes(n_values,
            [&](int64_t i, int n) { store_n(out + i, activated(f, load_n(x + i, n)), n); });
}

void xielu_kernel(float* x, const Xielu& f, int64_t n_values) {
  const Lanes p = splat(f.alpha_p), m = splat(f.alpha_n), beta = splat(f.beta), eps = splat(f.eps);
  for_lanes(n_values,
            [&](int64_t i, int n) { store_n(x + i, xielu(load_n(x + i, n), p, m, beta, eps), n); });
}

void scale_kernel(float* x, float factor, int64_t n_values) {
  for_lanes(n_values,
            [&](int64_t i, int n) { store_n(x + i, mul(load_n(x + i, n), splat(factor)), n); });
}

void soft_cap_kernel(float* x, float cap, int64_t n_values) {
  for_lanes(n_values,
            [&](int64_t i, int n) { store_n(x + i, soft_cap(load_n(x + i, n), splat(cap)), n); });
}

void add_scaled_kernel(float* x, float factor, const float* y, int64_t n_values) {
  for_lanes(n_values, [&](int64_t i, int n) {
    store_n(x + i, fma(splat(factor), load_n(y + i, n), load_n(x + i, n)), n);
  });
}

void add_kernel(float* x, const float* y, int64_t n_values) {
  for_lanes(n_values,
            [&](int64_t i, int n) { store_n(x + i, add(load_n(x + i, n), load_n(y + i, n)), n); });
}

void exp_kernel(const float* x, int64_t n_values, float* out) {
  for_lanes(n_values, [&](int64_t i, int n) { store_n(out + i, exp(load_n(x + i, n)), n); });
}

int64_t read_memory_kernel(const uint8_t* p, size_t n) {
  IntLanes sums[4] = {splat_int(0), splat_int(0), splat_int(0), splat_int(0)};
  for (size_t i = 0; i + 256 <= n; i += 256) {
    for (size_t line = 0; line < 256; line += 64) __builtin_prefetch(p + i + 2048 + line);
    for (size_t k = 0; k < 4; ++k)
      sums[k] = add(sums[k], load_pairs(reinterpret_cast<const int16_t*>(p + i + 64 * k)));
  }
  return reduce_add(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

}  // namespace
}  // namespace hrun
