// Compiled once per CPU tier (tiers.cmake), with HRUN_TIER naming the function it exports.
//
// Everything else here has internal linkage or is always inlined: a weak symbol would let the
// linker keep the copy of the highest tier for every CPU.  tests/cpu/test_tier_symbols.py
// looks for them.
#include "cpu/kernels/decode.h"
#include "cpu/kernels/matmul_float.h"
#include "cpu/kernels/matmul_int.h"
#include "cpu/kernels/matmul_panels.h"
#include "cpu/kernels/quantize.h"
#include "cpu/kernels/tier_name.h"
#include "cpu/matrix_kernels.h"

namespace hrun {
namespace {

template <AnyFormat F>
constexpr FormatKernels format_kernels() {
  FormatKernels k{};
  k.decode_row = decode_row_kernel<F>;
  if constexpr (QuantizedFormat<F>) k.matmul_int = matmul_int_kernel<F>;
  if constexpr (FloatFormat<F>) k.matmul_float = matmul_float_kernel<F>;
  if constexpr (kHasPackedKernels)
    if constexpr (PackableFormat<F>) {
      k.packed_panel_bytes = [](int64_t cols) { return PanelLayout<F>::panel_bytes(cols); };
      k.pack_panel = pack_panel_kernel<F>;
      k.matmul_packed = matmul_packed_kernel<typename PanelsOf<F>::Format>;
    }
  return k;
}

template <class List>
struct FormatTable;
template <AnyFormat... F>
struct FormatTable<FormatList<F...>> {
  static constexpr FormatKernels kEntries[] = {format_kernels<F>()...};
};

constexpr MatrixKernels kTable = {
    .formats = FormatTable<Formats>::kEntries,
    .rotate_block = rotate_block_kernel,
    .quantize_block = quantize_block_kernel,
    .quantize_packed = quantize_packed_kernel,
    .matmul_decoded = matmul_decoded_kernel,
#if defined(__AMX_INT8__)
    .multiply_registers = multiply_tiles_kernel,
    .self_check = tiles_compute_right,
#else
    .multiply_registers = multiply_registers_kernel,
    .self_check = nullptr,
#endif
};

}  // namespace

const MatrixKernels& HRUN_TIER_PART(matrices)();
const MatrixKernels& HRUN_TIER_PART(matrices)() { return kTable; }

}  // namespace hrun
