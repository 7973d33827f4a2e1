// Encoders of the k-quants: a least-squares search for the integer view, then packing.
#include "formats/k_quants.h"

#include <cstring>

#include "formats/scale_search.h"

namespace hrun {
namespace {

using search::Encoded;
using search::Target;

void or_into(uint8_t& byte, int bits) { byte = static_cast<uint8_t>(byte | bits); }

// The inverses of the unpackers in k_quants.h; `bytes` start as zeros.
void pack_pairs(const int* q, uint8_t* bytes) {
  for (int h = 0; h < 2; ++h)
    for (int k = 0; k < 4; ++k)
      for (int i = 0; i < 32; ++i) or_into(bytes[32 * h + i], (q[128 * h + 32 * k + i] & 3) << (2 * k));
}

void pack_halves(const int8_t* q, uint8_t* bytes) {
  for (int c = 0; c < 4; ++c)
    for (int i = 0; i < 32; ++i)
      bytes[32 * c + i] = static_cast<uint8_t>((q[64 * c + i] & 15) | ((q[64 * c + 32 + i] & 15) << 4));
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
void encode_blocks(const float* w, const float* importance, int64_t cols, uint8_t* out, Search encode, Pack pack) {
  Encoded view;
  for (int64_t b = 0; b < cols; b += 256, out += kBytes) {
    encode(Target(w + b, importance ? importance + b : nullptr, 256), view);
    memset(out, 0, kBytes);
    pack(view, out);
  }
}

}  // namespace

void Q2_K::encode_row(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<kBlockBytes>(w, importance, cols, out, search::affine<3, 15, 16>, [](const Encoded& v, uint8_t* block) {
    for (size_t g = 0; g < 16; ++g) block[g] = static_cast<uint8_t>(v.group_scale[g] | (v.group_offset[g] << 4));
    int q[256];
    std::copy_n(v.codes.begin(), 256, q);
    pack_pairs(q, block + 16);
    store_fp16(block + 80, v.scale);
    store_fp16(block + 82, v.offset);
  });
}

void Q3_K::encode_row(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<kBlockBytes>(
      w, importance, cols, out, search::scaled<search::IntegerLevels<-4, 3>, search::ScaleSet<-32, 31, 1>, 16>,
      [](const Encoded& v, uint8_t* block) {
        int q[256];
        for (size_t i = 0; i < 256; ++i) {
          q[i] = v.codes[i] + 4;
          or_into(block[i % 32], (q[i] >> 2) << (i / 32));
        }
        pack_pairs(q, block + 32);
        for (size_t g = 0; g < 16; ++g) {
          const int s = v.group_scale[g] + 32;
          or_into(block[96 + g % 8], (s & 15) << (4 * (g / 8)));
          or_into(block[104 + g % 4], (s >> 4) << (2 * (g / 4)));
        }
        store_fp16(block + 108, v.scale);
      });
}

void Q4_K::encode_row(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<kBlockBytes>(w, importance, cols, out, search::affine<15, 63, 32>, [](const Encoded& v, uint8_t* block) {
    store_fp16(block, v.scale);
    store_fp16(block + 2, v.offset);
    pack_scales_and_minima(v.group_scale.data(), v.group_offset.data(), block + 4);
    pack_halves(v.codes.data(), block + 16);
  });
}

void Q5_K::encode_row(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<kBlockBytes>(w, importance, cols, out, search::affine<31, 63, 32>, [](const Encoded& v, uint8_t* block) {
    store_fp16(block, v.scale);
    store_fp16(block + 2, v.offset);
    pack_scales_and_minima(v.group_scale.data(), v.group_offset.data(), block + 4);
    for (size_t i = 0; i < 256; ++i) or_into(block[16 + i % 32], (v.codes[i] >> 4) << (i / 32));
    pack_halves(v.codes.data(), block + 48);
  });
}

void Q6_K::encode_row(const float* w, const float* importance, int64_t cols, uint8_t* out) {
  encode_blocks<kBlockBytes>(
      w, importance, cols, out, search::scaled<search::IntegerLevels<-32, 31>, search::ScaleSet<-128, 127, 1>, 16>,
      [](const Encoded& v, uint8_t* block) {
        for (int h = 0; h < 2; ++h)
          for (int k = 0; k < 4; ++k)
            for (int i = 0; i < 32; ++i) {
              const int q = v.codes[static_cast<size_t>(128 * h + 32 * k + i)] + 32;
              or_into(block[64 * h + 32 * (k & 1) + i], (q & 15) << (4 * (k >> 1)));
              or_into(block[128 + 32 * h + i], (q >> 4) << (2 * k));
            }
        for (size_t g = 0; g < 16; ++g) block[192 + g] = static_cast<uint8_t>(v.group_scale[g]);
        store_fp16(block + 208, v.scale);
      });
}

}  // namespace hrun
