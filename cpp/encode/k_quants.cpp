// Encoders of the k-quants: a least-squares search for the integer view, then packing.
#include "formats/k_quants.h"

#include <cstring>

#include "encode/encoders.h"
#include "encode/scale_search.h"

namespace hrun {
namespace {

using search::Encoded;
using search::Target;

void or_into(uint8_t& byte, int bits) { byte = static_cast<uint8_t>(byte | bits); }

// The inverses of the functions in k_quants.h; planes are or-ed into bytes that start as zeros.
void pack_pairs(const std::array<int8_t, 256>& q, uint8_t* bytes) {
  for (size_t i = 0; i < 256; ++i)
    or_into(bytes[32 * (i / 128) + i % 32], (q[i] & 3) << (2 * (i / 32 % 4)));
}

void pack_halves(const std::array<int8_t, 256>& q, uint8_t* bytes) {
  for (size_t i = 0; i < 256; ++i)
    or_into(bytes[32 * (i / 64) + i % 32], (q[i] & 15) << (4 * (i / 32 % 2)));
}

void pack_top_bits(const std::array<int8_t, 256>& q, int shift, uint8_t* bytes) {
  for (size_t i = 0; i < 256; ++i) or_into(bytes[i % 32], (q[i] >> shift) << (i / 32));
}

void pack_scales_and_minima(const int* scale, const int* minimum, uint8_t* bytes) {
  for (int k = 0; k < 4; ++k) {
    bytes[k] = static_cast<uint8_t>(scale[k] | ((scale[4 + k] >> 4) << 6));
    bytes[4 + k] = static_cast<uint8_t>(minimum[k] | ((minimum[4 + k] >> 4) << 6));
    bytes[8 + k] = static_cast<uint8_t>((scale[4 + k] & 15) | ((minimum[4 + k] & 15) << 4));
  }
}

// Calls pack(view, block) for each block of a row; `encode` is the search.
template <size_t kBytes, class Search, class Pack>
void encode_blocks(const float* w, const float* importance, int64_t cols, uint8_t* out,
                   Search encode, Pack pack) {
  Encoded view;
  for (int64_t b = 0; b < cols; b += 256, out += kBytes) {
    encode(Target(w + b, importance ? importance + b : nullptr, 256), view);
    memset(out, 0, kBytes);
    pack(view, out);
  }
}

}  // namespace

void encode_q2_k(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<Q2_K::kBlockBytes>(
      w, importance, cols, out, search::affine<3, 15, 16>, [](const Encoded& v, uint8_t* block) {
        for (size_t g = 0; g < 16; ++g)
          block[g] = static_cast<uint8_t>(v.group_scale[g] | (v.group_offset[g] << 4));
        pack_pairs(v.codes, block + 16);
        store_fp16(block + 80, v.scale);
        store_fp16(block + 82, v.offset);
      });
}

void encode_q3_k(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<Q3_K::kBlockBytes>(
      w, importance, cols, out,
      search::scaled<search::IntegerLevels<-4, 3>, search::ScaleSet<-32, 31, 1>, 16>,
      [](const Encoded& v, uint8_t* block) {
        std::array<int8_t, 256> q;
        for (size_t i = 0; i < 256; ++i) q[i] = static_cast<int8_t>(v.codes[i] + 4);
        pack_top_bits(q, 2, block);
        pack_pairs(q, block + 32);
        for (size_t g = 0; g < 16; ++g) {
          const int s = v.group_scale[g] + 32;
          or_into(block[96 + g % 8], (s & 15) << (4 * (g / 8)));
          or_into(block[104 + g % 4], (s >> 4) << (2 * (g / 4)));
        }
        store_fp16(block + 108, v.scale);
      });
}

void encode_q4_k(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<Q4_K::kBlockBytes>(
      w, importance, cols, out, search::affine<15, 63, 32>, [](const Encoded& v, uint8_t* block) {
        store_fp16(block, v.scale);
        store_fp16(block + 2, v.offset);
        pack_scales_and_minima(v.group_scale.data(), v.group_offset.data(), block + 4);
        pack_halves(v.codes, block + 16);
      });
}

void encode_q5_k(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<Q5_K::kBlockBytes>(
      w, importance, cols, out, search::affine<31, 63, 32>, [](const Encoded& v, uint8_t* block) {
        store_fp16(block, v.scale);
        store_fp16(block + 2, v.offset);
        pack_scales_and_minima(v.group_scale.data(), v.group_offset.data(), block + 4);
        pack_top_bits(v.codes, 4, block + 16);
        pack_halves(v.codes, block + 48);
      });
}

void encode_q6_k(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<Q6_K::kBlockBytes>(
      w, importance, cols, out,
      search::scaled<search::IntegerLevels<-32, 31>, search::ScaleSet<-128, 127, 1>, 16>,
      [](const Encoded& v, uint8_t* block) {
        std::array<int8_t, 256> high;
        for (size_t i = 0; i < 256; ++i) {
          const int q = v.codes[i] + 32;
          or_into(block[64 * (i / 128) + i % 64], (q & 15) << (4 * (i / 64 % 2)));
          high[i] = static_cast<int8_t>(q >> 4);
        }
        pack_pairs(high, block + 128);
        for (size_t g = 0; g < 16; ++g) block[192 + g] = static_cast<uint8_t>(v.group_scale[g]);
        store_fp16(block + 208, v.scale);
      });
}

}  // namespace hrun
