// The kernels of one CPU tier: what the three files in kernels/ export, once per
// tier, and what backend/ calls.
//
// A kernel works on one small piece (a panel of rows, one token) in one thread; splitting the work
// over threads and all checking is the backend's.  Numeric contract: DESIGN.md, "Numbers that do
// not move".
#pragma once

#include "cpu/attention_kernels.h"
#include "cpu/matrix_kernels.h"
#include "cpu/vector_kernels.h"

namespace hrun {

struct KernelTable : MatrixKernels, AttentionKernels, VectorKernels {};

}  // namespace hrun
