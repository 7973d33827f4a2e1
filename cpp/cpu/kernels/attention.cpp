// Compiled once per CPU tier, as matrices.cpp says.
#include "cpu/attention_kernels.h"
#include "cpu/kernels/attention_coded.h"
#include "cpu/kernels/cache_encode.h"
#include "cpu/kernels/tier_name.h"

namespace hrun {
namespace {

constexpr AttentionKernels kTable = {
    .attention = find_attention,
    .join_attention = join_attention_kernel,
    .prepare_coded_queries = prepare_coded_queries_kernel,
    .attention_coded = attention_coded_kernel,
    .join_attention_coded = join_attention_coded_kernel,
    .code_block = code_block_kernel,
};

}  // namespace

const AttentionKernels& HRUN_TIER_PART(attention)();
const AttentionKernels& HRUN_TIER_PART(attention)() { return kTable; }

}  // namespace hrun
