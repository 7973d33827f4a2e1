// Compiled once per CPU tier (tiers.cmake), with HRUN_TIER naming the one function it exports.
//
// Everything else here has internal linkage or is always inlined: a weak symbol would let the
// linker keep the copy of the highest tier for every CPU.  tests/cpu/test_tier_symbols.py
// looks for them.
#include "cpu/kernels/attention_coded.h"
#include "cpu/kernels/cache_encode.h"
#include "cpu/kernels/decode.h"
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/matmul_panels.h"
#include "cpu/kernel_table.h"
#include "cpu/kernels/matmul_float.h"
#include "cpu/kernels/matmul_int.h"
#include "cpu/kernels/quantize.h"
#include "cpu/kernels/recurrent.h"

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

constexpr KernelTable kTable = {
    .formats = FormatTable<Formats>::kEntries,
    .rotate_block = rotate_block_kernel,
    .quantize_block = quantize_block_kernel,
    .quantize_packed = quantize_packed_kernel,
    .matmul_decoded = matmul_decoded_kernel,
    .norm_inverse = norm_inverse_kernel,
    .rms_norm = rms_norm_kernel,
    .rope = rope_kernel,
    .to_fp16 = to_fp16_kernel,
    .attention = find_attention,
    .join_attention = join_attention_kernel,
    .prepare_coded_queries = prepare_coded_queries_kernel,
    .attention_coded = attention_coded_kernel,
    .join_attention_coded = join_attention_coded_kernel,
    .code_block = code_block_kernel,
    .layer_norm = layer_norm_kernel,
    .gated = gated_kernel,
    .nonlinearity = nonlinearity_kernel,
    .xielu = xielu_kernel,
    .scale = scale_kernel,
    .soft_cap = soft_cap_kernel,
    .add_scaled = add_scaled_kernel,
    .silu_mul = silu_mul_kernel,
    .add = add_kernel,
    .exp = exp_kernel,
    .short_conv = short_conv_kernel,
    .delta_rule = delta_rule_kernel,
    .ssm_scan = ssm_scan_kernel,
    .l2_norm = l2_norm_kernel,
    .decay = decay_kernel,
    .read_memory = read_memory_kernel,
#if defined(__AMX_INT8__)
    .multiply_registers = multiply_tiles_kernel,
    .self_check = tiles_compute_right,
#else
    .multiply_registers = multiply_registers_kernel,
    .self_check = nullptr,
#endif
};

}  // namespace

const KernelTable& HRUN_TIER();
const KernelTable& HRUN_TIER() { return kTable; }

}  // namespace hrun
