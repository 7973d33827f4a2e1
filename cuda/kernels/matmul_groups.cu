#include "cuda/device/matmul_table.h"

namespace hrun::gpu {

const FastMatmul* find_group_matmul(FormatId format) {
  return find_in(FormatList<ITQ3_S, IQ3_S, Q4_0, Q5_0, Q8_0>{}, format);
}

}  // namespace hrun::gpu
