// y[t, r] = <x[t], w[r]> over packed panels (packed.h), AVX-512 with VBMI and VNNI.
//
// One decoder per kind of codes yields a unit of 32 columns of 16 rows as 8 vectors of unsigned bytes.  Up to 8 tokens, the
// vectors go straight from the decoder into the dot products: the weights are read once, at memory speed.  For more tokens
// a block of two panels is decoded into the first-level cache and multiplied tile by tile of 6 tokens.
//
// Uops on ports 0 and 5 per 512 weights, without the dot products (8 per token): rtq3 45, nibble 12, six 28, byte 0.
#pragma once

#include <immintrin.h>

#include "cpu/packed.h"
#include "cpu/rotate.h"
#include "cpu/simd.h"

namespace hrun {
namespace {

inline constexpr bool kHasPackedKernels = true;
inline constexpr int kStreamTokens = 8;   // at most, in the kernel that does not store decoded weights
inline constexpr int kTilePanels = kPackedPanels;
inline constexpr int kTileTokens = 6;

HRUN_HD __m512i load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
HRUN_HD __m512i table_of_64(const uint8_t (&bytes)[64]) { return _mm512_loadu_si512(bytes); }
// Bits of `a` where mask is 1, else of `b`.
HRUN_HD __m512i select(__m512i mask, __m512i a, __m512i b) { return _mm512_ternarylogic_epi32(mask, a, b, 0xca); }

template <class Rule>
HRUN_HD __m512i nibble_table() {
  alignas(64) uint8_t bytes[64];
  for (int i = 0; i < 64; ++i) bytes[i] = static_cast<uint8_t>(Rule::level(i & 15) + Rule::kBias);
  return table_of_64(bytes);
}

// Decoders: construct at the start of a block of n columns, then next() once per unit.
template <class F, PackedCodes codes = PackRule<F>::kCodes>
struct UnitDecoder;

template <class F>
struct UnitDecoder<F, PackedCodes::byte> {
  const uint8_t* unit;
  HRUN_HD UnitDecoder(const uint8_t* block, int) : unit(block) {}
  HRUN_HD void next(__m512i (&out)[kUnitVectors]) {
#pragma GCC unroll 8
    for (int i = 0; i < kUnitVectors; ++i) out[i] = load_bytes(unit + 64 * i);
    unit += 512;
  }
};

template <class F>
struct UnitDecoder<F, PackedCodes::nibble> {
  const uint8_t* unit;
  __m512i table = nibble_table<PackRule<F>>();  // of 64 entries: vpermb looks at 6 bits, the table ignores the upper two
  HRUN_HD UnitDecoder(const uint8_t* block, int) : unit(block) {}
  HRUN_HD void next(__m512i (&out)[kUnitVectors]) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      const __m512i both = load_bytes(unit + 64 * i);
      out[2 * i] = _mm512_permutexvar_epi8(both, table);
      out[2 * i + 1] = _mm512_permutexvar_epi8(_mm512_srli_epi16(both, 4), table);
    }
    unit += 256;
  }
};

template <class F>
struct UnitDecoder<F, PackedCodes::six> {
  const uint8_t* unit;
  HRUN_HD UnitDecoder(const uint8_t* block, int) : unit(block) {}
  HRUN_HD void next(__m512i (&out)[kUnitVectors]) {
    const __m512i low = _mm512_set1_epi8(0x0f), six = _mm512_set1_epi8(0x3f);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m512i high = load_bytes(unit + 256 + 64 * half);
      const __m512i a = load_bytes(unit + 128 * half), b = load_bytes(unit + 128 * half + 64);
      __m512i* const o = out + 4 * half;
      o[0] = _mm512_and_si512(select(low, a, _mm512_slli_epi16(high, 4)), six);
      o[1] = _mm512_and_si512(select(low, _mm512_srli_epi16(a, 4), _mm512_slli_epi16(high, 2)), six);
      o[2] = _mm512_and_si512(select(low, b, high), six);
      o[3] = _mm512_and_si512(select(low, _mm512_srli_epi16(b, 4), _mm512_srli_epi16(high, 2)), six);
    }
    unit += 384;
  }
};

// Weight s of a lane is T0[c_s ^ c_(s-3)] + T1[c_(s-1)] + T2[c_(s-2)].  Codes come in bytes of two, `even` = (c_2p, c_2p+1)
// in bits 0-2 and 3-5, and are also joined to `odd` = (c_2p-1, c_2p); then one table of 64 entries gives T1 + T2 of two
// neighbours, and even ^ (odd of the pair before) are the indices of T0 for both weights of the pair.
template <class F>
struct UnitDecoder<F, PackedCodes::rtq3> {
  const uint8_t* unit;
  __m512i newest_low, newest_high, earlier;  // T0 by bits 0-2, by bits 3-5; T1[bits 3-5] + T2[bits 0-2] + bias
  __m512i even, odd;                         // of the pair before

