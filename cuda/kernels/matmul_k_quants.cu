#include "cuda/device/matmul_table.h"

namespace hrun::gpu {

const FastMatmul* find_k_quant_matmul(FormatId format) {
  return find_in(FormatList<Q3_K, Q4_K, Q5_K, Q6_K>{}, format);
}

}  // namespace hrun::gpu
