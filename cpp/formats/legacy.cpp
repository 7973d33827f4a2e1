// Encoders of the 32-wide formats.  Without importance they round as GGML's reference encoders do, bit for bit.
#include "formats/legacy.h"

#include <algorithm>
#include <cmath>

namespace hrun {
namespace {

// 1 / d, or 0 where d is 0 or so small that its reciprocal overflows (fp16 stores such a d as 0).
float reciprocal(float d) {
  const float inverse = 1.0f / d;
  return d != 0 && std::isfinite(inverse) ? inverse : 0.0f;
}

int truncate_to(float value, int highest) {
  return std::min(static_cast<int>(std::min(value, 255.0f)), highest);
}

void pack_nibbles(const int* q, uint8_t* bytes) {
  for (int i = 0; i < 16; ++i) bytes[i] = static_cast<uint8_t>((q[i] & 15) | ((q[i + 16] & 15) << 4));
}

void pack_fifth_bits(const int* q, uint8_t* bytes) {
  for (int k = 0; k < 4; ++k) {
    int byte = 0;
    for (int i = 0; i < 8; ++i) byte |= (q[8 * k + i] >> 4) << i;
    bytes[k] = static_cast<uint8_t>(byte);
  }
}

// d = -(the value of largest magnitude) / half: that value gets code 0, which reaches one step further than the highest.
float round_symmetric(const float* w, int half, int* q) {
  float largest = 0;
  for (int i = 0; i < 32; ++i)
    if (std::fabs(w[i]) > std::fabs(largest)) largest = w[i];
  const float d = largest / static_cast<float>(-half);
  const float inverse = reciprocal(d);
  for (int i = 0; i < 32; ++i)
    q[i] = truncate_to(w[i] * inverse + (static_cast<float>(half) + 0.5f), 2 * half - 1);
  return d;
}

struct Line {
  float d, m;
};

Line round_affine(const float* w, int highest, int* q) {
  float low = w[0], high = w[0];
  for (int i = 1; i < 32; ++i) {
    low = std::fmin(low, w[i]);
    high = std::fmax(high, w[i]);
  }
  const float d = (high - low) / static_cast<float>(highest);
  const float inverse = reciprocal(d);
  for (int i = 0; i < 32; ++i) q[i] = truncate_to((w[i] - low) * inverse + 0.5f, highest);
  return {d, low};
}

}  // namespace

void Q4_0::encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t b = 0; b < cols; b += 32, out += kBlockBytes) {
    int q[32];
    store_fp16(out, round_symmetric(w + b, 8, q));
    pack_nibbles(q, out + 2);
  }
}

void Q4_1::encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t b = 0; b < cols; b += 32, out += kBlockBytes) {
    int q[32];
    const Line line = round_affine(w + b, 15, q);
    store_fp16(out, line.d);
    store_fp16(out + 2, line.m);
    pack_nibbles(q, out + 4);
  }
}

void Q5_0::encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t b = 0; b < cols; b += 32, out += kBlockBytes) {
    int q[32];
    store_fp16(out, round_symmetric(w + b, 16, q));
    pack_fifth_bits(q, out + 2);
    pack_nibbles(q, out + 6);
  }
}

void Q5_1::encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t b = 0; b < cols; b += 32, out += kBlockBytes) {
    int q[32];
    const Line line = round_affine(w + b, 31, q);
    store_fp16(out, line.d);
    store_fp16(out + 2, line.m);
    pack_fifth_bits(q, out + 4);
    pack_nibbles(q, out + 8);
  }
}

void Q8_0::encode_row(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t b = 0; b < cols; b += 32, out += kBlockBytes) {
    float largest = 0;
    for (int i = 0; i < 32; ++i) largest = std::fmax(largest, std::fabs(w[b + i]));
    const float d = largest / 127.0f;
    const float inverse = reciprocal(d);
    store_fp16(out, d);
    for (int i = 0; i < 32; ++i) out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::roundf(w[b + i] * inverse)));
  }
}

}  // namespace hrun
