// One weight row to floats, in the original basis or the format's own: embedding look-ups, and the
// two float ways of multiplying with a rotated format.
#pragma once

#include "cpu/kernels/quantize.h"
#include "cpu/kernels/unpack.h"

namespace hrun {
namespace {

template <AnyFormat F>
void decode_row_kernel(const uint8_t* row, int64_t cols, const float* signs, bool own_basis,
                       float* out) {
  if constexpr (FloatFormat<F>) {
    for_lanes(cols, [&](int64_t i, int n) {
      store_n(out + i, load_weights<F>(row + static_cast<size_t>(i) * F::kBlockBytes, n), n);
    });
  } else if constexpr (DecodedFormat<F>) {
    for (int64_t b = 0; b < n_blocks<F>(cols); ++b)
      F::decode(row + static_cast<size_t>(b) * F::kBlockBytes, out + b * F::kBlockValues);
  } else {
    const Unpack<F> unpack;
    const int64_t blocks = n_blocks<F>(cols);
    for (int64_t b = 0; b < blocks; ++b) {
      const int n = block_length<F>(cols, b);
      const int64_t first = b * F::kBlockValues;
      IntBlock ints;
      unpack(row + static_cast<size_t>(b) * F::kBlockBytes, n, ints);
      to_floats<F>(ints, n, out + first);
      if constexpr (is_rotated(F::kInputForm))
        if (!own_basis)
          unrotate_block(out + first, first, n, signs, F::kInputForm == InputForm::kRotatedSigned);
    }
  }
}

}  // namespace
}  // namespace hrun
