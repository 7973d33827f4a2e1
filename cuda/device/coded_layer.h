// A layer of a coded cache on the device: its part of the pages and of the data beside them.
#pragma once

#include "cuda/device/cache_codes.h"
#include "cuda/kernels/attention.h"

namespace hrun::gpu {

HRUN_HD float plain_value(const uint8_t* p, CacheType type, int64_t i) {
  return type == CacheType::f32 ? reinterpret_cast<const float*>(p)[i]
                                : low_half(reinterpret_cast<const uint16_t*>(p)[i]);
}
HRUN_HD int64_t plain_bytes(CacheType type, int64_t values) {
  return values * (type == CacheType::f32 ? 4 : 2);
}

// A rotary embedding, as far as codes need it; n_rot 0: none.
struct TurnOfKeys {
  const float *cos = nullptr, *sin = nullptr, *block_cos = nullptr, *block_sin = nullptr;
  int n_rot = 0, first = 0;
  bool interleaved = false;

  // The pair of a dimension that is turned: its number, the other dimension, and whether it is the
  // first of the two.
  struct Pair {
    int number, other;
    bool is_first;
  };
  HRUN_HD bool turns(int i) const { return i >= first && i < first + n_rot; }
  HRUN_HD Pair pair_of(int i) const {
    const int at = i - first, half = n_rot / 2;
    if (interleaved) return {at / 2, first + (at ^ 1), at % 2 == 0};
    return {at % half, first + (at < half ? at + half : at - half), at < half};
  }
  // A dimension of the mean of keys, turned by the positions of a block.
  HRUN_HD float centre(const float* mean, int64_t block, int i) const {
    if (!turns(i)) return mean[i];
    const Pair pair = pair_of(i);
    const int64_t at = block * (n_rot / 2) + pair.number;
    const float c = block_cos[at], s = block_sin[at];
    return pair.is_first ? c * mean[i] - s * mean[pair.other] : s * mean[pair.other] + c * mean[i];
  }
};
inline TurnOfKeys turn_of_keys(const Rope* rope) {
  if (!rope) return {};
  return {rope->cos,
          rope->sin,
          rope->block_cos,
          rope->block_sin,
          rope->n_rot,
          rope->first,
          rope->style == RopeStyle::interleaved};
}

// The data with which the codes of a sequence are read, for one head.
struct BeginningOfKeys {
  float *mean, *balance;
  uint8_t *exact_keys, *exact_values;
};

struct CodedPlace {
  KVPages cache;

  HRUN_HD uint8_t* key_rows(int32_t page, int head) const {
    return cache.coded.beside[page].rows + cache.coded.k_rows +
           plain_bytes(cache.k_type, int64_t{head} * kBlockPositions * cache.k_dim);
  }
  HRUN_HD uint8_t* value_rows(int32_t page, int head) const {
    return cache.coded.beside[page].rows + cache.coded.v_rows +
           plain_bytes(cache.v_type, int64_t{head} * kBlockPositions * cache.v_dim);
  }
  HRUN_HD float* squares(int32_t page, int head) const {
    return reinterpret_cast<float*>(cache.coded.beside[page].squares + cache.coded.squares) +
           int64_t{head} * kBlockPositions * cache.k_dim;
  }
  HRUN_HD BeginningOfKeys beginning(int32_t page, int head) const {
    uint8_t* const at = cache.coded.beside[page].beginning + cache.coded.beginning +
                        head * cache.coded.beginning_bytes;
    auto* const mean = reinterpret_cast<float*>(at);
    auto* const exact = reinterpret_cast<uint8_t*>(mean + 2 * cache.k_dim);
    return {mean, mean + cache.k_dim, exact,
            exact + plain_bytes(cache.k_type, kExactPositions * cache.k_dim)};
  }
  static HRUN_HD int64_t block_bytes(CacheType type, int dim) {
    return is_coded(type) ? CodedBlock{type, dim}.bytes()
                          : plain_bytes(type, int64_t{kBlockPositions} * dim);
  }
  HRUN_HD CodedBlock keys() const { return {cache.k_type, cache.k_coded()}; }
  HRUN_HD uint8_t* key_block(int32_t page, int head) const {
    const int64_t bytes =
        is_coded(cache.k_type)
            ? keys().bytes() + plain_bytes(cache.k_type, int64_t{kBlockPositions} * cache.k_plain)
            : plain_bytes(cache.k_type, int64_t{kBlockPositions} * cache.k_dim);
    return static_cast<uint8_t*>(cache.k) + page * cache.page_bytes + head * bytes;
  }
  HRUN_HD uint8_t* value_block(int32_t page, int head) const {
    return static_cast<uint8_t*>(cache.v) + page * cache.page_bytes +
           head * block_bytes(cache.v_type, cache.v_dim);
  }
};

}  // namespace hrun::gpu
