// Encoding of rows by a path search that carries the error feedback: minimises e H e^T
// (input_moments.h).
#pragma once

#include <cstdint>

#include "encode/input_moments.h"
#include "encode/trellis.h"

namespace hrun {

struct LdlqOptions {
  int survivors = 16;  // paths kept at each column; those that meet in a state are merged
  float scale = 1;     // of the blocks, in units of the one that suits a Gaussian block
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

// `rotated`: rows in the rotated basis, factor.cols() values each, a multiple of 32.  Writes the
// rows' blocks (trellis.h), one row after the other, and the cost of each row.  Deterministic, the
// same on every CPU, and the same for a row whatever rows are beside it.
void encode_trellis_rows_ldlq(const TrellisCode& code, const float* rotated, int64_t n_rows,
                              const InputFactor& factor, const LdlqOptions& options, uint8_t* out,
                              RowCost* costs);

}  // namespace hrun