  static HRUN_HD __m512i join(__m512i before, __m512i now) {
    return select(_mm512_set1_epi8(7), _mm512_srli_epi16(before, 3), _mm512_slli_epi16(now, 3));
  }
  static HRUN_HD __m512i spare(__m512i a, __m512i b, __m512i c) {
    const __m512i ab = select(_mm512_set1_epi8(3), _mm512_srli_epi16(a, 6), _mm512_srli_epi16(b, 4));
    return select(_mm512_set1_epi8(15), ab, _mm512_srli_epi16(c, 2));
  }

  HRUN_HD UnitDecoder(const uint8_t* block, int n) : unit(block) {
    using Tables = typename F::Tables;
    alignas(64) uint8_t low[64], high[64], two[64];
    for (int i = 0; i < 64; ++i) {
      low[i] = static_cast<uint8_t>(Tables::entry(0, i & 7));
      high[i] = static_cast<uint8_t>(Tables::entry(0, i >> 3));
      two[i] = static_cast<uint8_t>(Tables::entry(1, i >> 3) + Tables::entry(2, i & 7) + PackRule<F>::kBias);
    }
    newest_low = table_of_64(low);
    newest_high = table_of_64(high);
    earlier = table_of_64(two);
    // Before a segment come the last codes of the segment before it, one byte lane down; before the first come zeros.
    const uint8_t* last = block + static_cast<size_t>(n / kUnit - 1) * 192;
    const __m512i a = load_bytes(last), b = load_bytes(last + 64), c = load_bytes(last + 128);
    const __m512i t = spare(a, b, c);
    const __m512i two_codes = _mm512_set1_epi8(0x3f);
    even = _mm512_slli_epi32(_mm512_and_si512(t, two_codes), 8);
    odd = _mm512_slli_epi32(_mm512_and_si512(join(c, t), two_codes), 8);
  }

  HRUN_HD void pair(__m512i now, __m512i& first, __m512i& second) {
    const __m512i newest = _mm512_xor_si512(now, odd);
    const __m512i joined = join(even, now);
    first = _mm512_add_epi8(_mm512_permutexvar_epi8(newest, newest_low), _mm512_permutexvar_epi8(even, earlier));
    second = _mm512_add_epi8(_mm512_permutexvar_epi8(newest, newest_high), _mm512_permutexvar_epi8(joined, earlier));
    even = now;
    odd = joined;
  }

  HRUN_HD void next(__m512i (&out)[kUnitVectors]) {
    const __m512i a = load_bytes(unit), b = load_bytes(unit + 64), c = load_bytes(unit + 128);
    pair(a, out[0], out[1]);
    pair(b, out[2], out[3]);
    pair(c, out[4], out[5]);
    pair(spare(a, b, c), out[6], out[7]);
    unit += 192;
  }
};

HRUN_HD __m512i broadcast_dword(const int8_t* p) {
  int32_t x;
  memcpy(&x, p, sizeof x);
  return _mm512_set1_epi32(x);
}

HRUN_HD __m512 load_halves(const uint8_t* p) { return _mm512_cvtph_ps(load_16_halves(p)); }

// Sum over groups of offset * sum of x, exact.
template <PackableFormat F>
HRUN_HD __m512i offset_sums(const uint8_t* meta, const PackedActivations& x, int64_t t, int64_t b) {
  using Layout = PanelLayout<F>;
  if constexpr (!Layout::kGroups) {
    return _mm512_set1_epi32(x.block_sums[t * x.n_blocks + b]);
  } else {
    const int16_t* sums = Layout::kScaleColumns == 32 ? x.sums32 + t * x.n_units + b * Layout::kGroupCount
                                                      : x.sums16 + t * 2 * x.n_units + b * Layout::kGroupCount;
    __m512i total = _mm512_setzero_si512();
    for (int g = 0; g < Layout::kGroupCount; g += 2) {
      const auto* offsets = reinterpret_cast<const __m256i*>(meta + Layout::kGroupOffsetAt + g * kPanelRows);
      int32_t pair;
      memcpy(&pair, sums + g, sizeof pair);
      total = _mm512_dpwssd_epi32(total, _mm512_cvtepu8_epi16(_mm256_loadu_si256(offsets)), _mm512_set1_epi32(pair));
    }
    return total;
  }
}

