// Compiled once per CPU tier, as matrices.cpp says.
#include "cpu/kernels/elementwise.h"
#include "cpu/kernels/recurrent.h"
#include "cpu/kernels/tier_name.h"
#include "cpu/vector_kernels.h"

namespace hrun {
namespace {

constexpr VectorKernels kTable = {
    .norm_inverse = norm_inverse_kernel,
    .rms_norm = rms_norm_kernel,
    .rope = rope_kernel,
    .to_fp16 = to_fp16_kernel,
    .layer_norm = layer_norm_kernel,
    .keep_above = keep_above_kernel,
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
    .wkv = wkv_kernel,
    .l2_norm = l2_norm_kernel,
    .decay = decay_kernel,
    .read_memory = read_memory_kernel,
};

}  // namespace

const VectorKernels& HRUN_TIER_PART(vectors)();
const VectorKernels& HRUN_TIER_PART(vectors)() { return kTable; }

}  // namespace hrun
