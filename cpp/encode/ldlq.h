// Encoding of a row by a path search that carries the error feedback: minimises e H e^T
// (input_moments.h).
#pragma once

#include <cstdint>
#include <span>

#include "encode/input_moments.h"
#include "encode/trellis.h"

namespace hrun {

struct LdlqOptions {
  int survivors = 16;  // paths kept at each column; those that meet in a state are merged
  std::span<const float>
      scales;  // block scales that are tried, in units of the one that suits a Gaussian block
  int vector_bits =
      512;  // widest instructions to use, where the CPU has them; the result is the same
  int passes =
      1;  // searches of the row; from the second on, with the scales that fit the last best
};

// e H e^T and w H w^T of a row, with the damping in H.
struct RowCost {
  double error = 0;
  double energy = 0;
};

// `rotated`: one row in the rotated basis, factor.cols() values, a multiple of 32.  Writes the
// row's blocks (trellis.h).  Deterministic, and the same on every CPU.
RowCost encode_trellis_row_ldlq(const TrellisCode& code, const float* rotated,
                                const InputFactor& factor, const LdlqOptions& options,
                                uint8_t* out);

}  // namespace hrun