// What the biased dot products of a block (or group) start from: -bias * sum of x.
template <PackableFormat F>
HRUN_HD __m512i start_of_group(const PackedActivations& x, int64_t t, int64_t b, int g) {
  using Layout = PanelLayout<F>;
  constexpr int kBias = PackRule<F>::kBias;
  if constexpr (kBias == 0) return _mm512_setzero_si512();
  int32_t sum;
  if constexpr (!Layout::kGroups) sum = x.block_sums[t * x.n_blocks + b];
  else if constexpr (Layout::kScaleColumns == 32) sum = x.sums32[t * x.n_units + b * Layout::kGroupCount + g];
  else sum = x.sums16[t * 2 * x.n_units + b * Layout::kGroupCount + g];
  return _mm512_set1_epi32(-kBias * sum);
}

HRUN_HD __m512i group_scale(const uint8_t* group_scales, int g) {
  return _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(group_scales + g * kPanelRows)));
}

// total = the running sum after block b: one or two fma, as the numeric contract has it.
template <PackableFormat F>
HRUN_HD __m512 add_block_sum(__m512 total, __m512i isum, const uint8_t* meta, const PackedActivations& x, int64_t t, int64_t b) {
  using Layout = PanelLayout<F>;
  const __m512 dx = _mm512_set1_ps(x.scale[t * x.n_blocks + b]);
  total = _mm512_fmadd_ps(_mm512_mul_ps(load_halves(meta), dx), _mm512_cvtepi32_ps(isum), total);
  if constexpr (F::kHasOffset) {
    const __m512 minus = _mm512_sub_ps(_mm512_setzero_ps(), _mm512_mul_ps(load_halves(meta + Layout::kOffsetAt), dx));
    total = _mm512_fmadd_ps(minus, _mm512_cvtepi32_ps(offset_sums<F>(meta, x, t, b)), total);
  }
  return total;
}

// One panel, kTokens tokens from t on (those beyond x.n_tokens repeat the last and are thrown away).
template <PackableFormat F, int kTokens>
HRUN_HD void stream_panel(const uint8_t* panel, int64_t cols, const PackedActivations& x, int n_tokens, float* y,
                          int64_t y_stride, int n_rows) {
  using Layout = PanelLayout<F>;
  constexpr int kChains = kTokens == 1 ? 4 : kTokens == 2 ? 2 : 1;
  constexpr int kVectorsPerGroup = Layout::kScaleColumns == 16 ? 4 : 8;
  int64_t token[kTokens];
  __m512 total[kTokens];
#pragma GCC unroll 8
  for (int t = 0; t < kTokens; ++t) {
    token[t] = t < n_tokens ? t : n_tokens - 1;
    total[t] = _mm512_setzero_ps();
  }
  const uint8_t* codes = panel + Layout::codes_at(cols);
  for (int64_t b = 0; b < n_blocks<F>(cols); ++b) {
    const int n = block_length<F>(cols, b);
    const uint8_t* meta = panel + static_cast<size_t>(b) * Layout::kMetaBytes;
    UnitDecoder<F> decoder(codes, n);
    __m512i acc[kTokens][kChains], isum[kTokens];
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      isum[t] = _mm512_setzero_si512();
#pragma GCC unroll 4
      for (int c = 0; c < kChains; ++c) acc[t][c] = c == 0 && !Layout::kGroups ? start_of_group<F>(x, token[t], b, 0) : isum[t];
    }
    for (int u = 0; u < n / kUnit; ++u) {
      __m512i w[kUnitVectors];
      decoder.next(w);
      _mm_prefetch(reinterpret_cast<const char*>(decoder.unit) + 1536, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(decoder.unit) + 1600, _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(decoder.unit) + 1664, _MM_HINT_T0);
#pragma GCC unroll 8
      for (int i = 0; i < kUnitVectors; ++i) {
#pragma GCC unroll 8
        for (int t = 0; t < kTokens; ++t) {
          if constexpr (Layout::kGroups) {
            if (i % kVectorsPerGroup == 0) {
              const int g = u * kUnitVectors / kVectorsPerGroup + i / kVectorsPerGroup;
              acc[t][0] = start_of_group<F>(x, token[t], b, g);
#pragma GCC unroll 4
              for (int c = 1; c < kChains; ++c) acc[t][c] = _mm512_setzero_si512();
            }
          }
          const int8_t* xs = x.codes + token[t] * x.stride + b * F::kBlockValues + u * kUnit + 4 * i;
          acc[t][i % kChains] = _mm512_dpbusd_epi32(acc[t][i % kChains], w[i], broadcast_dword(xs));
          if constexpr (Layout::kGroups) {
            if (i % kVectorsPerGroup == kVectorsPerGroup - 1) {
              const int g = u * kUnitVectors / kVectorsPerGroup + i / kVectorsPerGroup;
              __m512i sum = acc[t][0];
#pragma GCC unroll 4
              for (int c = 1; c < kChains; ++c) sum = _mm512_add_epi32(sum, acc[t][c]);
              isum[t] = _mm512_add_epi32(isum[t], _mm512_mullo_epi32(sum, group_scale(meta + Layout::kGroupScaleAt, g)));
            }
          }
        }
      }
    }
    codes += static_cast<size_t>(n / kUnit) * Layout::kUnitBytes;
#pragma GCC unroll 8
    for (int t = 0; t < kTokens; ++t) {
      if constexpr (!Layout::kGroups) {
        isum[t] = acc[t][0];
#pragma GCC unroll 4
        for (int c = 1; c < kChains; ++c) isum[t] = _mm512_add_epi32(isum[t], acc[t][c]);
      }
      total[t] = add_block_sum<F>(total[t], isum[t], meta, x, token[t], b);
    }
  }
  const auto rows = static_cast<__mmask16>((1u << n_rows) - 1);
  for (int t = 0; t < n_tokens; ++t) _mm512_mask_storeu_ps(y + t * y_stride, rows, total[t]);
}

