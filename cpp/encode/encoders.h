// The encoders: how rows of weights become the blocks of a format.
//
// To add one: a function EncodeRow in a .cpp of this room, its declaration and its row in
// encoders.cpp.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "formats/format.h"

namespace hrun {

struct TrellisCode;  // trellis.h

// weights: `cols` finite floats in the original basis (a rotated format rotates them itself), of
// magnitude at most Encoder::max_weight; importance: E[x^2] per column, finite and not negative, or
// null; out: row_bytes(cols) bytes.
using EncodeRow = void(const float* weights, const float* importance, int64_t cols, uint8_t* out);

struct Encoder {
  FormatId format;
  EncodeRow* encode_row;
  float max_weight = 65504;  // beyond it, fp16 values or scales would overflow
  // Set for trellis formats, which can be encoded against second moments (ldlq.h).
  const TrellisCode& (*trellis)() = nullptr;
};

std::span<const Encoder> encoders();
const Encoder* find_encoder(FormatId id);  // null if hrun reads the format but does not write it
std::string encoder_names();               // "f32, f16, ..." for messages

// By family.
EncodeRow encode_f32, encode_f16, encode_bf16;                              // floats.cpp
EncodeRow encode_q4_0, encode_q4_1, encode_q5_0, encode_q5_1, encode_q8_0;  // legacy.cpp
EncodeRow encode_q2_k, encode_q3_k, encode_q4_k, encode_q5_k, encode_q6_k;  // k_quants.cpp
EncodeRow encode_iq4_nl, encode_iq4_xs;                                     // iq4.cpp
EncodeRow encode_iq3_xxs, encode_iq3_s, encode_itq3_s;                      // iq3.cpp
EncodeRow encode_rtq2, encode_rtq3, encode_rtq4, encode_rtq5, encode_rtq6;  // rtq.cpp
const TrellisCode& rtq2_trellis();
const TrellisCode& rtq3_trellis();
const TrellisCode& rtq4_trellis();
const TrellisCode& rtq5_trellis();
const TrellisCode& rtq6_trellis();

}  // namespace hrun
