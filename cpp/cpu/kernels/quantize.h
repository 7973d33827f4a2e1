// The rotation of formats/rotation.h in vector registers, and the int8 quantization of activations
// that follows it.
#pragma once

#include "cpu/matrix_kernels.h"
#include "cpu/lanes/math.h"
#include "formats/rotation.h"

namespace hrun {
namespace {

// Stages 1, 2, 4 and 8 run inside the registers, the others across them: this is the order of the
// reference.
template <int n>
HRUN_HD void fwht_fixed(float* x) {
  constexpr int kRegisters = n / kLanes;
  Lanes v[kRegisters];
#pragma GCC unroll 16
  for (int i = 0; i < kRegisters; ++i)
    v[i] = butterfly<8>(butterfly<4>(butterfly<2>(butterfly<1>(load(x + i * kLanes)))));
#pragma GCC unroll 4
  for (int half = 1; half < kRegisters; half *= 2)
#pragma GCC unroll 16
    for (int i = 0; i < kRegisters; ++i)
      if ((i & half) == 0) {
        const Lanes a = v[i], b = v[i + half];
        v[i] = add(a, b);
        v[i + half] = sub(a, b);
      }
  const Lanes scale = splat(fwht_scale(n));
#pragma GCC unroll 16
  for (int i = 0; i < kRegisters; ++i) store(x + i * kLanes, mul(v[i], scale));
}

HRUN_HD void fwht_pieces(float* x, int n) {
  for (int done = 0; done < n;) {
    const int piece = rotation_piece(n - done);
    if (piece == 256)
      fwht_fixed<256>(x + done);
    else if (piece == 128)
      fwht_fixed<128>(x + done);
    else if (piece == 64)
      fwht_fixed<64>(x + done);
    else
      fwht_fixed<32>(x + done);
    done += piece;
  }
}

HRUN_HD void apply_signs(float* x, const float* signs, int n) {
  for (int i = 0; i < n; i += kLanes) store(x + i, mul(load(x + i), load(signs + i)));
}

void rotate_block_kernel(float* x, int64_t first, int n, const float* signs, bool with_signs) {
  if (with_signs) apply_signs(x, signs + first, n);
  fwht_pieces(x, n);
}

HRUN_HD void unrotate_block(float* x, int64_t first, int n, const float* signs, bool with_signs) {
  fwht_pieces(x, n);
  if (with_signs) apply_signs(x, signs + first, n);
}

// The values of kLanes columns of token t, from column c on.
HRUN_HD Lanes source_lanes(const ActivationSource& from, int64_t t, int64_t c) {
  const Lanes x = load(from.x.row(t) + c);
  if (from.weight) return mul(mul(x, splat(from.inverse[t])), load(from.weight + c));
  if (from.gate.data) return mul(silu(load(from.gate.row(t) + c)), x);
  return x;
}

inline constexpr int kAhead = 768;  // floats between what is loaded and what is prefetched

// Loads block `block` of token t, rotated where the kind says so.  Returns its number of columns (a
// multiple of 32).
HRUN_HD int load_block(const ActivationSource& from, int64_t t, int64_t block, InputForm kind,
                       const float* signs, float* values) {
  const int block_values = input_form_columns(kind);
  const int64_t first = block * block_values;
  const int n =
      static_cast<int>(from.x.cols - first < block_values ? from.x.cols - first : block_values);
  const float *const x = from.x.row(t) + first, *const gate =
                                                    from.gate.data ? from.gate.row(t) + first : x;
  for (int i = 0; i < n; i += kLanes) {
    // When there are many tokens, these come from memory, and the processor's own prefetching ends
    // at each page.
    __builtin_prefetch(x + i + kAhead);
    __builtin_prefetch(gate + i + kAhead);
    const Lanes v = source_lanes(from, t, first + i);
    store(values + i, kind == InputForm::kRotatedSigned ? mul(v, load(signs + first + i)) : v);
  }
  if (is_rotated(kind)) fwht_pieces(values, n);
  return n;
}

// d = amax / 127, codes = x / d rounded half to even.
HRUN_HD void quantize(const float* x, int n, int8_t* codes, float* scale) {
  // Compared as integers, infinities and NaN are the largest magnitudes.
  IntLanes largest = splat_int(0);
  for (int i = 0; i < n; i += kLanes)
    largest = max(largest, bit_and(as_int(load(x + i)), splat_int(0x7fffffff)));
  const auto bits = static_cast<uint32_t>(reduce_max(largest));
  const bool finite = bits < 0x7f800000u;
  const float amax = bits_to_float(bits);
  float inverse = finite && bits != 0 ? 127.0f / amax : 0.0f;
  if (float_to_bits(inverse) == 0x7f800000u) inverse = 0.0f;  // amax is below 127 / FLT_MAX
  *scale = !finite ? bits_to_float(0x7fc00000u) : inverse != 0.0f ? amax / 127.0f : 0.0f;
  if (!finite) {
    memset(codes, 0, static_cast<size_t>(n));
    return;
  }
  // |x * inverse| <= 127 (1 + 2^-23), so no code leaves +-127.
  for (int i = 0; i < n; i += kLanes)
    store_int8(codes + i, round_to_int(mul(load(x + i), splat(inverse))));
}

HRUN_HD void sum_pairs(const int16_t* x, int n, int16_t* sums) {
  for (int i = 0; i < n; ++i) sums[i] = static_cast<int16_t>(x[2 * i] + x[2 * i + 1]);
}

void quantize_block_kernel(const ActivationSource& x, int64_t t, int64_t block, InputForm kind,
                           const float* signs, const QuantizedRows& to) {
  alignas(64) float values[kRotationBlock];
  alignas(64) int8_t codes[kRotationBlock];
  const int n = load_block(x, t, block, kind, signs, values);
  quantize(values, n, codes, to.scale + t * to.n_blocks + block);
  const int64_t first = block * input_form_columns(kind);
  for (int i = 0; i < n; i += kGroup) scale_codes(codes + i, 1, to.codes + t * to.cols + first + i);
  int16_t eights[kRotationBlock / 8];
  for (int i = 0; i < n; i += 32) sum_eights(codes + i, eights + i / 8);
  sum_pairs(eights, n / kGroup, to.sums + t * to.n_groups + first / kGroup);
}

// The signed rotation's formats are packed in the order `segments` (panels/layout.h), all others in
// the order `squares`.
void quantize_packed_kernel(const ActivationSource& x, int64_t t, int64_t block, InputForm kind,
                            const float* signs, const PackedActivations& to) {
  alignas(64) float values[kRotationBlock];
  alignas(64) int8_t codes[kRotationBlock];
  const int n = load_block(x, t, block, kind, signs, values);
  const bool segments = kind == InputForm::kRotatedSigned;
  const int64_t at = to.at(t, block);
  int8_t* const out = to.codes + at * input_form_columns(kind);
  quantize(values, n, codes, to.scale + at);
  if (segments)
    interleave_segments(codes, n / 4, out);
  else
    interleave_squares(codes, n, out);
  int16_t eights[kRotationBlock / 8] = {};
  for (int i = 0; i < n; i += 32) sum_eights(out + i, eights + i / 8);
  int32_t total = 0;
  for (int i = 0; i < n / 8; ++i) total += eights[i];
  to.block_sums[at] = total;
  if (segments || input_form_columns(kind) != kMaxBlock) return;
  int16_t *const sums8 = to.sums8 + at * 32, *const sums16 = to.sums16 + at * 16;
  memcpy(sums8, eights, sizeof eights);
  sum_pairs(sums8, 16, sums16);
  sum_pairs(sums16, 8, to.sums32 + at * 8);
}

}  // namespace
}  // namespace hrun
