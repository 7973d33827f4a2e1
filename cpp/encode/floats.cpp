// F32, F16, BF16: conversion alone.
#include "formats/floats.h"

#include <cstring>

#include "encode/encoders.h"

namespace hrun {

void encode_f32(const float* w, const float*, int64_t cols, uint8_t* out) {
  memcpy(out, w, static_cast<size_t>(cols) * sizeof(float));
}

void encode_f16(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t i = 0; i < cols; ++i) store_fp16(out + 2 * i, w[i]);
}

void encode_bf16(const float* w, const float*, int64_t cols, uint8_t* out) {
  for (int64_t i = 0; i < cols; ++i) {
    const uint16_t b = fp32_to_bf16(w[i]);
    out[2 * i] = static_cast<uint8_t>(b);
    out[2 * i + 1] = static_cast<uint8_t>(b >> 8);
  }
}

}  // namespace hrun
