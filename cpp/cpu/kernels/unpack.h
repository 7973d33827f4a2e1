// Turns the bytes of a weight block into its integer view, as fast as the tier can.
//
// Unpack<F> is made once per kernel call, so a specialisation may keep tables in registers.  To
// make a format fast in a tier, specialise it in unpack_<instructions>.h; the bits are those of
// F::unpack, which the contract tests compare.
#pragma once

#include "cpu/lanes/lanes.h"

namespace hrun {
namespace {

template <QuantizedFormat F>
struct Unpack {
  HRUN_HD void operator()(const uint8_t* block, int n, IntBlock& out) const {
    F::unpack(block, n, out);
  }
};

}  // namespace
}  // namespace hrun

#if defined(__AVX512VBMI__) && defined(__AVX512VL__)
#include "cpu/kernels/unpack_avx512.h"
#elif defined(__AVX2__)
#include "cpu/kernels/unpack_avx2.h"
#endif
