// Encoders of the 32-wide formats.  Without importance they round as GGML's reference encoders do,
// bit for bit; with it, the 4- and 5-bit ones search for the scale that fits best.  Q8_0 is so fine
// that importance does not matter.
#include "formats/legacy.h"

#include <algorithm>
#include <cmath>

#include "encode/encoders.h"
#include "encode/scale_search.h"

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
  for (int i = 0; i < 16; ++i)
    bytes[i] = static_cast<uint8_t>((q[i] & 15) | ((q[i + 16] & 15) << 4));
}

void pack_fifth_bits(const int* q, uint8_t* bytes) {
  for (int k = 0; k < 4; ++k) {
    int byte = 0;
    for (int i = 0; i < 8; ++i) byte |= (q[8 * k + i] >> 4) << i;
    bytes[k] = static_cast<uint8_t>(byte);
  }
}

// d = -(the value of largest magnitude) / half: that value gets code 0, which reaches one step
// further than the highest.
float round_symmetric(const float* w, int half, int* q) {
  float largest = w[0];
  for (int i = 1; i < 32; ++i)
    if (std::fabs(w[i]) > std::fabs(largest)) largest = w[i];
  const float d = largest / static_cast<float>(-half);
  const float inverse = reciprocal(d);
  for (int i = 0; i < 32; ++i)
    q[i] = truncate_to(w[i] * inverse + (static_cast<float>(half) + 0.5f), 2 * half - 1);
  return d;
}

// d = range / highest, m = the lowest value.
search::Line round_affine(const float* w, int highest, int* q) {
  float low = w[0], high = w[0];
  for (int i = 1; i < 32; ++i) {
    low = std::fmin(low, w[i]);
    high = std::fmax(high, w[i]);
  }
  const float d = (high - low) / static_cast<float>(highest);
  const float inverse = reciprocal(d);
  for (int i = 0; i < 32; ++i) q[i] = truncate_to((w[i] - low) * inverse + 0.5f, highest);
  return {d, -low};
}

// Codes 0 ... 2 half - 1 and the scale of one block: weight = scale * (q - half).
template <int kHalf>
float encode_symmetric(const float* w, const float* importance, int* q) {
  if (!importance) return round_symmetric(w, kHalf, q);
  search::Encoded view;
  search::single<search::IntegerLevels<-kHalf, kHalf - 1>, 32>(search::Target(w, importance, 32),
                                                               view);
  for (size_t i = 0; i < 32; ++i) q[i] = view.codes[i] + kHalf;
  return view.scale;
}

// Codes 0 ... kHighest and the line of one block: weight = scale * q - offset.
template <int kHighest>
search::Line encode_affine(const float* w, const float* importance, int* q) {
  if (!importance) return round_affine(w, kHighest, q);
  search::Encoded view;
  search::single_line<kHighest, 32>(search::Target(w, importance, 32), view);
  for (size_t i = 0; i < 32; ++i) q[i] = view.codes[i];
  return {view.scale, view.offset};
}

// Calls encode(weights, importance, block) for each block of a row.
template <size_t kBytes, class Encode>
void for_each_block(const float* w, const float* importance, int64_t cols, uint8_t* out,
                    Encode encode) {
  for (int64_t b = 0; b < cols; b += 32, out += kBytes)
    encode(w + b, importance ? importance + b : nullptr, out);
}

}  // namespace

void encode_q4_0(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  for_each_block<Q4_0::kBlockBytes>(w, importance, cols, out,
                                    [](const float* x, const float* imp, uint8_t* block) {
                                      int q[32];
                                      store_fp16(block, encode_symmetric<8>(x, imp, q));
                                      pack_nibbles(q, block + 2);
                                    });
}

void encode_q4_1(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  for_each_block<Q4_1::kBlockBytes>(w, importance, cols, out,
                                    [](const float* x, const float* imp, uint8_t* block) {
                                      int q[32];
                                      const search::Line line = encode_affine<15>(x, imp, q);
                                      store_fp16(block, line.scale);
                                      store_fp16(block + 2, -line.offset);
                                      pack_nibbles(q, block + 4);
                                    });
}

void encode_q5_0(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  for_each_block<Q5_0::kBlockBytes>(w, importance, cols, out,
                                    [](const float* x, const float* imp, uint8_t* block) {
                                      int q[32];
                                      store_fp16(block, encode_symmetric<16>(x, imp, q));
                                      pack_fifth_bits(q, block + 2);
                                      pack_nibbles(q, block + 6);
                                    });
}

void encode_q5_1(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  for_each_block<Q5_1::kBlockBytes>(w, importance, cols, out,
                                    [](const float* x, const float* imp, uint8_t* block) {
                                      int q[32];
                                      const search::Line line = encode_affine<31>(x, imp, q);
                                      store_fp16(block, line.scale);
                                      store_fp16(block + 2, -line.offset);
                                      pack_fifth_bits(q, block + 4);
                                      pack_nibbles(q, block + 8);
                                    });
}

void encode_q8_0(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t b = 0; b < cols; b += 32, out += Q8_0::kBlockBytes) {
    float largest = 0;
    for (int i = 0; i < 32; ++i) largest = std::fmax(largest, std::fabs(w[b + i]));
    const float d = largest / 127.0f;
    const float inverse = reciprocal(d);
    store_fp16(out, d);
    for (int i = 0; i < 32; ++i)
      out[2 + i] = static_cast<uint8_t>(static_cast<int8_t>(std::roundf(w[b + i] * inverse)));
  }
}

}  // namespace hrun
