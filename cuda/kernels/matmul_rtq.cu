#include "cuda/device/matmul_table.h"

namespace hrun::gpu {

const FastMatmul* find_rtq_matmul(FormatId format) {
  return find_in(FormatList<RTQ2, RTQ3, RTQ4, RTQ5, RTQ6>{}, format);
}

}  // namespace hrun::gpu