template <PackableFormat F>
void stream_tokens(const uint8_t* panel, int64_t cols, const PackedActivations& x, float* y, int64_t y_stride, int n_rows) {
  const int n = static_cast<int>(x.n_tokens);
  if (n == 1) stream_panel<F, 1>(panel, cols, x, n, y, y_stride, n_rows);
  else if (n == 2) stream_panel<F, 2>(panel, cols, x, n, y, y_stride, n_rows);
  else if (n <= 4) stream_panel<F, 4>(panel, cols, x, n, y, y_stride, n_rows);
  else stream_panel<F, 8>(panel, cols, x, n, y, y_stride, n_rows);
}

// Block b of kTilePanels decoded panels times kTokens tokens from t on; acc: [token][panel][16].
template <PackableFormat F, int kTokens>
HRUN_HD void multiply_tile(const uint8_t* decoded, const uint8_t* const (&meta)[kTilePanels], int n,
                           const PackedActivations& x, int64_t t, int64_t b, float* acc) {
  using Layout = PanelLayout<F>;
  constexpr int kVectorsPerGroup = Layout::kScaleColumns / 4;
  __m512i isum[kTokens][kTilePanels], sum[kTokens][kTilePanels];
#pragma GCC unroll 8
  for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 2
    for (int p = 0; p < kTilePanels; ++p) isum[k][p] = _mm512_setzero_si512();
  const int8_t* xs = x.codes + t * x.stride + b * F::kBlockValues;
  const int vectors = n / 4;
  const uint8_t* w = decoded;
  for (int g = 0; g < (Layout::kGroups ? Layout::kGroupCount : 1); ++g) {
#pragma GCC unroll 8
    for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 2
      for (int p = 0; p < kTilePanels; ++p) sum[k][p] = start_of_group<F>(x, t + k, b, g);
    const int count = Layout::kGroups ? kVectorsPerGroup : vectors;
    for (int i = 0; i < count; ++i, xs += 4, w += 64 * kTilePanels) {
      __m512i weights[kTilePanels];
#pragma GCC unroll 2
      for (int p = 0; p < kTilePanels; ++p) weights[p] = load_bytes(w + 64 * p);
#pragma GCC unroll 8
      for (int k = 0; k < kTokens; ++k) {
        const __m512i four = broadcast_dword(xs + k * x.stride);
#pragma GCC unroll 2
        for (int p = 0; p < kTilePanels; ++p) sum[k][p] = _mm512_dpbusd_epi32(sum[k][p], weights[p], four);
      }
    }
    if constexpr (Layout::kGroups) {
#pragma GCC unroll 2
      for (int p = 0; p < kTilePanels; ++p) {
        const __m512i scale = group_scale(meta[p] + Layout::kGroupScaleAt, g);
#pragma GCC unroll 8
        for (int k = 0; k < kTokens; ++k) isum[k][p] = _mm512_add_epi32(isum[k][p], _mm512_mullo_epi32(sum[k][p], scale));
      }
    }
  }
#pragma GCC unroll 8
  for (int k = 0; k < kTokens; ++k)
#pragma GCC unroll 2
    for (int p = 0; p < kTilePanels; ++p) {
      float* const total = acc + ((t + k) * kTilePanels + p) * kPanelRows;
      _mm512_store_ps(total, add_block_sum<F>(_mm512_load_ps(total), Layout::kGroups ? isum[k][p] : sum[k][p], meta[p], x, t + k, b));
    }
}

template <PackableFormat F>
void multiply_tokens(const PackedWeights& w, int64_t first_panel, int n_panels, const PackedActivations& x, float* y,
                     int64_t y_stride, float* acc) {
  using Layout = PanelLayout<F>;
  memset(acc, 0, static_cast<size_t>(x.n_tokens) * kTilePanels * kPanelRows * sizeof(float));
  const uint8_t* panel[kTilePanels];
  for (int p = 0; p < kTilePanels; ++p)  // a lone last panel is multiplied twice and stored once
    panel[p] = w.data + static_cast<size_t>(first_panel + (p < n_panels ? p : 0)) * w.panel_bytes;
  alignas(64) uint8_t decoded[kTilePanels * kMaxBlock / 4 * 64];
  size_t codes_at = Layout::codes_at(w.cols);
  for (int64_t b = 0; b < n_blocks<F>(w.cols); ++b) {
    const int n = block_length<F>(w.cols, b);
    const uint8_t* meta[kTilePanels];
    for (int p = 0; p < kTilePanels; ++p) {
      meta[p] = panel[p] + static_cast<size_t>(b) * Layout::kMetaBytes;
      UnitDecoder<F> decoder(panel[p] + codes_at, n);
      for (int u = 0; u < n / kUnit; ++u) {
        __m512i vectors[kUnitVectors];
        decoder.next(vectors);
#pragma GCC unroll 8
        for (int i = 0; i < kUnitVectors; ++i)
          _mm512_store_si512(decoded + ((u * kUnitVectors + i) * kTilePanels + p) * 64, vectors[i]);
      }
    }
    codes_at += static_cast<size_t>(n / kUnit) * Layout::kUnitBytes;
    int64_t t = 0;
    for (; t + kTileTokens <= x.n_tokens; t += kTileTokens) multiply_tile<F, kTileTokens>(decoded, meta, n, x, t, b, acc);
    for (; t + 2 <= x.n_tokens; t += 2) multiply_tile<F, 2>(decoded, meta, n, x, t, b, acc);
    for (; t < x.n_tokens; ++t) multiply_tile<F, 1>(decoded, meta, n, x, t, b, acc);
  }
  for (int64_t t = 0; t < x.n_tokens; ++t)
    for (int p = 0; p < n_panels; ++p) {
      const int64_t row = (first_panel + p) * kPanelRows;
      const int64_t rows = w.rows - row < kPanelRows ? w.rows - row : kPanelRows;
      _mm512_mask_storeu_ps(y + t * y_stride + row, static_cast<__mmask16>((1u << rows) - 1),
                            _mm512_load_ps(acc + (t * kTilePanels + p) * kPanelRows));
    }
}

int64_t multiply_registers_kernel(int64_t iterations) {
  constexpr int kChains = 16;
  __m512i sums[kChains];
#pragma GCC unroll 16
  for (int i = 0; i < kChains; ++i) sums[i] = _mm512_set1_epi32(i);
  for (int64_t n = 0; n < iterations; ++n) {
    const __m512i x = _mm512_set1_epi32(static_cast<int>(n)), w = _mm512_set1_epi8(3);
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) sums[i] = _mm512_dpbusd_epi32(sums[i], w, x);
  }
  __m512i total = sums[0];
  for (int i = 1; i < kChains; ++i) total = _mm512_add_epi32(total, sums[i]);
  const volatile int32_t used = _mm512_reduce_add_epi32(total);
  (void)used;
  return iterations * kChains * 64 * 2;
}

// Panels first_panel .. first_panel + n_panels - 1 (at most kTilePanels) for all tokens.
template <PackableFormat F>
void matmul_packed_kernel(const PackedWeights& w, int64_t first_panel, int n_panels, const PackedActivations& x, float* y,
                          int64_t y_stride, float* scratch) {
  if (x.n_tokens > kStreamTokens) return multiply_tokens<F>(w, first_panel, n_panels, x, y, y_stride, scratch);
  for (int p = 0; p < n_panels; ++p) {
    const int64_t row = (first_panel + p) * kPanelRows;
    const int rows = static_cast<int>(w.rows - row < kPanelRows ? w.rows - row : kPanelRows);
    stream_tokens<F>(w.data + static_cast<size_t>(first_panel + p) * w.panel_bytes, w.cols, x, y + row, y_stride, rows);
  }
}

}  // namespace
}  // namespace hrun
